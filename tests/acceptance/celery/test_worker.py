"""What a real worker process does with runs, whatever happens to it and around it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import uuid

import pytest
from celery import Celery

from mainstem_shared import errors
from mainstem_shared.model import ids
from support.clients.clients import client, finished
from support.engines.demowords import demo_text
from support.models import listed
from support.waiting import wait_until, wait_until_async


async def test_a_run_streams_and_ends(stage, thread: str):
    """A started run is executed, streamed in order and ends with its exact text."""
    async with client(stage) as runs:
        started = await runs.start(thread, "demo", {"tokens": 50, "interval_ms": 2})
        seen = [event async for event in runs.events(started.run_id)]
        assert [event.type for event in seen][:2] == ["run.created", "run.started"]
        assert seen[-1].type == "run.finished"
        assert "".join(e.data["text"] for e in seen if e.type == "message.delta") == demo_text(50)
        run = await runs.get(started.run_id)
        assert (run.status, run.reason, run.text) == ("succeeded", "completed", demo_text(50))


async def test_an_engine_failure_keeps_what_was_streamed(stage, thread: str):
    """A run whose engine raises is failed, engine_error, and keeps its partial text."""
    async with client(stage) as runs:
        run = await finished(runs, thread, {"tokens": 10, "interval_ms": 0, "fail_at": 4})
        assert (run.status, run.reason, run.text) == ("failed", "engine_error", demo_text(4))
        assert run.error is not None
        assert "word 4" in run.error.message


async def test_unknown_engines_are_refused_or_end_the_run(live):
    """Before any announcement the worker decides (`unknown_engine`); afterwards the start is refused."""
    async with client(live) as runs:
        early = await runs.start("thread", "nosuch", {})
        live.worker()
        run = await runs.wait(early.run_id, timeout=20)
        assert (run.status, run.reason) == ("failed", "unknown_engine")
        with pytest.raises(errors.UnknownEngine, match="demo"):
            await runs.start("thread", "nosuch", {})
        with pytest.raises(errors.InvalidInput, match="tokens"):
            await runs.start("thread", "demo", {"tokens": "many"})


async def test_limits_end_runs_honestly(live):
    """A silent engine and one over its time both end `timed_out`, with their partial text."""
    live.worker(MAINSTEM_IDLE_TIMEOUT_S="0.6")
    async with client(live) as runs:
        silent = await finished(runs, "silent", {"tokens": 2, "interval_ms": 60_000})
        assert (silent.reason, silent.text) == ("timed_out", "w0")
        long = await finished(runs, "long", {"tokens": 10_000, "interval_ms": 50}, max_duration_s=1)
        assert long.reason == "timed_out"
        assert demo_text(10_000).startswith(long.text)


async def test_messages_twice_run_once(stage, thread: str):
    """A message that arrives twice, early or late executes its run once."""
    app = Celery(broker=stage.broker.url(1), set_as_current=False)
    async with client(stage) as runs:
        started = await runs.start(thread, "demo", {"tokens": 40, "interval_ms": 10})
        for _ in range(3):
            app.send_task("mainstem.generate", kwargs={"run_id": started.run_id})
        run = await runs.wait(started.run_id, timeout=20)
        app.send_task("mainstem.generate", kwargs={"run_id": started.run_id})
        assert run.text == demo_text(40)
        events = [event async for event in runs.events(started.run_id)]
        assert [event.type for event in events].count("run.started") == 1
    app.close()


async def test_celery_alone_can_submit(stage, thread: str):
    """`send_task("mainstem.submit")` starts a run whose id the sender can compute by itself."""
    app = Celery(broker=stage.broker.url(1), set_as_current=False)
    task_id = str(uuid.uuid4())
    app.send_task(
        "mainstem.submit",
        task_id=task_id,
        kwargs={
            "thread_id": thread,
            "engine": "demo",
            "input": {"tokens": 3, "interval_ms": 0},
            "user_id": "u",
        },
    )
    run_id = ids.run_id("default", thread, uuid.UUID(task_id))
    async with client(stage) as runs:

        async def ended():
            try:
                run = await runs.get(run_id, user_id="u")
            except errors.NotFound:
                return None
            return run if run.status.is_terminal else None

        run = await wait_until_async(ended, description="the submitted run to end", timeout_s=20)
        assert run.text == demo_text(3)
        first = await anext(runs.events(run_id, user_id="u"))
        assert (first.type, first.data["trigger"]) == ("run.created", "celery")
    app.close()


async def test_sigterm_waits_for_short_runs_and_ends_long_ones(live):
    """A draining worker finishes what ends within the grace time; the rest ends `aborted`, `shutdown`."""
    child = live.worker(MAINSTEM_DRAIN_S="2")
    async with client(live) as runs:
        short = await runs.start("short", "demo", {"tokens": 20, "interval_ms": 50})
        long = await runs.start("long", "demo", {"tokens": 10_000, "interval_ms": 50})
        await wait_until_async(
            lambda: text_of(runs, long.run_id), description="the long run to stream", timeout_s=20
        )
        child.terminate()
        assert await asyncio.to_thread(child.wait, 20) == 0
        assert (await runs.get(short.run_id)).text == demo_text(20)
        ended = await runs.get(long.run_id)
        assert (ended.status, ended.reason) == ("aborted", "shutdown")
        assert demo_text(10_000).startswith(ended.text)


async def test_a_killed_workers_run_is_recovered(live):
    """SIGKILL of a worker: its run ends `worker_lost` within lease and sweeps, by another worker."""
    first = live.worker("first", MAINSTEM_LEASE_S="1.5", MAINSTEM_SWEEP_S="0.5")
    async with client(live) as runs:
        started = await runs.start("thread", "demo", {"tokens": 10_000, "interval_ms": 20})
        await wait_until_async(
            lambda: text_of(runs, started.run_id), description="the run to stream", timeout_s=20
        )
        live.worker("second", MAINSTEM_LEASE_S="1.5", MAINSTEM_SWEEP_S="0.5")
        first.sigkill()
        run = await runs.wait(started.run_id, timeout=20)
        assert (run.status, run.reason) == ("failed", "worker_lost")
        assert run.text
        assert demo_text(10_000).startswith(run.text)


async def test_a_suspended_worker_lets_go(live):
    """A worker stopped for longer than its lease: the run is settled, nothing of the zombie lands, it works on."""
    first = live.worker("first", MAINSTEM_LEASE_S="1.5", MAINSTEM_SWEEP_S="0.5")
    async with client(live) as runs:
        started = await runs.start("thread", "demo", {"tokens": 10_000, "interval_ms": 5})
        await wait_until_async(
            lambda: text_of(runs, started.run_id), description="the run to stream", timeout_s=20
        )
        second = live.worker("second", MAINSTEM_LEASE_S="1.5", MAINSTEM_SWEEP_S="0.5")
        first.freeze()
        settled = await runs.wait(started.run_id, timeout=20)
        await asyncio.sleep(1.5)  # the lease counted from its last renewal, a suspension from the last pulse
        first.thaw()
        await wait_until_async(
            lambda: "lease_suspended" in first.log or "suspended for longer" in first.log,
            description="the zombie to notice",
        )
        second.stop()
        again = await finished(runs, "other", {"tokens": 5, "interval_ms": 1})
        assert again.text == demo_text(5), "the woken worker takes new runs"
        after = await runs.get(started.run_id)
        assert (after.text, after.cursor, after.reason) == (settled.text, settled.cursor, "worker_lost")


async def test_a_frozen_broker_delays_no_event(apart):
    """A broker that stands still for 6 s does not delay the events of any running run."""
    apart.worker()
    async with client(apart) as runs:
        started = [
            (await runs.start(f"t{n}", "demo", {"tokens": 160, "interval_ms": 50})).run_id for n in range(20)
        ]
        for run_id in started:
            await wait_until_async(lambda r=run_id: text_of(runs, r), description="streaming", timeout_s=20)
        apart.broker.freeze()
        frozen_at = time.monotonic()
        gaps: list[float] = []
        try:
            await asyncio.gather(*(watch_gaps(runs, run_id, gaps, frozen_at + 6) for run_id in started))
        finally:
            apart.broker.thaw()
        # A delay by the broker would be seconds long: the interval is 50 ms, the rest is this machine's noise.
        assert max(gaps) < 2, sorted(gaps)[-5:]
        for run_id in started:
            assert (await runs.wait(run_id, timeout=30)).text == demo_text(160)


async def test_a_store_that_is_killed_and_restarted_loses_nothing(fragile):
    """The store SIGKILLed in mid-run: the worker waits and continues; the text is exact, readers see it all."""
    fragile.worker()
    async with client(fragile) as runs:
        started = await runs.start("thread", "demo", {"tokens": 150, "interval_ms": 20})

        async def follow():
            return [event async for event in runs.events(started.run_id)]

        reader = asyncio.create_task(follow())
        await wait_until_async(
            lambda: text_of(runs, started.run_id), description="the run to stream", timeout_s=20
        )
        fragile.store.sigkill()
        await asyncio.to_thread(fragile.store.start)
        seen = await asyncio.wait_for(reader, 60)
        assert "".join(e.data["text"] for e in seen if e.type == "message.delta") == demo_text(150)
        assert len({e.cursor for e in seen}) == len(seen)


async def test_store_and_broker_unavailable_at_start(fragile):
    """A worker started while store and broker are away waits for them and then works."""
    fragile.store.stop()
    child = fragile.worker(ready=False)
    wait_until(
        lambda: "cannot reach the store" in child.log or "cannot renew the lease" in child.log,
        description="the worker to notice",
        timeout_s=30,
    )
    assert child.running
    fragile.store.start()
    wait_until(lambda: fragile.is_ready(child), description="the worker to be ready", timeout_s=30)
    async with client(fragile) as runs:
        assert (await finished(runs, "thread", {"tokens": 5, "interval_ms": 0})).text == demo_text(5)


async def test_the_outbox_delivers_what_a_dead_broker_did_not(apart):
    """A run started while the broker is unavailable is durable, and is executed once the broker is back."""
    apart.worker(MAINSTEM_SWEEP_S="0.5")
    async with client(apart) as runs:
        apart.broker.sigkill()
        started = await runs.start("thread", "demo", {"tokens": 5, "interval_ms": 0})
        assert (await runs.get(started.run_id)).status == "queued"
        apart.broker.start()
        run = await runs.wait(started.run_id, timeout=40)
        assert run.text == demo_text(5)


@pytest.mark.slow
async def test_a_thousand_runs_at_once(live):
    """1,000 concurrent runs of 20 tokens/s in one worker process: all correct, at most 200 MB."""
    child = live.worker()
    gate = asyncio.Semaphore(50)
    async with client(live) as runs:

        async def start(n: int) -> str:
            async with gate:
                return (await runs.start(f"t{n}", "demo", {"tokens": 200, "interval_ms": 50})).run_id

        started = await asyncio.gather(*(start(n) for n in range(1000)))
        peak = 0.0
        with live.store.client() as store:
            while listed.scores_now(store, "active"):
                peak = max(peak, child.rss_mb)
                await asyncio.sleep(0.5)
        wrong = [run_id for run_id in started if (await runs.get(run_id)).text != demo_text(200)]
        assert not wrong
        assert peak <= 200, f"{peak:.0f} MB"


async def test_a_worker_without_runs_stops_at_once(live):
    """SIGINT or SIGTERM to an idle worker ends it cleanly."""
    child = live.worker()
    child.signal(signal.SIGTERM)
    assert child.wait(10) == 0


async def text_of(runs, run_id: str) -> str:
    return (await runs.get(run_id)).text


async def watch_gaps(runs, run_id: str, gaps: list[float], until: float) -> None:
    last = time.monotonic()
    async for _ in runs.events(run_id, after=(await runs.get(run_id)).cursor):
        now = time.monotonic()
        gaps.append(now - last)
        last = now
        if now > until:
            return
    # the run ended before the broker woke up: what it streamed until then counts


def test_root_is_told_in_a_line(live):
    """Celery's warning to root, a paragraph, is one line, and none for who has set C_FORCE_ROOT."""
    worker = live.worker()
    assert ("running_as_root" in worker.log) == (os.geteuid() == 0)
    chosen = live.worker("chosen", C_FORCE_ROOT="1")
    assert "superuser privileges" not in worker.log + chosen.log
    assert "running_as_root" not in chosen.log
