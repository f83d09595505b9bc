"""What is left of runs that ended or were deleted, and what sweeps do about it."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from pydantic import ValidationError

from mainstem_api import AsyncRuns
from mainstem_shared import errors, transitions
from mainstem_shared.model import ids
from mainstem_shared.model.runs import Reason
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations import ending
from mainstem_shared.operations.aborting import Aborter
from mainstem_shared.operations.deleting import Deleter
from mainstem_shared.operations.performing import Operations
from mainstem_shared.operations.sweeping import Sweeper
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.models import listed
from support.models.logs import RunLog


class Messages:
    """A broker's front that notes what is published."""

    def __init__(self) -> None:
        self.published: list[str] = []

    async def apublish(self, run_id: str, **about: Any) -> str:
        self.published.append(run_id)
        return f"task of {run_id}"


def operations(store: Store, **settings: Any) -> Operations:
    return Operations(store=store, settings=Settings(**settings), publisher=Messages())


async def sweep(store: Store, by: Operations) -> None:
    """One sweep that is sure to be elected."""
    await store.client.delete(keys.SWEEP)
    await Sweeper(operations=by, owner=lambda: "the sweeper").sweep()


async def due(store: Store, log: RunLog) -> None:
    await listed.put(store.client, "active", {log.run_id: now_ms() - 1})


async def keys_naming(store: Store, tag: str) -> list[bytes]:
    """Keys of a thread, and indexes with an entry of it."""
    found = [key async for key in store.client.scan_iter(f"*{tag}*")]
    async for key in store.client.scan_iter():
        if await store.client.type(key) in (b"zset", b"set"):
            kind = await store.client.type(key)
            members = await (
                store.client.zrange(key, 0, -1) if kind == b"zset" else store.client.smembers(key)
            )
            found += [key for member in members if member.startswith(tag.encode())]
    return found


# -- ends and deletions


async def test_an_end_that_races_a_deletion_leaves_nothing(store: Store):
    """Thirty times: an owner writes, ends its run and tidies while the thread is deleted: no key comes back."""
    dice = random.Random(3)
    by = operations(store, compact_after_s=0)
    deleter = Deleter(aborter=Aborter(operations=by, sealer=lambda: "the deleter"), wait_s=0.05)
    ended_first = 0
    for n in range(30):
        log = await RunLog.start(store, thread_id=f"race {n}")
        await by.indexes.own("w1", log.run_id)
        await store.client.set(keys.lease("w1"), "worker", ex=60)
        await log.claim("w1")

        async def work(log: RunLog = log) -> bool:
            await log.say(3)
            await asyncio.sleep(dice.uniform(0, 0.006))
            done = await ending.finish(by, log.control, fold=log.fold, top=log.top, reason=Reason.COMPLETED)
            return isinstance(done, transitions.Finished)

        deleting = deleter.delete_thread(f"race {n}", tenant="default", user_id="local")
        finished, deleted = await asyncio.gather(work(), deleting)
        ended_first += finished
        assert deleted == 1
        await sweep(store, by)
        assert await keys_naming(store, ids.split(log.run_id)[0]) == []
    assert ended_first, "the deletion always came first: nothing raced"


async def test_an_end_that_did_not_reach_the_indexes_is_tidied(store: Store, settings: Settings):
    """The process died between the two writes: a sweep drops the entry, and publishes the thread's next run."""
    by = operations(store)
    log = await RunLog.start(store, thread_id="t")
    async with AsyncRuns(settings) as runs:
        waiting = (await runs.start("t", "demo", {}, if_active="enqueue")).run_id
    await log.claim()
    await log.say(2)
    await log.finish()
    for run_id in (log.run_id, waiting):
        await listed.put(store.client, "active", {run_id: now_ms() - 1})
    await sweep(store, by)
    assert set(await listed.scores(store.client, "active")) == {waiting}
    assert await store.client.zscore(keys.run(log.run_id).compact, log.run_id) > now_ms()
    assert isinstance(by.publisher, Messages)
    assert by.publisher.published == [waiting]


@pytest.mark.parametrize(("after_s", "left"), [(0, 1), (60, 5)])
async def test_deltas_are_dropped_when_they_are_due(store: Store, after_s: float, left: int):
    """MAINSTEM_COMPACT_AFTER_S after the end only the final event is kept; 0 means with the next sweep."""
    by = operations(store, compact_after_s=after_s)
    log = await RunLog.start(store)
    await log.claim()
    await log.say(2)
    assert isinstance(
        await ending.finish(by, log.control, fold=log.fold, top=log.top, reason=Reason.COMPLETED),
        transitions.Finished,
    )
    await asyncio.sleep(0.002)  # a millisecond later than its end
    await sweep(store, by)
    assert await store.client.xlen(log.keys.log) == left
    ttl = await store.client.pttl(log.keys.record)
    assert by.settings.retention_ms - 10_000 < ttl <= by.settings.retention_ms


def test_a_retention_of_nothing_is_refused():
    """A finished run is always there for a while: nobody could read its outcome otherwise."""
    with pytest.raises(ValidationError):
        Settings(retention_s=0)


async def test_a_start_lengthens_the_life_of_its_users_list(store: Store, settings: Settings):
    """The list of a user's runs lives as long as the newest of them may."""
    async with AsyncRuns(settings) as runs:
        await runs.start("t0", "demo", {}, user_id="ann")
        mine = keys.user_runs("default", "ann")
        await store.client.pexpire(mine, 5000)
        await runs.start("t1", "demo", {}, user_id="ann")
        assert await store.client.pttl(mine) > settings.thread_ttl_ms - 10_000


# -- sweeps


async def test_a_run_that_cannot_be_read_does_not_stop_a_sweep(store: Store):
    """Records of another version, or damaged: those after them are looked at all the same, and they are kept."""
    by = operations(store)
    damaged, behind, lost = [await RunLog.start(store) for _ in range(3)]
    await behind.finish(Reason.USER_ABORT)
    await store.client.hset(damaged.keys.record, mapping={"status": "of a later version"})
    await lost.claim("w1")
    for owned in (damaged, lost):
        await by.indexes.own("w1", owned.run_id)
    await store.client.zadd(keys.WORKERS, {"w1": 1})
    looks = {damaged.run_id: 1, behind.run_id: 2, lost.run_id: now_ms() + 60_000}
    await listed.put(store.client, "active", looks)
    sweeper = Sweeper(operations=by, owner=lambda: "the sweeper")
    for _ in range(2):
        await store.client.delete(keys.SWEEP)
        await sweeper.sweep()
    assert sweeper.swept == 2
    assert await store.client.zscore(keys.run(behind.run_id).active, behind.run_id) is None
    assert await store.client.zscore(keys.run(damaged.run_id).active, damaged.run_id) > now_ms()
    assert await store.client.hget(lost.keys.record, "reason") == b"worker_lost"
    assert await store.client.hget(damaged.keys.record, "status") == b"of a later version"


async def test_sweeps_leave_a_run_alone_that_changed_hands(store: Store):
    """Its former owner is dead, and is still said to have it; whoever saw it before does not end it either."""
    by = operations(store)
    log = await RunLog.start(store)
    await by.indexes.own("w1", log.run_id)
    await store.client.zadd(keys.WORKERS, {"w1": 1})
    await log.claim("w1")
    seen = await transitions.read(store, log.run_id)
    assert isinstance(seen, transitions.State)
    await log.handover()
    await log.claim("w2")
    sweeper = Sweeper(operations=by, owner=lambda: "the sweeper")
    for _ in range(2):
        await sweeper.sweep()
    assert await store.client.zrange(keys.WORKERS, 0, -1) == []
    late = await ending.take_and_end(
        by, log.run_id, sealer="me", reason=Reason.WORKER_LOST, expected_epoch=seen.epoch
    )
    assert late is not None
    assert not late.mine
    assert await store.client.hget(log.keys.record, "owner") == b"w2"
    await log.say(1)
    await log.finish()


async def test_an_unknown_run_is_ended_by_nobody(store: Store):
    """Ending what is gone writes nothing."""
    by = operations(store)
    gone = ids.run_id("default", "t", ids.uuid7())
    assert await ending.take_and_end(by, gone, sealer="me", reason=Reason.USER_ABORT) is None
    with pytest.raises(errors.NotFound):
        await Aborter(operations=by).abort(gone)
    assert await store.client.dbsize() == 0
