"""Tests that mostly wait for processes of their own: those of a module run at once, each reports as itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest


class Together:
    """The tests of one module. Decorate them with it, and give the module the fixture `at_once`."""

    def __init__(self) -> None:
        self._checks: dict[str, Callable[[Any], None]] = {}

    def __call__(self, check: Callable[[Any], None]) -> Callable[..., None]:
        """Make a test of a function that takes what `at_once` is told to give it."""
        self._checks[check.__name__] = check

        def test(at_once: dict[str, Future[None]]) -> None:
            at_once[check.__name__].result()

        test.__name__, test.__doc__, test.__module__ = check.__name__, check.__doc__, check.__module__
        return test

    @contextlib.contextmanager
    def run(self, request: pytest.FixtureRequest, argument: Any) -> Iterator[dict[str, Future[None]]]:
        """Start those of them that pytest is to run; for the fixture `at_once`, whose scope is the module."""
        wanted = {item.name for item in request.session.items if item.path == request.path}
        checks = {name: check for name, check in self._checks.items() if name in wanted}
        with ThreadPoolExecutor(max(len(checks), 1)) as threads:
            yield {name: threads.submit(check, argument) for name, check in checks.items()}
