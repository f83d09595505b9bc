"""Segments in this process, on a worker's real runtime: side by side, with usage, and with a store that stays away."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
import weakref
from typing import Any

import pytest

from mainstem_api import AsyncRuns
from mainstem_shared import transitions
from mainstem_shared.model.runs import Reason, Status
from mainstem_shared.operations.sweeping import Sweeper
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from mainstem_tasks import engine
from mainstem_tasks.execution import segments
from mainstem_tasks.execution.runtime import Runtime
from mainstem_tasks.sdk.context import RunContext
from support.models import listed
from support.models.logs import RunLog
from support.processes.in_process_worker import working
from support.processes.servers import ValkeyProcess
from support.waiting import wait_until_async

SLOW = {"tokens": 2, "interval_ms": 60_000}


@engine("billed")
async def billed(run: RunContext[dict[str, Any]]) -> None:
    """Two agents at once, each with a tool call between its model calls; then wait for ever."""

    async def agent(name: str) -> None:
        for n in range(3):
            await run.usage(input_tokens=10, output_tokens=2, cached_input_tokens=4)
            await run.tool_call(f"{name}{n}", "f", {})
            await run.tool_result(f"{name}{n}", n)

    await asyncio.gather(agent("a"), agent("b"))
    await run.text("done")
    await asyncio.Event().wait()


released: set[str] = set()
"""Runs whose engine may end at last."""


@engine("deaf")
async def deaf(run: RunContext[dict[str, Any]]) -> None:
    """Speak, and go on whatever cancels it, until the test releases it."""
    await run.text("x")
    while run.run_id not in released:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.05)


remains: list[weakref.ref[Any]] = []


@engine("remembered")
async def remembered(run: RunContext[dict[str, Any]]) -> None:
    """Speak, and end as the input says."""
    remains.extend(map(weakref.ref, (run, run._channel)))
    await run.text("x" * 1000)
    match run.input["end"]:
        case "fail":
            raise RuntimeError("as asked")
        case "pause":
            await run.request_approval([{"call_id": "c", "name": "f", "arguments": {}}])
        case "abort" | "cancel":
            await asyncio.Event().wait()


async def started(
    runs: AsyncRuns, runtime: Runtime, thread_id: str, **what: Any
) -> tuple[str, asyncio.Task[str]]:
    """Start a run and execute it here, up to its first words."""
    run_id = (await runs.start(thread_id, what.get("engine", "demo"), what.get("input", SLOW))).run_id
    task = asyncio.create_task(segments.execute(runtime, run_id, task_id="t"))

    async def speaks() -> bool:
        return bool((await runs.get(run_id)).text)

    await wait_until_async(speaks, description="the run to stream")
    return run_id, task


async def test_a_run_that_waits_holds_up_no_other(runs: AsyncRuns, settings: Settings):
    """Its engine is silent for a minute: runs beside it stream and end, and each says only its own."""
    async with working(settings) as here:
        silent, waiting = await started(runs, here, "silent")
        began = time.monotonic()
        for n in range(10):
            run_id = (await runs.start(f"t{n}", "demo", {"tokens": 20, "interval_ms": 1})).run_id
            assert await segments.execute(here, run_id, task_id="t") == "completed"
            assert (await runs.get(run_id)).text.split() == [f"w{k}" for k in range(20)]
        assert time.monotonic() - began < 10
        assert (await runs.get(silent)).text == "w0"
        here.segments[silent].stop_for(Reason.USER_ABORT)
        assert await waiting == "user_abort"


@pytest.mark.parametrize("cause", ["abort", "limit"])
async def test_an_engine_that_ignores_its_cancellation_holds_no_run(
    runs: AsyncRuns, settings: Settings, monkeypatch: pytest.MonkeyPatch, cause: str
):
    """Aborted through the mailbox alone, or silent for too long: after CLEANUP_S the run ends without it."""
    monkeypatch.setattr(segments, "CLEANUP_S", 0.2)
    limits = {"idle_timeout_s": 0.3} if cause == "limit" else {}
    async with working(settings.model_copy(update=limits)) as here:
        run_id, task = await started(runs, here, "deaf", engine="deaf", input={})
        try:
            if cause == "abort":
                await runs.abort(run_id)
            segment = here.segments[run_id]

            def stopped() -> bool:
                segment.check_clock()  # as a worker does once a second
                return segment.cause is not None

            await wait_until_async(stopped, description="the engine to be stopped")
            ended = await asyncio.wait_for(task, 20)
        finally:
            released.add(run_id)
    run = await runs.get(run_id)
    assert run.reason == ended == {"abort": "user_abort", "limit": "timed_out"}[cause]
    assert run.text == "x"


@pytest.mark.parametrize("end", ["complete", "fail", "pause", "abort", "cancel"])
async def test_a_run_that_ended_leaves_nothing_to_the_garbage_collector(
    runs: AsyncRuns, settings: Settings, end: str, monkeypatch: pytest.MonkeyPatch
):
    """Its content may be 8 MB: that goes with the run, not with a collection some thousand objects later."""
    monkeypatch.setattr(segments.logger, "disabled", True)  # pytest keeps what is logged: failures, frames
    async with working(settings) as runtime:
        remains.clear()
        gc.collect()
        gc.disable()
        try:
            run_id, task = await started(runs, runtime, end, engine="remembered", input={"end": end})
            if end == "abort":
                await runs.abort(run_id)
            elif end == "cancel":
                task.cancel()
            await asyncio.wait({task})
            del task
            await wait_until_async(
                lambda: all(ref() is None for ref in remains), description="nothing to be left"
            )
        finally:
            gc.enable()


async def test_usage_of_an_aborted_run_is_told_once_and_whole(runs: AsyncRuns, settings: Settings):
    """Parallel agents, cached tokens and tool calls are all in it, on one final event, however often it is aborted."""
    async with working(settings) as here:
        run_id, task = await started(runs, here, "t", engine="billed", input={})
        before = (await runs.get(run_id)).usage
        answers = await asyncio.gather(*(runs.abort(run_id, wait=10) for _ in range(3)))
        assert await task == "user_abort"
    ends = [event async for event in runs.events(run_id) if event.type == "run.finished"]
    assert len(ends) == 1
    total = {"input_tokens": 60, "output_tokens": 12, "total_tokens": 72, "cached_input_tokens": 24}
    assert {**total, "reasoning_tokens": 0}.items() <= ends[0].data["usage"].items()
    assert len(ends[0].data["usage"]["calls"]) == 6
    for usage in (before, *(answer.run.usage for answer in answers)):
        assert usage is not None
        assert usage.model_dump() == ends[0].data["usage"]


async def test_an_end_that_cannot_be_written_is_said_and_stays_recoverable(
    private_valkey: ValkeyProcess, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Bounded patience with an unavailable store; one greppable error; a sweeper ends the run with all it had said."""
    monkeypatch.setattr(segments, "FINISH_PATIENCE_S", 0.3)
    settings = Settings(redis_url=private_valkey.url(0), broker_url=private_valkey.url(1), sweep_s=3600)
    async with AsyncRuns(settings) as runs, working(settings) as here:
        run_id, task = await started(runs, here, "t")
        await asyncio.to_thread(private_valkey.sigkill)
        here.segments[run_id].stop(segments.StopCause.SHUTDOWN)
        assert await asyncio.wait_for(task, 20) == "unfinished"
        (said,) = [record for record in caplog.records if record.getMessage() == "RUN NOT FINISHED"]
        assert (said.levelname, vars(said)["run_id"]) == ("ERROR", run_id)
        assert said.exc_info
        await asyncio.to_thread(private_valkey.start)
        store, owner = here.store, here.lease.owner
        await store.patiently(lambda: store.client.delete(keys.lease(owner)), patience_s=10)
        assert (await runs.get(run_id)).status is Status.RUNNING
        sweeper = Sweeper(operations=here.operations, owner=lambda: "the sweeper")
        await sweeper._recover_runs_of(owner)
        run = await runs.get(run_id)
        assert (run.status, run.reason, run.text) == (Status.FAILED, Reason.WORKER_LOST, "w0")


async def test_a_failing_sweep_is_logged_and_the_next_one_tried(
    private_valkey: ValkeyProcess, caplog: pytest.LogCaptureFixture
):
    """A worker's sweeps meet an unavailable store, say so, and do their work when it is back."""
    settings = Settings(redis_url=private_valkey.url(0), broker_url=private_valkey.url(1), sweep_s=0.1)
    async with working(settings) as here:
        await asyncio.to_thread(private_valkey.sigkill)

        def failed() -> bool:
            return any(vars(record).get("action") == "sweep_failed" for record in caplog.records)

        await wait_until_async(failed, description="a sweep to fail")
        await asyncio.to_thread(private_valkey.start)
        store = Store(private_valkey.url(0), patience_s=10)
        log = await RunLog.start(store)
        await transitions.stop(store, log.run_id, reason=Reason.USER_ABORT)
        await listed.put(store.client, "active", {log.run_id: 0})

        async def ended() -> bool:
            return await store.client.hget(log.keys.record, "status") == b"aborted"

        await wait_until_async(ended, description="a sweep to end the run")
        await store.close()
        assert here.lease.may_write


async def test_a_sweep_that_meets_nonsense_is_not_the_last(
    store: Store, broker_url: str, caplog: pytest.LogCaptureFixture
):
    """What no sweeper foresees (here a key of another type) fails a sweep, is logged, and the next one works."""
    async with working(Settings(redis_url=store.url, broker_url=broker_url, sweep_s=0.1)):
        await store.client.rename(keys.WORKERS, "aside")
        await store.client.set(keys.WORKERS, "nonsense", px=60_000)

        def failed() -> bool:
            return any(vars(record).get("action") == "sweep_failed" for record in caplog.records)

        await wait_until_async(failed, description="a sweep to fail")
        await store.client.rename("aside", keys.WORKERS)
        log = await RunLog.start(store)
        await transitions.stop(store, log.run_id, reason=Reason.USER_ABORT)
        await listed.put(store.client, "active", {log.run_id: 0})

        async def ended() -> bool:
            return await store.client.hget(log.keys.record, "status") == b"aborted"

        await wait_until_async(ended, description="the next sweep to end the run")


@pytest.mark.parametrize("step_h", [2, -2])
async def test_a_step_of_the_wall_clock_ends_no_healthy_run(
    runs: AsyncRuns, settings: Settings, monkeypatch: pytest.MonkeyPatch, step_h: int
):
    """Duration is measured on a steady clock: the run goes on, and its time limit still holds afterwards."""
    real = time.time_ns
    async with working(settings) as here:
        run_id, task = await started(runs, here, "t")
        monkeypatch.setattr(time, "time_ns", lambda: real() + step_h * 3600 * 10**9)
        here.check_clocks()
        assert here.segments[run_id].cause is None  # type: ignore[attr-defined]
        steady = segments.clocks.now
        monkeypatch.setattr(segments.clocks, "now", lambda: steady() + 2 * 3600)
        here.check_clocks()
        assert await task == "timed_out"
