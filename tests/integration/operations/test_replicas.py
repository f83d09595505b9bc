"""Several gateways and clients over one store: what one of them did, all of them have."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from mainstem_api import AsyncRuns
from mainstem_shared import errors, transitions
from mainstem_shared.model import ids
from mainstem_shared.model.actions import Action, Call
from mainstem_shared.model.events import Type
from mainstem_shared.model.principals import Principal
from mainstem_shared.model.runs import ErrorInfo, Reason
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations import resuming, starting
from mainstem_shared.operations.performing import Operations
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.clients.checking_reader import Reader
from support.models.logs import RunLog
from support.processes.gateways import GatewayThread, open_stream
from support.waiting import wait_until_async


@pytest.fixture
async def two(store_url: str, broker_url: str) -> AsyncIterator[tuple[httpx.AsyncClient, httpx.AsyncClient]]:
    """Clients of two gateways."""
    # Both are made before either serves: FastAPI silences warnings while it builds routes, for all threads at once.
    one, other = (GatewayThread(store_url, broker_url) for _ in range(2))
    with one, other:
        async with one.client() as first, other.client() as second:
            yield first, second


async def read(http: httpx.AsyncClient, log: RunLog) -> Reader:
    """Follow a run from its beginning to the end."""
    reader = Reader(log)
    async with open_stream(http, log.run_id) as stream:
        async for event in stream:
            reader.take(*event)
        assert stream.ended == "clean"
    return reader


async def test_a_run_is_at_every_gateway_as_soon_as_it_is_started(two, store: Store):
    """Owner, tenant, thread, engine, metadata and creation are there with the answer, wherever it is asked for."""
    here, there = two
    for n in range(10):
        before = now_ms()
        body = {"engine": "demo", "metadata": {"chat": n}}
        started = (await here.post(f"/v1/threads/t{n}/runs", json=body)).json()
        assert (await there.get(f"/v1/runs/{started['run_id']}")).json() == started
        state = await transitions.read(store, started["run_id"])
        assert isinstance(state, transitions.State)
        spec = state.spec
        assert (spec.thread_id, spec.user_id, spec.tenant) == (f"t{n}", "local", "default")
        assert spec.metadata == {"chat": n}
        assert before <= spec.created_ms <= now_ms()
        async with open_stream(there, started["run_id"]) as stream:
            assert (await anext(stream)).type == Type.CREATED


async def test_what_nobody_followed_is_there_for_whoever_comes(two, store: Store):
    """Written without any reader, read from two gateways while it goes on, and again after its end."""
    log = await RunLog.start(store)
    await log.claim()
    await log.say(50)
    following = [asyncio.create_task(read(http, log)) for http in two]
    await log.say(50)
    await log.finish()
    early = await asyncio.gather(*following)
    late = [await read(http, log) for http in two]
    for reader in (*early, *late):
        reader.check_end()
        assert reader.ids == [entry.cursor for entry in log.entries]


@pytest.mark.parametrize("compacted", [False, True])
async def test_a_late_reader_of_a_failed_run_gets_its_error(two, store: Store, *, compacted: bool):
    """At any gateway: what was said before, then the end with status, reason and error; and so does a read."""
    log = await RunLog.start(store)
    await log.claim()
    await log.say(3)
    error = ErrorInfo(code="engine_error", message="it broke")
    await transitions.finish(
        store,
        log.control,
        nonce=ids.nonce(),
        top=log.top,
        reason=Reason.ENGINE_ERROR,
        state=log.fold.dump(),
        error=error,
        retention_ms=60_000,
        compact_after_ms=60_000,
    )
    await log.learn()
    if compacted:
        await log.compact()
    for http in two:
        reader = await read(http, log)
        reader.check_end()
        last = json.loads(reader._data[-1])
        assert (last["status"], last["reason"], last["text"]) == ("failed", "engine_error", "w0 w1 w2")
        assert last["error"] == error.model_dump()
        run = (await http.get(f"/v1/runs/{log.run_id}")).json()
        assert (run["status"], run["error"], run["text"]) == ("failed", error.model_dump(), "w0 w1 w2")


async def test_of_starts_that_race_for_a_thread_one_wins(settings: Settings, store: Store):
    """From two clients at once: the losers are told who won, and leave nothing behind."""
    async with AsyncRuns(settings) as one, AsyncRuns(settings) as other:
        tries = await asyncio.gather(
            *((one, other)[n % 2].start("t", "demo", {"n": n}) for n in range(20)), return_exceptions=True
        )
        (winner,) = (answer.run_id for answer in tries if not isinstance(answer, BaseException))
        refused = [answer for answer in tries if isinstance(answer, BaseException)]
        assert {type(answer) for answer in refused} == {errors.ThreadBusy}
        assert {answer.run_id for answer in refused} == {winner}
        records = [key async for key in store.client.scan_iter("*:record")]
        assert records == [keys.run(winner).record.encode()]
        for index in (keys.run(winner).active, keys.run(winner).recent, keys.user_runs("default", "local")):
            assert await store.client.zrange(index, 0, -1) == [winner.encode()]


async def test_the_active_and_the_latest_run_of_a_thread_can_be_asked_for(settings: Settings, store: Store):
    """Whoever comes back to a thread finds the run to follow, in flight or over."""
    async with AsyncRuns(settings) as runs:
        old = (await runs.start("t", "demo")).run_id
        await runs.abort(old)
        assert (await runs.list(thread_id="t", active=True)).runs == []
        assert [run.run_id for run in (await runs.list(thread_id="t", limit=1)).runs] == [old]
        new = (await runs.start("t", "demo")).run_id
        assert [run.run_id for run in (await runs.list(thread_id="t", active=True)).runs] == [new]
        assert [run.run_id for run in (await runs.list(thread_id="t", limit=1)).runs] == [new]


async def test_a_user_of_one_tenant_is_nobody_in_another(settings: Settings):
    """The same user id and thread in two tenants: two threads, two lists, two counts against the limit."""
    async with AsyncRuns(settings.model_copy(update={"max_active_runs_per_user": 1})) as runs:
        made = {
            tenant: (await runs.start("t", "demo", user_id="ann", tenant=tenant)).run_id
            for tenant in ("default", "other")
        }
        assert len({run_id[:16] for run_id in made.values()}) == 2
        for tenant, run_id in made.items():
            listed = await runs.list(user_id="ann", tenant=tenant, active=True)
            assert [run.run_id for run in listed.runs] == [run_id]
            with pytest.raises(errors.TooManyRuns):
                await runs.start("t2", "demo", user_id="ann", tenant=tenant)
            (other,) = set(made) - {tenant}
            for ask in (runs.get, runs.abort, lambda *a, **b: anext(runs.events(*a, **b))):
                with pytest.raises(errors.NotFound):
                    await ask(run_id, user_id="ann", tenant=other)


async def test_a_paused_run_is_active_until_its_window_is_over(settings: Settings, store: Store):
    """It holds its thread and stands among its user's active runs; expired, neither."""
    log = await RunLog.start(store, user_id="ann", thread_id="t")
    await store.client.zadd(keys.user_runs("default", "ann"), {log.run_id: now_ms()})
    await store.client.expire(keys.user_runs("default", "ann"), 60)
    await log.claim()
    state = await transitions.read(store, log.run_id)
    assert isinstance(state, transitions.State)
    call = Call(call_id="c", name="tool", arguments={}, arguments_schema={"type": "object"})
    expires_ms = now_ms() + 300
    await transitions.pause(
        store,
        log.control,
        nonce=ids.nonce(),
        top=log.top,
        spec=state.spec,
        action=Action(action_id="a", kind="tool_approval", calls=(call,), expires_ms=expires_ms),
        fold=log.fold,
        checkpoint=None,
        settings=settings,
    )
    async with AsyncRuns(settings) as runs:
        assert [run.run_id for run in (await runs.list(user_id="ann", active=True)).runs] == [log.run_id]
        with pytest.raises(errors.ThreadBusy):
            await runs.start("t", "demo", user_id="ann")
        await wait_until_async(lambda: now_ms() > expires_ms, description="the window to be over")
        operations = Operations(store=store, settings=settings, publisher=Nobody())
        await resuming.expire(operations, log.run_id, sealer="the sweeper")
        assert (await runs.list(user_id="ann", active=True)).runs == []
        assert (await runs.get(log.run_id)).reason is Reason.APPROVAL_EXPIRED
        await runs.start("t", "demo", user_id="ann")


class Nobody:
    """A broker's front that takes every message."""

    async def apublish(self, run_id: str, **about: Any) -> str:
        return f"task of {run_id}"


async def test_what_triggered_a_run_is_recorded(settings: Settings, store: Store):
    """In the record and in the first event."""
    for trigger in ("user", "schedule"):
        outcome = await starting.start_run(
            Operations(store=store, settings=settings, publisher=Nobody()),
            starting.parse_request({"engine": "demo"}),
            principal=Principal(user_id="ann"),
            thread_id=trigger,
            trigger=trigger,
        )
        state = await transitions.read(store, outcome.run_id)
        assert isinstance(state, transitions.State)
        assert (state.spec.trigger, state.entries[0].payload()["trigger"]) == (trigger, trigger)
