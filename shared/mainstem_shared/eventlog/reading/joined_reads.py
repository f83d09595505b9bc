"""Joins reads of the same thing: callers that come while one is under way share the next one.

Never the one under way: it may have begun before what the caller has just done, and would not show it. So
any number of readers costs a run two reads at a time, and what is read is in memory twice at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


class JoinedReads:
    """Belongs to one event loop."""

    def __init__(self) -> None:
        self._running: dict[Hashable, asyncio.Task[Any]] = {}
        self._next: dict[Hashable, asyncio.Task[Any]] = {}

    async def read(self, key: Hashable, read: Callable[[], Awaitable[T]]) -> T:
        """Return what a `read` that begins after this call returns, or raise what it raises."""
        task = self._next.get(key)
        if task is None:
            task = self._next[key] = asyncio.create_task(self._after(key, self._running.get(key), read))
            task.add_done_callback(_retrieve_exception)
        return await asyncio.shield(task)  # one caller's end must not cancel it for the others

    async def _after(
        self, key: Hashable, before: asyncio.Task[Any] | None, read: Callable[[], Awaitable[T]]
    ) -> T:
        if before is not None:
            await asyncio.wait({before})
        task = self._running[key] = self._next.pop(key)
        try:
            return await read()
        finally:
            if self._running.get(key) is task:
                del self._running[key]


def _retrieve_exception(task: asyncio.Task[Any]) -> None:
    """Take note of a failure for which nobody waits any more."""
    if not task.cancelled():
        task.exception()
