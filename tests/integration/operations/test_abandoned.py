"""Runs that say they are at work while nobody works on them, and that watching leases misses: a sweep's second look."""

from __future__ import annotations

import asyncio
from typing import Any

from mainstem_shared import transitions
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations import recovery
from mainstem_shared.operations.performing import SEAL, Operations, nobody
from mainstem_shared.operations.sweeping import CHECK_LEASES, Sweeper
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.models import listed
from support.models.logs import RunLog
from support.models.verb_calls import seal
from support.processes import dying_process

SETTINGS = Settings()
LOOK_MS = int(CHECK_LEASES * SETTINGS.lease_s * 1000)


async def sweep(store: Store, log: RunLog) -> None:
    """A sweep in which the run is due."""
    await listed.put(store.client, "active", {log.run_id: 0})
    await store.client.delete(keys.SWEEP)
    operations = Operations(store=store, settings=SETTINGS, publisher=dying_process.Messages())
    await Sweeper(operations=operations, owner=lambda: "the sweeper").sweep()


async def alive(store: Store, owner: str) -> None:
    await store.client.set(keys.lease(owner), "gateway", px=60_000)
    await store.client.zadd(keys.WORKERS, {owner: now_ms()})


async def status(log: RunLog) -> str:
    state = await transitions.read(log.store, log.run_id)
    assert isinstance(state, transitions.State)
    return state.status


async def test_an_owner_that_no_index_knows_is_dead(store: Store):
    """No lease, not among the processes, no list of its runs: the first look ends it, with what it had said."""
    log = await RunLog.start(store)
    await log.claim("forgotten by everybody")
    await log.say(3)
    await sweep(store, log)
    await log.learn()
    assert (await status(log), log.entries[-1].type) == ("failed", "run.finished")
    assert log.entries[-1].payload()["reason"] == "worker_lost"
    assert log.fold.text == "w0 w1 w2"
    assert await store.client.zscore(keys.run(log.run_id).active, log.run_id) is None


async def test_who_comes_too_late_does_not_keep_it(store: Store):
    """Three processes see at once that an owner died: one ends its run, and it stays on nobody's list."""
    log = await RunLog.start(store)
    await log.claim("dead")
    state = await transitions.read(store, log.run_id)
    assert isinstance(state, transitions.State)
    operations = Operations(store=store, settings=SETTINGS, publisher=dying_process.Messages())
    sealers = ("one", "two", "three")
    await asyncio.gather(
        *(recovery.recover(operations, log.run_id, state, sealer=sealer) for sealer in sealers)
    )
    assert await status(log) == "failed"
    assert [await operations.indexes.owned_by(sealer) for sealer in sealers] == [[], [], []]


async def test_who_has_it_by_another_call_keeps_it(store: Store):
    """A sweeper and an abort in one process: the one that came too late takes it off no list."""
    log = await RunLog.start(store)
    await log.claim("dead")
    operations = Operations(store=store, settings=SETTINGS, publisher=dying_process.Messages())
    given: dict[str, Any] = {"sealer": "one", "epoch": log.control.epoch, "cause": "worker_lost"}
    for nonce in ("0.first", "0.second"):
        await operations.perform(SEAL.of(log.run_id, nonce=nonce, **given), notify=nobody)
    assert await operations.indexes.owned_by("one") == [log.run_id]


async def test_a_living_owner_is_left_alone(store: Store):
    """Leased or listed: a process that was suspended a moment ago has to have its chance."""
    log = await RunLog.start(store)
    await log.claim("w1")
    await alive(store, "w1")
    await sweep(store, log)
    await store.client.delete(keys.lease("w1"))
    await sweep(store, log)
    assert await status(log) == "running"
    assert (
        LOOK_MS - 10_000
        < await store.client.zscore(keys.run(log.run_id).active, log.run_id) - now_ms()
        <= LOOK_MS
    )


async def test_what_a_living_process_sealed_and_left_is_ended(store: Store):
    """A gateway took it to end it, gave up, and lives on: not at once, but a few leases later a sweep ends it."""
    log = await RunLog.start(store)
    await log.claim("w1")
    await log.say(2)
    await alive(store, "a gateway")
    assert isinstance(await seal(store, log.control, sealer="a gateway"), transitions.Control)
    await sweep(store, log)
    assert await status(log) == "running", "it may be at it still"
    await store.client.hset(log.keys.record, "sealed", now_ms() - LOOK_MS - 1)
    await sweep(store, log)
    assert await status(log) == "failed"
    await log.learn()
    assert log.fold.text == "w0 w1"
