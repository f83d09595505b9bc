"""Finished runs, due to be archived: written by a test's own hand, on every list."""

from __future__ import annotations

from typing import Any

from mainstem_shared import transitions
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations.performing import Operations
from mainstem_shared.store import keys
from support.models.logs import RunLog


class Finishing:
    """Makes finished runs, due to be archived, on every list."""

    def __init__(self, operations: Operations) -> None:
        self.operations = operations
        self.store = operations.store

    async def __call__(self, **who: Any) -> str:
        run = await RunLog.start(self.store, **who)
        await run.claim()
        await run.say(3)
        await run.finish()
        state = await transitions.read(self.store, run.run_id)
        assert isinstance(state, transitions.State)
        await self.operations.indexes.add(state.spec)
        await self.operations.indexes.finished(run.run_id)
        await self.due(run.run_id)
        return run.run_id

    async def due(self, run_id: str) -> None:
        """Have a run archived by the next sweep."""
        await self.store.client.zadd(keys.run(run_id).compact, {run_id: now_ms() - 1})
