"""Runs on Celery's own pools: what works as on ours, and the abort and shutdown each can give."""

from __future__ import annotations

import psutil
import pytest

from support.clients.approvals import decision, paused
from support.clients.clients import client, finished
from support.engines.demowords import demo_text
from support.processes.projects import Project
from support.waiting import wait_until, wait_until_async

ENDLESS = {"tokens": 100_000, "interval_ms": 5}
QUICK = {"MAINSTEM_LEASE_S": "1.5", "MAINSTEM_SWEEP_S": "0.3", "MAINSTEM_DRAIN_S": "0.5"}
POOLS = {"threads": 8, "prefork": 2, "solo": 1}


async def streaming(runs, thread_id: str) -> str:
    started = await runs.start(thread_id, "demo", ENDLESS)

    async def speaks() -> bool:
        return bool((await runs.get(started.run_id)).content)

    await wait_until_async(speaks, description="the run to stream", timeout_s=20)
    return started.run_id


async def asks_and_listens(runs) -> None:
    """Pause and resume a run; say something to another one."""
    asking = await runs.start("asking", "demo", {"tokens": 3, "interval_ms": 0, "approve_at": [1]})
    run = await paused(runs, asking.run_id)
    await runs.resume(asking.run_id, **decision(run, "approve"))
    assert (await runs.wait(asking.run_id, 20)).text == demo_text(3)
    hearing = await runs.start("hearing", "demo", {**ENDLESS, "echo_input": True})
    await runs.send_input(hearing.run_id, "hello")

    async def heard() -> bool:
        return "hello" in (await runs.get(hearing.run_id)).text

    await wait_until_async(heard, description="the echo", timeout_s=20)
    await runs.abort(hearing.run_id, wait=10)


@pytest.mark.parametrize("pool", POOLS)
async def test_runs_on_other_pools(live, tmp_path, pool):
    """A run streams to its end, pauses, hears its user, is aborted, ends at a warm shutdown, its text kept."""
    worker = Project(live, tmp_path).worker("--pool", pool, "-c", str(POOLS[pool]), **QUICK)
    assert f"--pool {pool}: " in worker.log
    async with client(live) as runs:
        done = await finished(runs, "first", {"tokens": 20, "interval_ms": 1})
        assert (done.status, done.text) == ("succeeded", demo_text(20))
        greeted = await runs.start("hello", "greet", {"name": "you"})
        assert (await runs.wait(greeted.run_id, 20)).text == "Hello, you"
        await asks_and_listens(runs)

        aborted = await runs.abort(await streaming(runs, "second"), wait=10)
        assert (aborted.outcome, aborted.run.reason, aborted.signal_delivered) == (
            "aborted",
            "user_abort",
            True,
        )
        assert demo_text(100_000).startswith(aborted.run.text)

        last = await streaming(runs, "third")
        worker.terminate()
        drained = await runs.wait(last, 20)
        assert (drained.status, drained.reason) == ("aborted", "shutdown")
        assert drained.text
    assert worker.wait(20) == 0


@pytest.mark.parametrize("pool", ["prefork", "threads"])
async def test_a_cold_shutdown(live, tmp_path, pool):
    """SIGQUIT ends runs at once: shutdown, not an abort by a user; and the worker ends."""
    worker = Project(live, tmp_path).worker("--pool", pool, "-c", "1", **{**QUICK, "MAINSTEM_DRAIN_S": "60"})
    async with client(live) as runs:
        run_id = await streaming(runs, "thread")
        worker.signal(3)
        ended = await runs.wait(run_id, 20)
        assert (ended.status, ended.reason) == ("aborted", "shutdown")
    worker.wait(20)


async def test_a_dead_prefork_child_loses_its_run_to_the_sweep(live, tmp_path):
    """A child killed with its run leaves it to a sweeper: worker_lost, partial text kept; a new child goes on."""
    worker = Project(live, tmp_path).worker("--pool", "prefork", "-c", "1", **QUICK)
    async with client(live) as runs:
        run_id = await streaming(runs, "thread")
        [child] = psutil.Process(worker.pid).children()
        child.kill()
        lost = await runs.wait(run_id, 30)
        assert (lost.status, lost.reason) == ("failed", "worker_lost")
        assert lost.text
        done = await finished(runs, "thread", {"tokens": 3, "interval_ms": 0}, timeout_s=30)
        assert done.text == demo_text(3)


async def test_operators_terminate_on_prefork(live, tmp_path):
    """Celery's `revoke(terminate=True)` ends a prefork run as an abort; the worker takes the next one."""
    worker = Project(live, tmp_path).worker("--pool", "prefork", "-c", "1", **QUICK)
    async with client(live) as runs:
        run_id = await streaming(runs, "thread")
        from celery import Celery

        with Celery(set_as_current=False, broker=live.env["MAINSTEM_BROKER_URL"]) as app:
            [active] = app.control.inspect([f"{worker.name}@test"], timeout=10, limit=1).active()["proj@test"]
            app.control.revoke(active["id"], terminate=True)
        ended = await runs.wait(run_id, 30)
        assert (ended.status, ended.reason) == ("aborted", "user_abort")
        done = await finished(runs, "thread", {"tokens": 3, "interval_ms": 0}, timeout_s=30)
        assert done.text == demo_text(3)


def test_gevent_is_refused(live, tmp_path):
    """A gevent worker that would get runs does not start, and says what to do; for other queues it starts."""
    project = Project(live, tmp_path)
    worker = project.worker("--pool", "gevent", "-c", "2", ready=False)
    assert worker.wait(40) != 0
    assert "Mainstem's runs need an event loop, which the pool gevent cannot give them" in worker.log
    assert "--pool threads" in worker.log
    project.worker("--pool", "gevent", "-c", "2", "-Q", "other", name="other")
    noted = tmp_path / "noted"
    project.send("proj.note", str(noted), "done", queue="other")
    wait_until(noted.exists, description="the task of the application to run")
