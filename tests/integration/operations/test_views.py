"""What views of other frameworks answer: heartbeats while a run says nothing, from both clients."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from mainstem_api import AsyncRuns, Runs, sse
from mainstem_shared.settings import Settings
from mainstem_shared.store.client import Store
from support.models.logs import RunLog

BEAT = ": heartbeat\n\n"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "HEARTBEAT_S", 0.05)


@pytest.fixture
async def log(http: httpx.AsyncClient, store: Store) -> RunLog:
    """A run that a worker has begun, and that says nothing."""
    started = await http.post("/v1/threads/t/runs", json={"engine": "demo"})
    begun = RunLog(store, started.json()["run_id"])
    await begun.learn()
    await begun.claim()
    return begun


async def test_a_silent_run_is_answered_with_heartbeats(log: RunLog, runs: AsyncRuns, quick: None) -> None:
    """Before anything is said, and between events; nothing is lost meanwhile, and the stream ends with the run."""
    status, lines = await sse.astream(runs, log.run_id, str(log.top))
    assert (status, await anext(lines), await anext(lines)) == (200, BEAT, BEAT)
    await log.say(2)
    await log.finish()
    rest = [line async for line in lines if line != BEAT]
    assert [line.splitlines()[1] for line in rest] == ["event: message.delta"] * 2 + ["event: run.finished"]
    assert (await sse.astream(runs, log.run_id, str(log.top)))[0] == 204


async def test_views_that_block_get_them_too(log: RunLog, quick: None, settings: Settings) -> None:
    def read() -> tuple[int, Any]:
        with Runs(settings) as runs:
            status, lines = sse.stream(runs, log.run_id, str(log.top))
            found = [next(lines), next(lines)]
            lines.close()  # type: ignore[attr-defined]
            return status, found

    assert await asyncio.to_thread(read) == (200, [BEAT] * 2)
