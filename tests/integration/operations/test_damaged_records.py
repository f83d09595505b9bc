"""Runs whose log, snapshot, final event or record cannot be read: they end, they are shown, and they spoil nothing else."""

from __future__ import annotations

import httpx
import pytest

from mainstem_api import AsyncRuns
from mainstem_shared import errors, transitions
from mainstem_shared.model import ids
from mainstem_shared.model.events import Type, field
from mainstem_shared.model.runs import Reason, Status
from mainstem_shared.operations import ending, recovery
from mainstem_shared.operations.performing import Operations
from mainstem_shared.operations.queries import summaries
from mainstem_shared.operations.queries.listings import Query
from mainstem_shared.operations.sweeping import Sweeper
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from mainstem_tasks.execution import segments
from support.models import listed
from support.processes import dying_process
from support.processes.in_process_worker import working

DEEP = b"[" * 251 + b"1" + b"]" * 251
CALL = b'{"step_id":"c1","kind":"tool_call","name":"t","at":1,"arguments":{"a":%b}}'
DAMAGES = {
    "deep": (Type.STEP_STARTED, CALL % DEEP),
    "deeper": (Type.STEP_STARTED, CALL % (b"[" * 5000 + b"]" * 5000)),
    "on the edge": (Type.STEP_STARTED, CALL % (b"[" * 198 + b"]" * 198)),
    "cut": (Type.STEP_STARTED, b'{"step_id":"c1","ki'),
    "another shape": (Type.STEP_STARTED, b'{"step_id":["c1"],"kind":1}'),
    "no object": (Type.TITLE, b"7"),
    "no UTF-8": (Type.TITLE, b'{"title":"\xff"}'),
    "no text": (Type.MESSAGE_DELTA, b'{"part":"x","text":7}'),
    "a state": (Type.RESYNC, b'{"content":[{"no":"type"}]}'),
}
"""What a log may have that no event of today looks like."""


def operations(store: Store) -> Operations:
    return Operations(store=store, settings=Settings(sweep_s=3600), publisher=dying_process.Messages())


async def running(store: Store, runs: AsyncRuns, thread_id: str = "t", owner: str = "w1") -> str:
    """Start a run that `owner` is at work on, and that has said one word."""
    run_id = (await runs.start(thread_id, "demo", {})).run_id
    claimed = await transitions.claim(
        store, run_id, nonce=ids.nonce(), owner=owner, task_id="t", live_ttl_ms=600_000
    )
    assert isinstance(claimed, transitions.Claimed)
    await store.client.sadd(keys.owned(owner), run_id)
    await store.client.pexpire(keys.owned(owner), 600_000)
    await append(store, run_id, Type.MESSAGE_DELTA, b'{"part":0,"text":"hello "}')
    return run_id


async def append(store: Store, run_id: str, kind: str, data: bytes) -> None:
    """Append an entry as a writer does that checks nothing."""
    log = keys.run(run_id).log
    ((top, _),) = await store.client.xrevrange(log, count=1)
    epoch, _, seq = top.decode().partition("-")
    await store.client.xadd(log, {field(kind): data}, id=f"{epoch}-{int(seq) + 1}")


async def poisoned(store: Store, runs: AsyncRuns, damage: str, thread_id: str = "t") -> str:
    run_id = await running(store, runs, thread_id)
    await append(store, run_id, *DAMAGES[damage])
    await append(store, run_id, Type.MESSAGE_DELTA, b'{"part":0,"text":"world"}')
    return run_id


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_event_keeps_nothing_from_being_read_or_ended(
    store: Store, runs: AsyncRuns, gateway: object, http: httpx.AsyncClient, damage: str
):
    """Run, lists, thread, overview, abort and delete work; what can be read is shown, and the error says what is not."""
    del gateway
    other = (await runs.start("another", "demo", {})).run_id
    run_id = await poisoned(store, runs, damage)
    for path in (f"/v1/runs/{run_id}", "/v1/runs", "/v1/threads/t/runs", "/v1/overview"):
        assert (await http.get(path)).status_code == 200, path
    assert {run.run_id for run in (await runs.list()).runs} == {other, run_id}
    aborted = await http.delete("/v1/threads/t")
    assert aborted.status_code in (200, 204)
    assert [run.run_id for run in (await runs.list()).runs] == [other]
    with pytest.raises(errors.NotFound):
        await runs.get(run_id)


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_sweep_ends_a_damaged_run_whose_worker_died(store: Store, runs: AsyncRuns, damage: str):
    """It says why it ended and keeps the words; afterwards it is read like any other, and its thread is free."""
    run_id = await poisoned(store, runs, damage)
    await Sweeper(operations=operations(store), owner=lambda: "the sweeper")._recover_runs_of("w1")
    run = await runs.get(run_id)
    assert (run.status, run.reason) == (Status.FAILED, Reason.WORKER_LOST)
    assert run.text.endswith("world")
    assert run.error is not None
    events = [event async for event in runs.events(run_id)]
    assert events[-1].type == Type.FINISHED
    assert (await runs.start("t", "demo", {})).run_id != run_id


async def test_a_lost_run_whose_checkpoint_is_damaged_ends(store: Store, runs: AsyncRuns):
    """Nobody can go on from it: the run ends as lost, and lets go of its thread, instead of being tried for ever."""
    run_id = (await runs.start("t", "demo", {}, on_worker_lost="resume")).run_id
    claimed = await transitions.claim(
        store, run_id, nonce=ids.nonce(), owner="w1", task_id="t", live_ttl_ms=600_000
    )
    assert isinstance(claimed, transitions.Claimed)
    await store.client.hset(
        keys.run(run_id).checkpoint, mapping={"v": 1, "cursor": "1-0", "state": b"s", "fold": b"{"}
    )
    state = await transitions.read(store, run_id)
    assert isinstance(state, transitions.State)

    await recovery.recover(operations(store), run_id, state, sealer="w2")

    ended = await transitions.read(store, run_id)
    assert isinstance(ended, transitions.State)
    assert (ended.status, ended.record.reason) == (Status.FAILED, Reason.WORKER_LOST)


async def test_a_damaged_snapshot_costs_what_it_held_and_no_more(store: Store, runs: AsyncRuns):
    """The words after it are kept, in one part; the run ends, and says that something is missing."""
    run_id = await running(store, runs)
    snapshot = keys.run(run_id).snapshot
    state = await transitions.read(store, run_id)
    assert isinstance(state, transitions.State)
    await store.client.hset(snapshot, mapping={"cursor": str(state.top), "state": b'{"content":[{'})
    await store.client.pexpire(snapshot, 600_000)
    for word in (b"a ", b"b ", b"c"):
        await append(store, run_id, Type.MESSAGE_DELTA, b'{"part":3,"text":"%b"}' % word)
    assert (await runs.get(run_id)).error is not None
    answer = await runs.abort(run_id, wait=0)
    assert answer.run.status in (Status.RUNNING, Status.ABORTED)
    ended = await ending.take_and_end(operations(store), run_id, sealer="me", reason=Reason.USER_ABORT)
    assert ended is not None
    run = await runs.get(run_id)
    assert (run.status, run.text, len(run.content)) == (Status.ABORTED, "a b c", 1)
    assert run.error is not None
    assert run.error.code == "content_damaged"


@pytest.mark.parametrize("data", [b'{"prev":"1-0","cont', b"7", b'{"prev":"2-2","content":7,"error":null}'])
async def test_a_damaged_final_event_leaves_the_outcome(
    store: Store, runs: AsyncRuns, gateway: object, http: httpx.AsyncClient, data: bytes
):
    """Status and reason are in the record: the run is shown with them, and streams of all protocols end."""
    del gateway
    run_id = await running(store, runs)
    await ending.take_and_end(operations(store), run_id, sealer="me", reason=Reason.USER_ABORT)
    log = keys.run(run_id).log
    ((top, _),) = await store.client.xrevrange(log, count=1)
    await store.client.xdel(log, top)
    epoch, _, _ = top.decode().partition("-")
    await store.client.xadd(log, {Type.FINISHED: data}, id=f"{epoch}-1")
    run = await runs.get(run_id)
    assert (run.status, run.reason) == (Status.ABORTED, Reason.USER_ABORT)
    assert run.error is not None
    assert (await http.get("/v1/runs")).json()["runs"][0]["status"] == "aborted"


@pytest.mark.parametrize("name", ["spec", "status", "epoch"])
async def test_a_damaged_record_hides_no_other(
    store: Store, runs: AsyncRuns, gateway: object, http: httpx.AsyncClient, name: str
):
    """It is left out of lists, as one of which nobody can tell whose it is; threads with it can be deleted."""
    del gateway
    damaged = await running(store, runs)
    await ending.take_and_end(operations(store), damaged, sealer="me", reason=Reason.USER_ABORT)
    healthy = (await runs.start("t", "demo", {})).run_id
    await store.client.hset(keys.run(damaged).record, name, b"\xff{")
    for path in ("/v1/runs", "/v1/threads/t/runs", "/v1/overview?active=false"):
        answer = await http.get(path)
        assert answer.status_code == 200, path
        assert healthy in answer.text
        assert damaged not in answer.text
    query = Query(user_id="local")
    listed = (await summaries.recent(store, query, limit=10, cursor=None)).runs
    assert [run.run_id for run in listed] == [healthy]
    assert (await http.get(f"/v1/runs/{damaged}")).status_code == 404
    assert await runs.delete_thread("t") == 2
    assert not await store.client.exists(keys.run(damaged).record)


async def test_a_record_that_cannot_be_executed_ends_at_its_claim(
    store: Store, runs: AsyncRuns, settings: Settings
):
    """Its input is damaged: the claim has landed, nobody else would end it, and it is not told `never executed`."""
    run_id = (await runs.start("t", "demo", {})).run_id
    await store.client.hset(keys.run(run_id).record, "input", b'{"n":' + b"1" * 5000 + b"}")
    async with working(settings) as here:
        assert await segments.execute(here, run_id, task_id="t") == "engine_error"
    run = await runs.get(run_id)
    assert (run.status, run.reason) == (Status.FAILED, Reason.ENGINE_ERROR)


@pytest.mark.parametrize("value", ["deep", "deeper", "number"])
@pytest.mark.parametrize("where", ["input", "metadata"])
async def test_what_is_stored_at_a_start_can_be_read_by_everybody(
    store: Store, runs: AsyncRuns, where: str, value: str
):
    """Input and metadata that some decoder on the way refuses are refused before anything is stored."""
    what: object = 10**5000
    if value != "number":
        what = 1
        for _ in range(101 if value == "deep" else 5000):
            what = [what]
    options = {"metadata": {"a": what}} if where == "metadata" else {}
    with pytest.raises(errors.InvalidRequest):
        await runs.start("t", "demo", {"a": what} if where == "input" else {}, **options)
    assert not await listed.scores(store.client, "recent")
