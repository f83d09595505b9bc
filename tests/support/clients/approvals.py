"""Waiting for a run to pause, and deciding all it asks."""

from __future__ import annotations

from typing import Any

from mainstem_api import AsyncRuns, Run
from support.waiting import wait_until_async


async def paused(runs: AsyncRuns, run_id: str, *, after: str = "") -> Run:
    """Wait until the run waits for a human, about another action than `after`."""

    async def waits() -> Run | None:
        run = await runs.get(run_id)
        assert not run.status.is_terminal, (run.reason, run.error)
        if run.status != "requires_action" or run.action is None:
            return None
        return run if run.action["action_id"] != after else None

    return await wait_until_async(waits, description="the run to pause", timeout_s=30)


def decision(run: Run, kind: str, **fields: Any) -> dict[str, Any]:
    """The arguments of a resume that decides all calls of the run's action alike."""
    assert run.action is not None
    calls = run.action["calls"]
    decided = [{"call_id": call["call_id"], "type": kind, **fields} for call in calls]
    return {"action_id": run.action["action_id"], "decisions": decided}
