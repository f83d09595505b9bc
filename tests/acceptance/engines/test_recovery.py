"""Runs whose worker is lost or stops: what goes on elsewhere, from where, and what readers see of it."""

from __future__ import annotations

import asyncio
from typing import Any

from mainstem_api import AsyncRuns
from mainstem_api.client.async_runs import RunEvent
from mainstem_shared.model import cursors, events, jsontext
from mainstem_shared.model.contents import Content
from support.clients.clients import client
from support.engines.demowords import demo_text
from support.paths import TESTS
from support.processes.processes import Child
from support.waiting import wait_until_async

QUICK = {
    "MAINSTEM_LEASE_S": "1.5",
    "MAINSTEM_SWEEP_S": "0.5",
    "MAINSTEM_DRAIN_S": "0.2",
    "MAINSTEM_ENGINES": "support.engines.engines",
    "PYTHONPATH": str(TESTS),
}
TOKENS = 400
INPUT = {"tokens": TOKENS, "interval_ms": 15}
"""Slowly, so that a worker is lost in the middle; whoever goes on with it has no reason to wait."""


async def reaches(runs: AsyncRuns, run_id: str, word: str) -> None:
    async def said() -> bool:
        return word in (await runs.get(run_id)).text.split()

    await wait_until_async(said, description=f"the run to say {word}", timeout_s=20)


async def worker_of(live: Any, runs: AsyncRuns, run_id: str) -> Child:
    """Return the process that executes a run."""
    owner = (await runs.get(run_id)).worker or ""
    (child,) = (child for child in live.children if f"-{child.pid}-" in owner)
    return child


class Following:
    """A reader that was there from the start: it folds all it gets, and checks that each event is the next."""

    def __init__(self, runs: AsyncRuns, run_id: str) -> None:
        self.fold = Content()
        self.events: list[RunEvent] = []
        self._task = asyncio.create_task(self._follow(runs, run_id))

    async def _follow(self, runs: AsyncRuns, run_id: str) -> None:
        cursor = cursors.START
        async for event in runs.events(run_id):
            entry = events.Entry(cursors.parse(event.cursor), event.type, jsontext.dumps(event.data))
            assert entry.follows(cursor)
            cursor = entry.cursor
            self.events.append(event)
            self.fold.apply(event.type, event.data)

    async def ended(self) -> list[str]:
        await asyncio.wait_for(self._task, 40)
        return [event.type for event in self.events if cursors.parse(event.cursor).is_control]

    def only(self, kind: str) -> dict[str, Any]:
        (event,) = (event for event in self.events if event.type == kind)
        return event.data


async def test_a_lost_run_goes_on_from_its_last_checkpoint(live):
    """SIGKILL of a worker: another one continues from the checkpoint; readers take back what came after it."""
    live.workers("first", "second", **QUICK)
    async with client(live) as runs:
        started = await runs.start("thread", "hurrying", INPUT, on_worker_lost="resume")
        reader = Following(runs, started.run_id)
        await reaches(runs, started.run_id, "w35")
        (await worker_of(live, runs, started.run_id)).sigkill()
        control = await reader.ended()
        run = await runs.get(started.run_id)
    assert (run.status, run.text) == ("succeeded", demo_text(TOKENS))
    assert reader.fold.text == demo_text(TOKENS)
    assert control == [
        *("run.created", "run.started", "run.sealed", "run.queued"),
        *("run.restarted", "run.finished"),
    ]
    restarted = reader.only("run.restarted")
    words = events.text_of(restarted["content"]).split()
    assert len(words) % 10 == 0
    assert len(words) >= 30
    assert (restarted["segment"], reader.only("run.queued")["cause"]) == (2, "worker_lost")


async def test_a_lost_run_without_a_checkpoint_begins_again(live):
    """`resume` without a checkpoint: from the start, with empty content, and never two texts in one."""
    live.workers("first", "second", **QUICK)
    async with client(live) as runs:
        started = await runs.start("thread", "forgetful", INPUT, on_worker_lost="resume")
        reader = Following(runs, started.run_id)
        await reaches(runs, started.run_id, "w20")
        (await worker_of(live, runs, started.run_id)).sigkill()
        await reader.ended()
        run = await runs.get(started.run_id)
    assert (run.status, run.text) == ("succeeded", demo_text(TOKENS))
    assert reader.only("run.restarted")["content"] == []
    assert reader.fold.text == demo_text(TOKENS)


async def test_a_stopped_workers_run_goes_on_elsewhere(live):
    """SIGTERM: after the grace time an engine with a checkpoint is handed over; nothing is missing or twice."""
    live.workers("first", "second", **QUICK)
    async with client(live) as runs:
        started = await runs.start("thread", "hurrying", INPUT)
        reader = Following(runs, started.run_id)
        await reaches(runs, started.run_id, "w25")
        stopped = await worker_of(live, runs, started.run_id)
        stopped.terminate()
        assert await asyncio.to_thread(stopped.wait, 20) == 0
        control = await reader.ended()
        run = await runs.get(started.run_id)
    assert (run.status, run.text, reader.fold.text) == ("succeeded", demo_text(TOKENS), demo_text(TOKENS))
    assert control[2:-1] in (["run.queued", "run.restarted"], ["run.queued", "run.resumed"])
    assert reader.only("run.queued")["cause"] == "shutdown"
    with live.store.client() as store:
        assert not [key for key in store.scan_iter() if key.endswith((":checkpoint", ":snapshot"))]


async def test_a_recycled_workers_runs_go_on_elsewhere(live):
    """At its age a worker stops by itself, in order: ten runs go on elsewhere, and each has every word once."""
    live.workers("old", **QUICK, MAINSTEM_RECYCLE_AFTER_S="2")
    (old,) = live.children
    async with client(live) as runs:
        started = [await runs.start(f"thread-{n}", "hurrying", INPUT) for n in range(10)]
        readers = [Following(runs, one.run_id) for one in started]
        live.workers("next", **QUICK)
        assert await asyncio.to_thread(old.wait, 60) == 0
        assert "action=worker_recycled" in old.log
        for reader in readers:
            await reader.ended()
        ended = [await runs.get(one.run_id) for one in started]
    assert {run.reason for run in ended} == {"completed"}
    assert {run.text for run in ended} == {reader.fold.text for reader in readers} == {demo_text(TOKENS)}
