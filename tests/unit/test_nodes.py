"""Large commands wait in line for a connection: as long as the line moves, and no longer."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from mainstem_shared.store import connections, failures, nodes
from mainstem_shared.store.nodes import Node
from support.waiting import wait_until_async


class Moving(Node):
    """A node that has always served others since it was last asked."""

    looks = 0
    _numbers = itertools.count()

    @property
    def _served(self) -> int:
        self.looks += 1
        return next(self._numbers)

    @_served.setter
    def _served(self, value: int) -> None:
        """It counts by itself."""


async def turn(node: Node) -> str:
    async with node._place():
        return "served"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of one place, and no patience with those who stand still."""
    monkeypatch.setattr(nodes, "LARGE_AT_ONCE", 1)
    monkeypatch.setattr(connections, "REPLY_TIMEOUT_S", 0.01)


async def test_a_line_that_moves_is_waited_in():
    """Many times longer than an answer may take: a process that starts a thousand runs is busy, not cut off."""
    node = Moving("redis://127.0.0.1:1")
    async with node._place():
        waiting: asyncio.Task[Any] = asyncio.create_task(turn(node))
        await wait_until_async(lambda: node.looks > 20, description="ten times the patience to pass")
        assert not waiting.done()
    assert await waiting == "served"


async def test_a_line_that_stands_still_is_left():
    """Nobody in front got an answer: the store is unavailable."""
    node = Node("redis://127.0.0.1:1")
    async with node._place():
        with pytest.raises(failures.ConnectionLost, match="No connection is free"):
            await turn(node)
    assert await turn(node) == "served"
