"""What a pause survives, what it costs, and what may happen to a run meanwhile: on real workers."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from datetime import datetime
from typing import Any

import httpx
import pytest
from celery import Celery

from mainstem_api import AsyncRuns, RunEvent
from mainstem_shared import errors
from mainstem_shared.model import contents, events
from mainstem_shared.model.events import Entry, Type
from mainstem_shared.store import keys
from support.clients.approvals import decision, paused
from support.clients.clients import client
from support.engines.demowords import demo_text
from support.paths import TESTS
from support.processes.gateways import GatewayThread
from support.processes.servers import ValkeyProcess
from support.waiting import wait_until, wait_until_async

QUICK = {"MAINSTEM_LEASE_S": "1.5", "MAINSTEM_SWEEP_S": "0.4"}
ENGINES = {"MAINSTEM_ENGINES": "support.engines.engines", "PYTHONPATH": str(TESTS)}


def log_of(server: ValkeyProcess, run_id: str) -> list[Entry]:
    """The run's whole log, after checking that nothing is missing in it."""
    with server.client() as store:
        found: Any = store.xrange(keys.run(run_id).log)
    entries = [
        events.entry(entry_id.encode(), [part.encode() for pair in fields.items() for part in pair])
        for entry_id, fields in found
    ]
    assert entries[0].type == Type.CREATED
    assert all(after.follows(before.cursor) for before, after in itertools.pairwise(entries))
    return entries


async def test_a_pause_survives_the_restart_of_everything(whole):
    """Two workers: the one that ran is killed, all the rest restarted, Valkey too; the other one goes on."""
    workers = whole.workers("one", "two", **QUICK)
    with GatewayThread(whole.store.url(0), whole.broker.url(1)) as gateway:
        async with gateway.client() as http:
            run_id = await start(http, tokens=40, interval_ms=15, approve_at=[20])
            await wait_until_async(lambda: is_paused(http, run_id), description="the pause", timeout_s=30)
    (ran,) = [
        entry.payload()["worker"] for entry in log_of(whole.store, run_id) if entry.type == Type.STARTED
    ]
    killed = next(child for child in workers if f"-{child.pid}-" in ran)
    other = next(child for child in workers if child is not killed)
    killed.sigkill()
    other.stop()
    whole.store.restart()
    other.start()
    wait_until(lambda: other.log.count("@test ready") == 2, description="the other worker", timeout_s=30)
    with GatewayThread(whole.store.url(0), whole.broker.url(1)) as gateway:
        async with gateway.client() as http:
            run = (await http.get(f"/v1/runs/{run_id}")).json()
            assert (run["status"], run["text"]) == ("requires_action", demo_text(20))
            decided = [{"call_id": "demo_tool_20", "type": "approve"}]
            body = {"action_id": run["action"]["action_id"], "decisions": decided}
            assert (await http.post(f"/v1/runs/{run_id}/resume", json=body)).status_code == 202
            done = await wait_until_async(lambda: ended(http, run_id), description="the end", timeout_s=30)
    assert (done["status"], done["text"]) == ("succeeded", demo_text(40))
    entries = log_of(whole.store, run_id)
    (resumed,) = [entry.payload() for entry in entries if entry.type == Type.RESUMED]
    assert f"-{other.pid}-" in resumed["worker"]
    assert contents.fold(entries[:-1]).text == demo_text(40)


async def start(http: httpx.AsyncClient, thread: str = "t", **wanted: Any) -> str:
    reply = await http.post(f"/v1/threads/{thread}/runs", json={"engine": "demo", "input": wanted})
    assert reply.status_code == 202, reply.text
    return reply.json()["run_id"]


async def is_paused(http: httpx.AsyncClient, run_id: str) -> bool:
    return (await http.get(f"/v1/runs/{run_id}")).json()["status"] == "requires_action"


async def ended(http: httpx.AsyncClient, run_id: str) -> dict[str, Any] | None:
    run = (await http.get(f"/v1/runs/{run_id}")).json()
    return run if run["finished_at"] else None


async def test_a_worker_lost_right_after_a_resume_is_no_loss(live):
    """Before its claim: the outbox delivers again. After it: another worker goes on from the checkpoint."""
    first = live.worker("first", **QUICK)
    wanted = {"tokens": 60, "interval_ms": 20, "approve_at": [5, 10]}
    async with client(live) as runs:
        run_id = (await runs.start("t", "demo", wanted, on_worker_lost="resume")).run_id
        run = await paused(runs, run_id)
        first.freeze()
        assert (await runs.resume(run_id, **decision(run, "approve"))).status == "queued"
        first.sigkill()
        second = live.worker("second", **QUICK)
        run = await paused(runs, run_id, after=run.action["action_id"] if run.action else "")
        assert run.text == demo_text(10)
        await runs.resume(run_id, **decision(run, "respond", text="mine"))
        await wait_until_async(lambda: says(runs, run_id, "w15"), description="the rest", timeout_s=30)
        second.sigkill()
        live.worker("third", **QUICK)
        done = await runs.wait(run_id, timeout=60)
        assert done.text == demo_text(60).replace(" w10 ", " mine ")
        kinds = Counter(entry.type for entry in log_of(live.store, run_id))
        assert (kinds["approval.required"], kinds["approval.resolved"], kinds["run.restarted"]) == (2, 2, 1)


async def says(runs: AsyncRuns, run_id: str, word: str) -> bool:
    return word in (await runs.get(run_id)).text.split()


async def test_earlier_answers_stay_through_later_pauses(live):
    """Three pauses of one run: the last segment has all decisions, and the state of the first pause."""
    live.worker(**ENGINES)
    async with client(live) as runs:
        run_id = (await runs.start("t", "asking", {"asks": ["a", "b", "c"]})).run_id
        action_id = ""
        for kind in ("approve", "reject", "edit"):
            run = await paused(runs, run_id, after=action_id)
            assert run.action is not None
            action_id = run.action["action_id"]
            more = {"arguments": {"n": 2}} if kind == "edit" else {}
            await runs.resume(run_id, **decision(run, kind, **more))
        done = await runs.wait(run_id, timeout=20)
        assert done.text == "a=approve b=reject c=edit state=a"


async def test_nobody_decides_and_the_run_goes_on_rejected(live):
    """`on_expiry="reject"`: the log says that it expired, the engine that all was rejected; it is too late then."""
    live.worker(**QUICK, **ENGINES)
    async with client(live) as runs:
        wanted = {"asks": ["a", "b"], "window_s": 0.6, "on_expiry": "reject"}
        run_id = (await runs.start("t", "asking", wanted)).run_id
        seen = [event async for event in runs.events(run_id)]
        assert seen[-1].data["text"] == "a=reject b=reject state=a"
        assert (seen[-1].data["status"], seen[-1].data["action"]) == ("succeeded", None)
        expired = [event.data["decisions"] for event in seen if event.type == "approval.expired"]
        assert [(decided["id"], decided["type"]) for (decided,) in expired] == [
            ("a", "reject"),
            ("b", "reject"),
        ]
        with pytest.raises(errors.ActionExpired):
            await runs.resume(run_id, **approval_of(seen))


def approval_of(seen: list[RunEvent]) -> dict[str, Any]:
    """What approves the last action that these events ask about."""
    action = [event.data["action"] for event in seen if event.type == "approval.required"][-1]
    decided = [{"call_id": call["call_id"], "type": "approve"} for call in action["calls"]]
    return {"action_id": action["action_id"], "decisions": decided}


async def test_followers_are_told_of_an_expiry_within_the_sweep(live):
    """Two attached readers get the end soon after the window; one that comes later gets the stored outcome."""
    live.worker(MAINSTEM_APPROVAL_WINDOW_S="1", MAINSTEM_SWEEP_S="0.4")
    async with client(live) as runs:
        run_id = (await runs.start("t", "demo", {"tokens": 4, "interval_ms": 0, "approve_at": [2]})).run_id

        async def follow() -> tuple[list[RunEvent], float]:
            return [event async for event in runs.events(run_id)], time.time()

        told = await asyncio.wait_for(asyncio.gather(follow(), follow()), 60)
        (*_, late), _ = await follow()
        assert {seen[-1].cursor for seen, _ in told} == {late.cursor}
        assert (late.type, late.data["reason"]) == ("run.finished", "approval_expired")
        assert (late.data["error"]["code"], late.data["text"]) == ("approval_expired", "w0 w1")
        (asked,) = [event.data["action"] for event in told[0][0] if event.type == "approval.required"]
        expires = datetime.fromisoformat(asked["expires_at"]).timestamp()
        # Twice the interval, and time for a machine that is busy.
        assert all(0 <= at - expires <= 2 * 0.4 + 10 for _, at in told)
        assert expires * 1000 <= late.data["at"]
        with pytest.raises(errors.ActionExpired):
            await runs.resume(run_id, **approval_of(told[0][0]))
        again = await runs.start("t", "demo", {"tokens": 1})  # the thread is free
        assert (await runs.wait(again.run_id, timeout=20)).status == "succeeded"


async def test_a_paused_run_can_be_replaced(live):
    """It ends as replaced, with its text and its call closed; the new one runs; a late decision is refused."""
    live.worker()
    async with client(live) as runs:
        run_id = (await runs.start("t", "demo", {"tokens": 4, "interval_ms": 0, "approve_at": [2]})).run_id
        run = await paused(runs, run_id)
        with pytest.raises(errors.ThreadBusy):
            await runs.start("t", "demo", {"tokens": 1})
        newer = await runs.start("t", "demo", {"tokens": 2}, if_active="replace")
        assert (await runs.wait(newer.run_id, timeout=20)).text == demo_text(2)
        old = await runs.wait(run_id, timeout=20)
        assert (old.status, old.reason, old.text, old.action) == ("aborted", "replaced", "w0 w1", None)
        assert old.content[-1]["state"] == "aborted"
        with pytest.raises(errors.NotPaused):
            await runs.resume(run_id, **decision(run, "approve"))


async def test_a_resume_takes_the_users_slot_again(live):
    """429 while the user's other run is at work; the paused one waits on, and goes on once there is room."""
    live.worker(MAINSTEM_MAX_ACTIVE_RUNS_PER_USER="1")
    with GatewayThread(live.store.url(0), live.broker.url(1), max_active_runs_per_user=1) as gateway:
        async with gateway.client() as http:
            run_id = await start(http, "a", tokens=4, interval_ms=0, approve_at=[2])
            await wait_until_async(lambda: is_paused(http, run_id), description="the pause", timeout_s=30)
            # The pause gave its slot back.
            other = await wait_until_async(lambda: try_to_start(http), description="a slot", timeout_s=20)
            action = (await http.get(f"/v1/runs/{run_id}")).json()["action"]
            decided = [{"call_id": "demo_tool_2", "type": "approve"}]
            body = {"action_id": action["action_id"], "decisions": decided}
            refused = await http.post(f"/v1/runs/{run_id}/resume", json=body)
            assert (refused.status_code, refused.json()["code"]) == (429, "too_many_runs")
            assert "retry-after" in refused.headers
            assert await is_paused(http, run_id)
            await http.post(f"/v1/runs/{other}/abort", params={"wait": 10})
            assert (await http.post(f"/v1/runs/{run_id}/resume", json=body)).status_code == 202
            done = await wait_until_async(lambda: ended(http, run_id), description="the end", timeout_s=30)
            assert done["text"] == demo_text(4)


async def try_to_start(http: httpx.AsyncClient) -> str | None:
    body = {"engine": "demo", "input": {"tokens": 100_000, "interval_ms": 20}}
    reply = await http.post("/v1/threads/b/runs", json=body)
    return reply.json()["run_id"] if reply.status_code == 202 else None


async def test_paused_runs_cost_nothing_but_their_records(live):
    """200 of them: no task is active, no worker has any in its set, and each takes under 8 KB."""
    child = live.worker()
    async with client(live) as runs:
        started = [
            (await runs.start(f"t{n}", "demo", {"tokens": 3, "interval_ms": 0, "approve_at": [1]})).run_id
            for n in range(200)
        ]
        for run_id in started:
            await paused(runs, run_id)
        app = Celery(broker=live.broker.url(1), set_as_current=False)
        inspect = app.control.inspect(timeout=2)

        def nothing_active() -> bool:
            active = inspect.active()
            return bool(active) and not any(active.values())

        await asyncio.to_thread(wait_until, nothing_active, description="the tasks' end", timeout_s=30)
        app.close()
        with live.store.client() as store:
            owned = [store.smembers(key) for key in store.scan_iter("ms:{w:*}:runs")]
            assert [members for members in owned if members] == []
            sizes = [size_of(store, run_id) for run_id in started]
        assert max(sizes) <= 8 * 1024, max(sizes)
        assert child.running


def size_of(store: Any, run_id: str) -> int:
    """Bytes that the store spends on a run and its thread."""
    return sum(store.memory_usage(key, samples=0) or 0 for key in keys.run(run_id))
