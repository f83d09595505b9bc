"""Hints name buckets that have due deliveries, so that a process's courier sends them at once.

`finish` and `pause` leave one, so that callbacks need not wait for a sweep; the sweeper leaves the others.
"""

from __future__ import annotations

import asyncio


class Hints:
    """A set of indexes that somebody should look into; where no courier runs, nobody does."""

    def __init__(self) -> None:
        self._indexes: set[str] = set()
        self._there = asyncio.Event()

    def add(self, *indexes: str) -> None:
        """Say that an index has deliveries that are due."""
        self._indexes.update(indexes)
        if indexes:
            self._there.set()

    async def take(self) -> list[str]:
        """Wait until there are any; returns them all."""
        await self._there.wait()
        self._there.clear()
        found, self._indexes = self._indexes, set()
        return list(found)
