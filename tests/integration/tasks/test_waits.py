"""Runs that wait for a time or an event hold no worker, and are woken whatever dies in between."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import pytest

from mainstem_api import AsyncRuns
from mainstem_shared import errors, transitions
from mainstem_shared.model.runs import Status
from mainstem_shared.operations import waits
from mainstem_shared.operations.performing import Operations
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from mainstem_tasks import RunContext, engine
from mainstem_tasks.execution import segments
from mainstem_tasks.testing import run_engine
from support.processes import dying_process, dying_worker
from support.processes.in_process_worker import working

USER = "local"


@engine("waits.sleeps")
async def sleeps(run: RunContext[dict[str, Any]]) -> None:
    """Rest, twice: the engine is entered from its beginning each time."""
    await run.sleep(run.input["seconds"])
    await run.sleep(0.01)
    await run.text(f"slept, segment {run.segment}, ")
    await run.sleep(2.0, key="again")
    await run.text("woken")


@engine("waits.listens")
async def listens(run: RunContext[dict[str, Any]]) -> None:
    """Wait for two events, one after the other, and say what came."""
    for n, event in enumerate(run.input["events"]):
        try:
            payload = await run.wait_event(event, **run.input.get("options", {}))
            await run.memory.put(f"{n}", str(payload).encode())
        except TimeoutError:
            await run.memory.put(f"{n}", b"nothing")
    await run.text(" ".join(value.decode() for value in (await run.memory.items()).values()))


async def started(
    runs: AsyncRuns, runtime: Any, engine: str, run_input: dict[str, Any], thread: str = "t"
) -> str:
    run_id = (await runs.start(thread, engine, run_input)).run_id
    assert await segments.execute(runtime, run_id, task_id="t") == segments.PAUSED
    return run_id


async def swept(settings: Settings, store: Store, runtime: Any, run_id: str) -> Any:
    """Do what a fleet does: look at what is due, and execute what is queued."""
    await dying_worker.sweep(settings, store, runtime.operations)
    await segments.execute(runtime, run_id, task_id="t")


async def test_a_sleeping_run_is_its_record_until_it_is_time(
    settings: Settings, runs: AsyncRuns, store: Store, monkeypatch: pytest.MonkeyPatch
):
    """No worker holds it, a human cannot decide about it, and it goes on where it was."""
    async with working(settings) as runtime:
        run_id = await started(runs, runtime, "waits.sleeps", {"seconds": 3600})
        assert runtime.segments == {}
        run = await runs.get(run_id)
        assert (run.status, run.action["kind"]) == (Status.REQUIRES_ACTION, "sleep")
        with pytest.raises(errors.InvalidDecision, match="nobody decides"):
            await runs.resume(run_id, action_id=run.action["action_id"])
        await swept(settings, store, runtime, run_id)
        assert (await runs.get(run_id)).text == "", "it is not time yet"
        later = time.time() + 3601
        for module in ("operations.resuming", "operations.sweeping", "transitions.pauses"):
            monkeypatch.setattr(f"mainstem_shared.{module}.now_ms", lambda: int(later * 1000))
        await swept(settings, store, runtime, run_id)
        assert (await runs.get(run_id)).text == "slept, segment 2, "
        monkeypatch.undo()
    assert (await runs.get(run_id)).action["kind"] == "sleep"


async def test_a_short_sleep_stays_in_its_worker():
    run = await run_engine("waits.sleeps", {"seconds": 0.01})
    assert run.text == "slept, segment 1, "
    assert run.action is not None
    assert run.action.kind == "sleep"


async def test_an_event_wakes_who_waits_for_it(
    settings: Settings, runs: AsyncRuns, store: Store, http: httpx.AsyncClient
):
    """Over HTTP: each waiting run of the user, once; the same event again wakes nobody, nor does another's."""
    async with working(settings) as runtime:
        run_id = await started(runs, runtime, "waits.listens", {"events": ["paid:7", "sent:7"]})
        assert (await runs.get(run_id)).action["event"] == "paid:7"
        other = await runs.send_event("paid:7", 1, user_id="somebody else")
        assert other.woken == []
        sent = await http.post("/v1/events/paid:7", json={"payload": {"by": "card"}, "event_id": "e1"})
        assert (sent.status_code, sent.json()) == (202, {"event_id": "e1", "woken": [run_id]})
        again = await http.post(
            "/v1/events/paid:7", json={"payload": "changed"}, headers={"Idempotency-Key": "e1"}
        )
        assert again.json() == {"event_id": "e1", "woken": []}
        await segments.execute(runtime, run_id, task_id="t")
        assert (await runs.get(run_id)).action["event"] == "sent:7"
        await runs.send_event("sent:7", 2, user_id=USER)
        await segments.execute(runtime, run_id, task_id="t")
    run = await runs.get(run_id)
    assert (run.status, run.text) == (Status.SUCCEEDED, "{'by': 'card'} 2")
    assert not await store.client.exists(keys.events("default", USER, "sent:7")[1])


@pytest.mark.parametrize(("lookback_s", "text"), [(60, "early"), (0, None)])
async def test_an_event_may_come_before_its_run_waits(
    settings: Settings, runs: AsyncRuns, lookback_s: float, text: str | None
):
    """One that came within the window counts; without a window only what comes from then on."""
    async with working(settings) as runtime:
        await runs.send_event("early", "early", user_id=USER)
        await asyncio.sleep(0.01)  # the clock's next millisecond
        run_input = {"events": ["early"], "options": {"lookback_s": lookback_s}}
        run_id = await started(runs, runtime, "waits.listens", run_input)
        await segments.execute(runtime, run_id, task_id="t")
        assert ((await runs.get(run_id)).text or None) == text


async def test_nobody_sends_it_in_time(settings: Settings, runs: AsyncRuns, store: Store):
    """The wait raises TimeoutError in the engine, which goes on as it likes."""
    async with working(settings) as runtime:
        run_id = await started(runs, runtime, "waits.listens", {"events": ["x"], "options": {"timeout_s": 0}})
        await swept(settings, store, runtime, run_id)
    assert (await runs.get(run_id)).text == "nothing"


async def test_whoever_dies_while_it_sends_an_event_loses_none(
    settings: Settings, runs: AsyncRuns, store: Store
):
    """After each command of the sender: sweeps wake the run once the event is kept, else sending it again does."""
    async with working(settings) as runtime:
        for commands in range(40):
            event = f"e{commands}"
            run_id = await started(runs, runtime, "waits.listens", {"events": [event]}, thread=event)
            life = dying_process.Life(commands)
            mortal = dying_process.store(store.url, life)
            theirs = Operations(store=mortal, settings=settings, publisher=dying_process.Messages(life))
            request = waits.parse_request(event, {"payload": "came", "event_id": "1"})
            survived = True
            try:
                await waits.send(theirs, tenant="default", user_id=USER, key=event, request=request)
            except dying_process.Died:
                survived = False
            life.left = dying_worker.PLENTY
            await mortal.close()
            await swept(settings, store, runtime, run_id)
            if not (await runs.get(run_id)).status.is_terminal:
                await runs.send_event(event, "came", event_id="1", user_id=USER)
                await swept(settings, store, runtime, run_id)
            assert (await runs.get(run_id)).text == "came"
            if survived:
                assert commands > 3, "it died nowhere"
                return
    raise AssertionError("it never came to its end")


async def test_a_worker_that_dies_as_it_begins_to_wait_misses_nothing(
    settings: Settings, runs: AsyncRuns, store: Store
):
    """The event came before the run was paused, its worker died right after: a sweep finds both."""
    run_input = {"events": ["e"], "options": {"lookback_s": 60}}
    for commands in range(40):
        run_id = (
            await runs.start(f"t{commands}", "waits.listens", run_input, on_worker_lost="resume")
        ).run_id
        await runs.send_event("e", "came", event_id="1", user_id=USER)
        survived = await dying_worker.dies(settings, run_id, after=commands)
        async with working(settings) as runtime:
            for _ in range(3):
                await swept(settings, store, runtime, run_id)
            assert (await runs.get(run_id)).text == "came"
        if survived:
            return
    raise AssertionError("it never came to its end")


@pytest.mark.parametrize("damage", [b"", b"x {}", b"1700000000000 {", b"1700000000000 \xff", b"NaN 1"])
async def test_a_damaged_event_holds_up_no_other(
    settings: Settings, runs: AsyncRuns, store: Store, damage: bytes
):
    """Its entry is passed over: what comes after it wakes the run, and a sweep finds what came before."""
    kept = keys.events("default", USER, "paid").events
    async with working(settings) as runtime:
        run_id = await started(runs, runtime, "waits.listens", {"events": ["paid"]})
        await store.client.hset(kept, "e0", damage)
        await dying_worker.sweep(settings, store, runtime.operations)
        assert (await runs.send_event("paid", "now", user_id=USER, event_id="e1")).woken == [run_id]
        await segments.execute(runtime, run_id, task_id="t")
        assert (await runs.get(run_id)).text == "now"


async def test_a_damaged_run_keeps_no_other_waiting(settings: Settings, runs: AsyncRuns, store: Store):
    """Two runs wait; the record of one cannot be read."""
    async with working(settings) as runtime:
        waiting = [
            await started(runs, runtime, "waits.listens", {"events": ["paid"]}, thread=f"t{n}")
            for n in (1, 2)
        ]
        await store.client.hset(keys.run(min(waiting)).record, "action", b"{")
        assert (await runs.send_event("paid", "now", user_id=USER)).woken == [max(waiting)]


async def test_events_are_bounded(runs: AsyncRuns, store: Store):
    """A payload that no record could hold is refused; of very many events the newest are kept."""
    with pytest.raises(errors.InputTooLarge):
        await runs.send_event("e", "x" * 70_000, user_id=USER)
    with pytest.raises(errors.InvalidRequest):
        await runs.send_event("", 1, user_id=USER)
    for n in range(transitions.KEPT_EVENTS + 5):
        await runs.send_event("e", n, event_id=f"{n:03}", user_id=USER)
    events, _ = keys.events("default", USER, "e")
    kept = await store.client.hgetall(events)
    assert len(kept) == transitions.KEPT_EVENTS
    assert b"104" in kept
    assert 0 < await store.client.pttl(events) <= 86_400_000
