"""Aborts, deletions and slots on a real store without workers: answers, pairs, and crashes between their writes."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from mainstem_api import AsyncRuns, Runs
from mainstem_api.cli import build_app
from mainstem_api.client import async_runs as client
from mainstem_shared import errors, transitions
from mainstem_shared.coordination import mailboxes
from mainstem_shared.coordination.leases import incarnation
from mainstem_shared.model import ids
from mainstem_shared.model.runs import Reason, Status
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations import quotas
from mainstem_shared.operations.aborting import Aborter
from mainstem_shared.operations.indexes import Indexes
from mainstem_shared.operations.sweeping import Sweeper
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from mainstem_workers.mailbox_reader import MailboxReader
from support.models import listed
from support.models.logs import RunLog
from support.processes.gateways import GatewayThread
from support.waiting import wait_until_async

LEASE_MS = 60_000


@pytest.fixture
def settings(store_url: str, broker_url: str) -> Settings:
    return Settings(redis_url=store_url, broker_url=broker_url, max_active_runs_per_user=2, sweep_s=0.5)


@pytest.fixture
def sweeper(runs: AsyncRuns) -> Sweeper:
    me = incarnation()
    return Sweeper(operations=runs._operations, owner=lambda: me)


async def sweep_now(store: Store, sweeper: Sweeper) -> None:
    """One sweep that looks at every run, whenever it is due."""
    await listed.put(store.client, "active", dict.fromkeys(await listed.scores(store.client, "active"), 0))
    await store.client.delete(keys.SWEEP)
    await sweeper.sweep()


async def owned_run(store: Store, owner: str, *, alive: bool = True, **options: Any) -> RunLog:
    """A running run of an owner that exists only here."""
    log = await RunLog.start(store, **options)
    await listed.put(store.client, "active", {log.run_id: now_ms() + 60_000})
    await Indexes(store=store, settings=Settings()).own(owner, log.run_id)
    await store.client.zadd(keys.WORKERS, {owner: now_ms()})
    if alive:
        await store.client.set(keys.lease(owner), "worker", px=LEASE_MS)
    await log.claim(owner)
    await log.say(3)
    return log


# -- the abort itself


async def test_a_letter_that_nobody_reads_is_not_called_delivered(store: Store, runs: AsyncRuns):
    """Delivered means that the owner has noted it as read, not that it lies in the mailbox."""
    log = await owned_run(store, "w1")
    unread = await runs.abort(log.run_id)
    assert (unread.outcome, unread.won_from, unread.signal_delivered) == ("pending", None, False)
    ((letter_id, mail),) = await store.client.xrange(keys.mailbox("w1"))
    assert mailboxes.MESSAGE.validate_json(mail[b"m"]) == mailboxes.StopMessage(
        run_id=log.run_id, reason=Reason.USER_ABORT
    )
    await store.client.set(keys.mail_read("w1"), letter_id, ex=60)
    assert not (await runs.abort(log.run_id)).signal_delivered, "that was the first letter, not the second"
    await store.client.set(keys.mail_read("w1"), "99999999999999-0", ex=60)
    assert (await runs.abort(log.run_id)).signal_delivered


class Revocations:
    """Counts what would go to all workers."""

    def __init__(self) -> None:
        self.tasks: list[str] = []

    async def arevoke(self, task_id: str, *, terminate: bool = True) -> None:
        assert terminate
        self.tasks.append(task_id)


@pytest.mark.parametrize(
    ("whose", "broadcasts"), [("its owner's", 0), ("a deaf owner's", 1), ("nobody's", 1)]
)
async def test_all_workers_hear_only_of_what_no_owner_stops(
    store: Store, runs: AsyncRuns, whose: str, broadcasts: int
):
    """The owner's mailbox alone, once it is read; Celery's broadcast for a message that no worker has taken."""
    heard = Revocations()
    aborter = Aborter(operations=runs._operations, revoker=heard)
    if whose == "nobody's":
        run_id = (await runs.start("thread", "demo", {})).run_id
        await aborter.abort(run_id)
        assert len(heard.tasks) == broadcasts
        return
    log = await owned_run(store, "w1")
    reader = MailboxReader(store, lambda: "w1", lambda _: None)
    reading = asyncio.create_task(reader.run()) if whose == "its owner's" else None
    try:
        answer = await aborter.abort(log.run_id)
    finally:
        if reading is not None:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
    assert answer.signal_delivered is (whose == "its owner's")
    assert len(heard.tasks) == broadcasts


async def test_the_first_reason_stands(store: Store, runs: AsyncRuns):
    """A run that was asked to stop as replaced ends as that, whoever aborts it later."""
    log = await owned_run(store, "w1")
    await transitions.stop(store, log.run_id, reason=Reason.REPLACED)
    await runs.abort(log.run_id)
    await runs.kill(log.run_id)
    run = await runs.get(log.run_id)
    assert (run.reason, run.text) == ("replaced", "w0 w1 w2")


async def test_only_who_holds_a_lease_takes_from_the_dead(store: Store, runs: AsyncRuns):
    """Without a lease a dead owner's run is left to sweepers; with one it ends at once, sealed."""
    log = await owned_run(store, "w1", alive=False)
    left = await runs.abort(log.run_id)
    assert (left.outcome, left.signal_delivered) == ("pending", False)
    aborter = Aborter(operations=runs._operations, sealer=lambda: "me")
    done = await aborter.abort(log.run_id)
    assert (done.outcome, done.won_from, done.signal_delivered) == ("aborted", "running", False)
    await log.learn()
    assert [entry.type for entry in log.entries][-2:] == ["run.sealed", "run.finished"]


async def test_an_abort_waits_for_the_end_and_no_longer(store: Store, runs: AsyncRuns):
    """It returns as soon as the run is over, with what the run ended as."""
    log = await owned_run(store, "w1")
    waiting = asyncio.create_task(runs.abort(log.run_id, wait=20))

    async def posted() -> bool:
        return bool(await store.client.exists(keys.mailbox("w1")))

    await wait_until_async(posted, description="the letter")
    await log.finish(Reason.USER_ABORT)
    answer = await asyncio.wait_for(waiting, 5)
    assert (answer.outcome, answer.won_from, answer.signal_delivered) == ("aborted", "running", True)


async def test_a_run_that_ends_by_itself_was_not_aborted(store: Store, runs: AsyncRuns):
    """The intent came too late: the run succeeded, and the answer says so."""
    log = await owned_run(store, "w1")
    await transitions.stop(store, log.run_id, reason=Reason.USER_ABORT)
    waiting = asyncio.create_task(runs.abort(log.run_id, wait=20))
    await wait_until_async(lambda: store.client.exists(keys.mailbox("w1")), description="the owner's message")
    await log.finish(Reason.COMPLETED)
    answer = await asyncio.wait_for(waiting, 5)
    assert (answer.outcome, answer.won_from, answer.run.status) == ("already_finished", None, "succeeded")


async def test_an_abort_of_a_finished_run_leaves_no_trace(store: Store, runs: AsyncRuns):
    """No intent is written, no sweeper looks at it again, and the thread's next run goes on."""
    log = await owned_run(store, "w1")
    await log.finish(Reason.COMPLETED)
    before = await store.client.hgetall(log.keys.record)
    assert (await runs.abort(log.run_id)).outcome == "already_finished"
    assert await store.client.hgetall(log.keys.record) == before
    assert await listed.scores(store.client, "active") == {}


@pytest.mark.parametrize("status", ["queued for a worker", "queued behind its thread"])
async def test_a_check_without_an_intent(store: Store, runs: AsyncRuns, sweeper: Sweeper, status: str):
    """The sweeper looks sooner than it had to, and no intent was written: the run goes on untouched."""
    first = (await runs.start("t", "demo", {})).run_id
    second = (await runs.start("t", "demo", {}, if_active="enqueue")).run_id
    run_id = first if status == "queued for a worker" else second
    await runs._operations.indexes.check_at(run_id, now_ms())
    await sweep_now(store, sweeper)
    assert (await runs.get(run_id)).status == "queued"


async def test_crash_after_the_intent(store: Store, runs: AsyncRuns, sweeper: Sweeper):
    """The other side: intents alone end what nobody runs, and are posted to who runs the rest."""
    running = await owned_run(store, "w1")
    orphan = await owned_run(store, "w2", alive=False)
    first = (await runs.start("t", "demo", {}, user_id="a")).run_id
    behind = (await runs.start("t", "demo", {}, user_id="a", if_active="enqueue")).run_id
    for run_id in (running.run_id, orphan.run_id, behind):
        await transitions.stop(store, run_id, reason=Reason.USER_ABORT)
    await sweep_now(store, sweeper)
    assert (await runs.get(orphan.run_id)).reason == "user_abort"
    assert (await runs.get(behind)).reason == "user_abort"
    assert (await runs.get(first)).status == "queued"
    assert (await runs.get(running.run_id)).status == "running"
    ((_, mail),) = await store.client.xrange(keys.mailbox("w1"))
    assert running.run_id in mail[b"m"].decode()


# -- over HTTP


@pytest.fixture
def gateway(settings: Settings, store_url: str, broker_url: str) -> Iterator[GatewayThread]:
    with GatewayThread(store_url, broker_url, max_active_runs_per_user=2) as running:
        yield running


async def test_abort_over_http(http: httpx.AsyncClient, store: Store):
    """200 once it is over, 202 while it is pending, 404 for what is not there, 422 for a wait out of range."""
    started = (await http.post("/v1/threads/t/runs", json={"engine": "demo"})).json()
    url = f"/v1/runs/{started['run_id']}/abort"
    reply = await http.post(url)
    assert reply.status_code == 200
    assert {**reply.json(), "run": reply.json()["run"]["reason"]} == {
        "run": "user_abort", "outcome": "aborted", "won_from": "queued", "signal_delivered": True,
    }  # fmt: skip
    again = await http.post(url, params={"wait": 30})
    assert (again.status_code, again.json()["outcome"]) == (200, "already_finished")
    assert again.json()["run"] == reply.json()["run"]
    log = await owned_run(store, "w1")
    pending = await http.post(f"/v1/runs/{log.run_id}/abort")
    assert (pending.status_code, pending.json()["outcome"]) == (202, "pending")
    assert pending.json()["run"]["text"] == "w0 w1 w2"
    other = await RunLog.start(store, user_id="ann")
    assert (await http.post(f"/v1/runs/{other.run_id}/abort")).status_code == 404
    assert (await http.post(url, params={"wait": 31})).status_code == 422
    state = await transitions.read(store, other.run_id)
    assert isinstance(state, transitions.State)
    assert state.record.stop_reason is None


async def test_delete_over_http(http: httpx.AsyncClient, store: Store):
    """204, and nothing of the thread is left in the store; 404 for threads that are not there or not yours."""
    for n in range(2):
        await http.post(
            "/v1/threads/t/runs",
            json={"engine": "demo", "if_active": "enqueue"},
            headers={"Idempotency-Key": str(n)},
        )
    other = await RunLog.start(store, user_id="ann")
    thread = ids.thread_tag("default", "t")
    assert len([key async for key in store.client.scan_iter(f"*{thread}*")]) > 4
    assert (await http.delete("/v1/threads/t")).status_code == 204
    assert [key async for key in store.client.scan_iter(f"*{thread}*")] == []
    assert await members_naming(store, thread) == []
    assert (await http.delete("/v1/threads/t")).status_code == 404
    state = await transitions.read(store, other.run_id)
    assert isinstance(state, transitions.State)
    assert (await http.delete(f"/v1/threads/{state.spec.thread_id}")).status_code == 404


async def members_naming(store: Store, tag: str) -> list[str]:
    """Entries of any index that name a run of a thread."""
    found: list[str] = []
    async for key in store.client.scan_iter():
        if await store.client.type(key) == b"zset":
            found += [m.decode() for m in await store.client.zrange(key, 0, -1) if m.decode().startswith(tag)]
    return found


async def test_too_many_runs_over_http(http: httpx.AsyncClient):
    """429 `too_many_runs` with Retry-After; an abort makes room at once."""
    first, *_ = [
        (await http.post(f"/v1/threads/t{n}/runs", json={"engine": "demo"})).json() for n in range(2)
    ]
    refused = await http.post("/v1/threads/t9/runs", json={"engine": "demo"})
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_runs")
    assert int(refused.headers["Retry-After"]) > 0
    await http.post(f"/v1/runs/{first['run_id']}/abort")
    assert (await http.post("/v1/threads/t9/runs", json={"engine": "demo"})).status_code == 202


# -- deleting


async def test_deleting_a_thread_takes_it_from_a_worker_that_does_not_react(
    store: Store, runs: AsyncRuns, monkeypatch
):
    """The owner lives but does nothing: after the wait the run is sealed, ended and gone; its reader learns it."""
    monkeypatch.setattr(client, "Deleter", functools.partial(client.Deleter, wait_s=0.2))
    log = await owned_run(store, "w1", thread_id="t")
    seen: list[str] = []

    async def follow() -> None:
        async for event in runs.events(log.run_id):
            seen.append(event.type)  # noqa: PERF401 - it is looked at while it grows

    reader = asyncio.create_task(follow())
    await wait_until_async(lambda: len(seen) > 2, description="the reader to follow")
    assert await runs.delete_thread("t", user_id="local") == 1
    await asyncio.wait_for(asyncio.gather(reader, return_exceptions=True), 10)
    assert not reader.exception() or isinstance(reader.exception(), errors.NotFound)
    with pytest.raises(errors.NotFound):
        await runs.get(log.run_id)
    assert [key async for key in store.client.scan_iter(f"*{ids.thread_tag('default', 't')}*")] == []


async def test_deleting_a_user_leaves_nothing_of_theirs(store: Store, runs: AsyncRuns):
    """Runs of all threads and states go; another user's on the same thread stay."""
    mine = [(await runs.start(f"t{n}", "demo", {}, user_id="ann")).run_id for n in range(2)]
    other = (await runs.start("t0", "demo", {}, user_id="bob", if_active="enqueue")).run_id
    ended = await RunLog.start(store, user_id="ann")
    await store.client.zadd(keys.user_runs("default", "ann"), {ended.run_id: now_ms()})
    await ended.finish(Reason.USER_ABORT)
    assert await runs.delete_user("ann") == 3
    for run_id in (*mine, ended.run_id):
        with pytest.raises(errors.NotFound):
            await runs.get(run_id)
    assert not (await runs.list(user_id="ann")).runs
    assert not await store.client.exists(keys.user_slots("default", "ann"), keys.user_runs("default", "ann"))
    survivor = await runs.get(other)
    assert (survivor.status, survivor.waiting_for) == ("queued", "worker"), "the thread was handed on"


async def test_crash_between_a_runs_deletion_and_its_indexes(store: Store, runs: AsyncRuns, sweeper: Sweeper):
    """The run is gone, indexes still name it: no content is left, and sweeps and slots drop the entries."""
    run_id = (await runs.start("t", "demo", {}, user_id="ann")).run_id
    await runs.kill(run_id)
    await store.client.zadd(keys.user_slots("default", "ann"), {run_id: now_ms() - quotas.START_GRACE_MS - 1})
    assert await transitions.forget(store, run_id)
    await listed.put(store.client, "active", {run_id: 0})
    assert [key async for key in store.client.scan_iter(f"*{run_id[:16]}*")] == []
    assert (await runs.list()).runs == []
    await listed.put(store.client, "compact", {run_id: 0})
    await sweep_now(store, sweeper)
    assert run_id not in await listed.scores(store.client, "compact")
    assert run_id not in await listed.scores(store.client, "active")
    for n in range(2):
        await runs.start(f"t{n}", "demo", {}, user_id="ann")


async def test_active_runs_are_not_forgotten(store: Store):
    """The verb refuses what is not over; what never was is no error."""
    log = await RunLog.start(store)
    assert not await transitions.forget(store, log.run_id)
    assert await transitions.forget(store, ids.run_id("default", "no such thread", ids.uuid7()))


# -- slots


async def test_slots_count_what_is_at_work(runs: AsyncRuns):
    """Two may be at work; another user's do not count; a replay needs none; a busy thread is said to be busy."""
    await runs.start("t1", "demo", {}, user_id="ann", idempotency_key="k")
    second = (await runs.start("t2", "demo", {}, user_id="ann")).run_id
    with pytest.raises(errors.TooManyRuns):
        await runs.start("t3", "demo", {}, user_id="ann")
    assert (await runs.start("t1", "demo", {}, user_id="ann", idempotency_key="k")).replayed
    with pytest.raises(errors.ThreadBusy) as busy:
        await runs.start("t2", "demo", {}, user_id="ann")
    assert busy.value.run_id == second
    await runs.start("t3", "demo", {}, user_id="bob")


async def test_replacing_needs_no_room(runs: AsyncRuns):
    """Who is at the limit can still replace what runs: one goes, one comes."""
    for n in range(2):
        await runs.start(f"t{n}", "demo", {}, user_id="ann")
    new = await runs.start("t0", "demo", {}, user_id="ann", if_active="replace")
    assert (new.run.status, new.run.waiting_for) == ("queued", "worker")
    with pytest.raises(errors.TooManyRuns):
        await runs.start("t5", "demo", {}, user_id="ann")


async def test_concurrent_starts_never_exceed_the_limit(runs: AsyncRuns):
    """Twenty at once: two start, eighteen are refused."""
    tries = await asyncio.gather(
        *(runs.start(f"t{n}", "demo", {}, user_id="ann") for n in range(20)), return_exceptions=True
    )
    assert sum(isinstance(one, errors.TooManyRuns) for one in tries) == 18


async def test_crash_between_a_slot_and_its_run(store: Store, runs: AsyncRuns):
    """Slots of starts that died count for seconds, then the next refusal drops them."""
    mine = keys.user_slots("default", "ann")
    dead = [ids.run_id("default", f"t{n}", ids.uuid7()) for n in range(2)]
    for run_id in dead:
        await store.client.zadd(mine, {run_id: now_ms()})
    await store.client.pexpire(mine, 60_000)
    with pytest.raises(errors.TooManyRuns):
        await runs.start("t5", "demo", {}, user_id="ann")
    for run_id in dead:
        await store.client.zadd(mine, {run_id: now_ms() - quotas.START_GRACE_MS - 1})
    started = await runs.start("t5", "demo", {}, user_id="ann")
    assert await store.client.zrange(mine, 0, -1) == [started.run_id.encode()]


async def test_a_lost_release_is_found(store: Store, runs: AsyncRuns):
    """Runs ended by a process that released nothing: their slots are free when somebody wants them."""
    for n in range(2):
        await runs.start(f"t{n}", "demo", {}, user_id="ann")
    async with AsyncRuns(runs.settings.model_copy(update={"max_active_runs_per_user": 0})) as careless:
        for run in (await careless.list(user_id="ann")).runs:
            await careless.abort(run.run_id)
    assert await store.client.zcard(keys.user_slots("default", "ann")) == 2
    await runs.start("t5", "demo", {}, user_id="ann")
    assert await store.client.zcard(keys.user_slots("default", "ann")) == 1


# -- threads


async def test_a_replaced_queued_run_makes_room_at_once(runs: AsyncRuns):
    """The replacement starts after the terminal event of the old one, which nobody ran; and so on."""
    old = (await runs.start("t", "demo", {})).run_id
    new = await runs.start("t", "demo", {}, if_active="replace")
    assert (await runs.get(old)).reason == "replaced"
    assert new.run.waiting_for == "worker"


async def test_a_waiting_replacement_is_replaced_in_its_turn(store: Store, runs: AsyncRuns):
    """Behind a running run only the newest replacement waits; the one before it is over at once."""
    log = await owned_run(store, "w1", thread_id="t")
    second = (await runs.start("t", "demo", {}, user_id="a", if_active="replace")).run_id
    third = (await runs.start("t", "demo", {}, user_id="a", if_active="replace")).run_id
    assert (await runs.get(second)).reason == "replaced"
    assert (await runs.get(third)).waiting_for == "thread"
    await log.finish(Reason.REPLACED)
    assert (await runs.get(third)).waiting_for == "worker"


async def test_a_thread_whose_holder_is_gone_is_handed_on(store: Store, runs: AsyncRuns, sweeper: Sweeper):
    """The holder's record expired: a sweep gives the thread to the first that waits, and publishes it."""
    holder = (await runs.start("t", "demo", {}, user_id="a")).run_id
    waiting = [(await runs.start("t", "demo", {}, user_id="b", if_active="enqueue")).run_id for _ in range(2)]
    await sweep_now(store, sweeper)
    assert [(await runs.get(run_id)).waiting_for for run_id in waiting] == ["thread"] * 2
    await store.client.delete(keys.run(holder).record)
    await sweep_now(store, sweeper)
    assert [(await runs.get(run_id)).waiting_for for run_id in waiting] == ["worker", "thread"]
    state = await transitions.read(store, waiting[0])
    assert isinstance(state, transitions.State)
    assert state.record.published_ms is not None


async def test_a_lost_queue_loses_no_run(store: Store, runs: AsyncRuns, sweeper: Sweeper):
    """The queue's list is gone: those that wait get the thread one after the other."""
    holder = (await runs.start("t", "demo", {}, user_id="a")).run_id
    waiting = [(await runs.start("t", "demo", {}, user_id="b", if_active="enqueue")).run_id for _ in range(2)]
    await store.client.delete(keys.run(holder).thread_queue)
    await runs.abort(holder)
    for _ in waiting:
        await sweep_now(store, sweeper)
        states = [await runs.get(run_id) for run_id in waiting]
        (active,) = [run for run in states if run.waiting_for == "worker"]
        await runs.abort(active.run_id)
    assert {(await runs.get(run_id)).status for run_id in waiting} == {Status.ABORTED}


async def test_waiting_for_a_thread_outlasts_the_live_ttl(store: Store, runs: AsyncRuns, sweeper: Sweeper):
    """Each look of a sweeper lengthens the life of a run that waits for its turn."""
    await runs.start("t", "demo", {})
    waiting = (await runs.start("t", "demo", {}, if_active="enqueue")).run_id
    k = keys.run(waiting)
    for key in (k.record, k.log, k.thread, k.thread_queue):
        await store.client.pexpire(key, 5000)
    await sweep_now(store, sweeper)
    for key in (k.record, k.log, k.thread, k.thread_queue):
        assert await store.client.pttl(key) > 60_000, key


# -- operators


async def test_operators_end_and_publish_runs(store: Store, runs: AsyncRuns):
    """`kill` ends what nobody reacts to; `requeue` publishes what waits for a worker, and nothing else."""
    log = await owned_run(store, "w1")
    killed = await runs.kill(log.run_id)
    assert (killed.status, killed.text) == ("aborted", "w0 w1 w2")
    assert (await runs.kill(log.run_id)).cursor == killed.cursor
    with pytest.raises(errors.Conflict):
        await runs.requeue(log.run_id)
    queued = (await runs.start("t", "demo", {})).run_id
    assert await runs.requeue(queued)
    assert await store.client.hget(keys.run(queued).record, "publishes") == b"2"
    leftovers = [owner async for owner in store.client.scan_iter("*:lease")]
    assert leftovers == [keys.lease("w1").encode()], "the lease of the kill is given back"


def test_ending_runs_from_the_command_line(settings: Settings, gateway: GatewayThread, runs_sync: Runs):
    """`abort` asks the gateway, `kill` and `requeue` the store; each says in one line what became of the run."""
    env = {**settings.environment(), "MAINSTEM_URL": gateway.url}

    def call(*arguments: str) -> Result:
        return CliRunner().invoke(build_app([arguments[0]]), arguments, env=env)

    first = runs_sync.start("t1", "demo", {}).run_id
    published = call("requeue", first)
    assert (published.exit_code, published.stdout) == (0, f"{first} is published.\n")
    aborted = call("abort", first)
    assert (aborted.exit_code, aborted.stdout) == (0, "Aborted while queued.\n")
    again = call("abort", first, "--json")
    assert (again.exit_code, json.loads(again.stdout)["outcome"]) == (0, "already_finished")
    assert "It had ended before: aborted, user_abort." in call("abort", first).stdout
    second = runs_sync.start("t2", "demo", {}).run_id
    killed = call("kill", second)
    assert (killed.exit_code, killed.stdout) == (0, f"{second} is aborted: user_abort.\n")
    assert isinstance(call("requeue", second).exception, errors.Conflict)
    assert call("abort", "nonsense").exit_code == 2


@pytest.fixture
def runs_sync(settings: Settings) -> Iterator[Runs]:
    with Runs(settings) as client:
        yield client
