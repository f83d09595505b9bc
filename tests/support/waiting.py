"""Waiting for a condition instead of sleeping and hoping. Every test that waits goes through here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

# Short enough not to add up over a suite, long enough not to starve what is waited for on two cores.
_FIRST_PAUSE_S = 0.005
_LONGEST_PAUSE_S = 0.1


class NotInTimeError(AssertionError):
    """The condition did not come true in time."""

    def __init__(self, description: str, timeout_s: float, last: object) -> None:
        super().__init__(f"waited {timeout_s:g} s for {description}; last value: {last!r}")


def wait_until(predicate: Callable[[], T], *, description: str, timeout_s: float = 10) -> T:
    """Call `predicate` until it returns something truthy, and return that.

    What the predicate raises ends the wait: a predicate that may meet errors handles them itself.
    """
    deadline = time.monotonic() + timeout_s
    pause = _FIRST_PAUSE_S
    while not (value := predicate()):
        if time.monotonic() >= deadline:
            raise NotInTimeError(description, timeout_s, value)
        time.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE_S)
    return value


async def wait_until_async(
    predicate: Callable[[], T | Awaitable[T]], *, description: str, timeout_s: float = 10
) -> T:
    """Do the same on the event loop; `predicate` may be a coroutine function."""
    value: object = None
    pause = _FIRST_PAUSE_S
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                result = predicate()
                value = await result if isinstance(result, Awaitable) else result
                if value:
                    return value  # type: ignore[return-value]
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, _LONGEST_PAUSE_S)
    except TimeoutError:
        raise NotInTimeError(description, timeout_s, value) from None
