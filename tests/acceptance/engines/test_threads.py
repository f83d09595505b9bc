"""One active run per thread, with a real worker: replacing, queueing, deleting, and a user's limit."""

from __future__ import annotations

import asyncio
import contextlib
import itertools

import pytest

from mainstem_api import AsyncRuns
from mainstem_shared import errors
from mainstem_shared.model import ids
from support.clients.clients import client
from support.engines.demowords import demo_text
from support.waiting import wait_until_async

ENDLESS = {"tokens": 100_000, "interval_ms": 5}
SHORT = {"tokens": 5, "interval_ms": 1}


async def streaming(runs: AsyncRuns, thread_id: str) -> str:
    started = await runs.start(thread_id, "demo", ENDLESS)

    async def speaks() -> bool:
        return bool((await runs.get(started.run_id)).text)

    await wait_until_async(speaks, description="the run to stream", timeout_s=20)
    return started.run_id


async def test_a_replacement_starts_after_the_end_of_what_it_replaces(stage, thread: str):
    """The old run ends as `replaced` with its partial text; only then the new one starts; then it is exact."""
    async with client(stage) as runs:
        old = await streaming(runs, thread)
        new = await runs.start(thread, "demo", SHORT, if_active="replace")
        run = await runs.wait(new.run_id, timeout=10)
        assert (run.status, run.text) == ("succeeded", demo_text(5))
        replaced = await runs.get(old)
        assert (replaced.status, replaced.reason) == ("aborted", "replaced")
        assert demo_text(100_000).startswith(replaced.text)
        assert replaced.finished_at <= run.started_at


async def test_many_replacements_at_once(stage, thread: str):
    """Ten starts replace each other at once: one survives, the others end as replaced, none runs beside another."""
    async with client(stage) as runs:
        old = await streaming(runs, thread)
        new = await asyncio.gather(
            *(runs.start(thread, "demo", SHORT, if_active="replace") for _ in range(10))
        )
        ended = [await runs.wait(run_id, timeout=20) for run_id in (old, *(n.run_id for n in new))]
        assert {run.reason for run in ended} == {"replaced", "completed"}
        ran = sorted((run for run in ended if run.started_at), key=lambda run: run.started_at)
        for before, after in itertools.pairwise(ran):
            assert before.finished_at <= after.started_at


async def test_queued_runs_of_a_thread_run_in_order(stage, thread: str):
    """FIFO, one after the other, also when one in the middle is aborted."""
    async with client(stage) as runs:
        first = await streaming(runs, thread)
        queue = [(await runs.start(thread, "demo", SHORT, if_active="enqueue")).run_id for _ in range(4)]
        dropped = await runs.abort(queue[1])
        assert (dropped.outcome, dropped.won_from) == ("aborted", "queued")
        await runs.abort(first, wait=10)
        ended = [await runs.wait(run_id, timeout=10) for run_id in queue]
        assert [run.status for run in ended] == ["succeeded", "aborted", "succeeded", "succeeded"]
        ran = [run for run in ended if run.started_at]
        for before, after in itertools.pairwise(ran):
            assert before.finished_at <= after.started_at


async def test_a_deleted_thread_is_gone(live):
    """Its running and waiting runs end, nothing of it is left in the store, the worker goes on working."""
    child = live.worker(MAINSTEM_DRAIN_S="0.2")
    async with client(live) as runs:
        running = await streaming(runs, "t")
        waiting = (await runs.start("t", "demo", SHORT, if_active="enqueue")).run_id
        other = await streaming(runs, "other")

        async def follow() -> list[str]:
            seen: list[str] = []
            with contextlib.suppress(errors.NotFound):  # gone before its end was read
                async for event in runs.events(running):
                    seen += [event.data["reason"]] if event.type == "run.finished" else []
            return seen

        reader = asyncio.create_task(follow())
        assert await runs.delete_thread("t") == 2
        assert await asyncio.wait_for(reader, 10) in ([], ["thread_deleted"])
        for run_id in (running, waiting):
            with pytest.raises(errors.NotFound):
                await runs.get(run_id)
        with live.store.client() as store:
            assert list(store.scan_iter(f"*{ids.thread_tag('default', 't')}*")) == []
        assert (await runs.get(other)).status == "running"
        again = await runs.start("t", "demo", SHORT)
        assert (await runs.wait(again.run_id, timeout=10)).text == demo_text(5)
        with pytest.raises(errors.NotFound):
            await runs.delete_thread("never was")
    assert "Traceback" not in child.log


async def test_a_frozen_workers_thread_can_be_deleted(live):
    """The owner is stopped: the run is sealed and gone, and nothing of the zombie brings it back."""
    child = live.worker(MAINSTEM_DRAIN_S="0.2")
    async with client(live) as runs:
        run_id = await streaming(runs, "t")
        child.freeze()
        await runs.delete_thread("t")
        child.thaw()
        with live.store.client() as store:

            def let_go() -> bool:
                return "run lost to another owner" in child.log

            await wait_until_async(let_go, description="the worker to notice", timeout_s=20)
            assert list(store.scan_iter(f"*{ids.split(run_id)[0]}*")) == []


async def test_a_user_has_so_many_runs_at_once(live):
    """MAINSTEM_MAX_ACTIVE_RUNS_PER_USER: refused at the limit, free again as soon as a run has ended."""
    limit = {"max_active_runs_per_user": 2}
    live.worker(MAINSTEM_MAX_ACTIVE_RUNS_PER_USER="2", MAINSTEM_DRAIN_S="0.2")
    async with AsyncRuns(live.settings().model_copy(update=limit)) as runs:
        first = await streaming(runs, "t0")
        await streaming(runs, "t1")
        with pytest.raises(errors.TooManyRuns):
            await runs.start("t2", "demo", SHORT)
        await runs.abort(first, wait=10)
        for n in range(5):
            started = await runs.start(f"s{n}", "demo", SHORT)
            assert (await runs.wait(started.run_id, timeout=10)).status == "succeeded"
