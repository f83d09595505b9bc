"""What stock clients were seen to do, for docs/clients.md."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest

from support.clients.cells import Showing

_PASSED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note whether the test itself passed."""
    report = yield
    if call.when == "call":
        item.stash[_PASSED] = report.passed
    return report


@pytest.fixture
def shows(request: pytest.FixtureRequest) -> Iterator[Showing]:
    """Say which client did what; once the test has passed, the page must say the same."""
    showing = Showing(f"{request.path.name}::{request.node.name}")
    yield showing
    if request.node.stash.get(_PASSED, False):
        showing.settle()
