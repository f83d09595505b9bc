"""A provider's calls have turns: when the next may be made is decided for the whole fleet.

The worker decides it with the store (`execution.provider_turns`); without a worker, as in tests of engines,
every call may be made at once.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from email.utils import parsedate_to_datetime
from typing import Any, Final, Protocol

from mainstem_shared import errors

BUSY: Final = frozenset({429, 503, 529})
"""Statuses whose Retry-After is about everybody's requests, not about this one."""


class Turn(Protocol):
    """The turn of one call."""

    def used(self, tokens: int | None) -> None:
        """State how many tokens the call used in the end; None: nobody counted them."""
        ...

    def not_made(self) -> None:
        """State that the call was not made."""
        ...


class Turns(Protocol):
    """Gives calls their turns."""

    def turn(self, *, provider: str | None, model: str, tokens: int) -> AbstractAsyncContextManager[Turn]:
        """Wait for a call's turn, then let the block make it. What it raises may shut the provider's pace.

        Raises:
            ProviderError: the provider wants to be left alone for longer than a call may wait.
        """
        ...


class NoTurn:
    """The turn of a call that need not wait."""

    def used(self, tokens: int | None) -> None:
        """Do nothing."""

    def not_made(self) -> None:
        """Do nothing."""


class NoTurns:
    """Every call may be made at once."""

    def turn(self, **_about: Any) -> AbstractAsyncContextManager[Turn]:
        """Return a turn that is now."""
        return contextlib.nullcontext(NoTurn())


def told_wait_s(error: BaseException) -> float | None:
    """Return for how long a provider wants to be left alone, by what a call of it raised."""
    cause: BaseException | None = error
    for _ in range(4):  # frameworks wrap what an SDK raised
        if cause is None:
            return None
        if (wait_s := _told_by(cause)) is not None:
            return wait_s
        cause = cause.__cause__ or cause.__context__
    return None


def _told_by(error: BaseException) -> float | None:
    if isinstance(error, errors.ProviderError):
        wait_s = error.fields.get("retry_after_s")
        return (
            float(wait_s) if error.fields.get("status") in BUSY and isinstance(wait_s, int | float) else None
        )
    if getattr(error, "status_code", None) not in BUSY:
        return None
    headers: Mapping[str, str] | None = getattr(getattr(error, "response", None), "headers", None)
    return None if headers is None else retry_after_s(headers)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Read Retry-After (RFC 9110, 10.2.3: seconds or a date) or OpenAI's finer `retry-after-ms`."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        with contextlib.suppress(ValueError):
            seconds = float(headers.get(name, "")) * unit_s
            if math.isfinite(seconds):
                return max(0.0, seconds)
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return max(0.0, parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - time.time())
    return None
