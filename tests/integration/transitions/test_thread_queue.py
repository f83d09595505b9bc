"""A thread's runs take turns, and keys live as long as they must."""

from __future__ import annotations

import asyncio
import random

from mainstem_shared import transitions
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.runs import Reason
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.models import verb_calls as v

# -- threads


async def test_a_threads_runs_take_turns(store: Store):
    """Each end names the next run, in order of arrival; its wait for a worker begins then."""
    runs = [v.new_run("t") for _ in range(4)]
    await v.start(store, runs[0])
    for run_id in runs[1:]:
        await v.start(store, run_id, if_active="enqueue")
    for run_id, next_run in zip(runs, [*runs[1:], None], strict=True):
        claimed = await v.claim(store, run_id)
        assert isinstance(claimed, transitions.Claimed)
        control = transitions.Control(run_id=run_id, epoch=claimed.epoch, owner="me")
        finished = await v.finish(store, control, nonce=run_id)
        assert finished == transitions.Finished(epoch=3, next_run=next_run)
        assert await v.finish(store, control, nonce=run_id) == finished
        if next_run:
            fields = await v.record(store, next_run)
            assert fields["waiting"] == "worker"
            assert int(fields["queued"]) >= int((await v.record(store, run_id))["finished"])
    assert not await store.client.exists(keys.run(runs[0]).thread_queue)
    assert await store.client.hget(keys.run(runs[0]).thread, "active") is None


async def test_a_run_that_ends_in_the_queue_leaves_it(store: Store):
    """An abort of a waiting run touches neither the holder nor the others."""
    first, second, third = (v.new_run("t") for _ in range(3))
    await v.start(store, first)
    for run_id in (second, third):
        await v.start(store, run_id, if_active="enqueue")
    waiting = transitions.Control(run_id=second, epoch=1, owner="")
    assert await v.finish(store, waiting, reason=Reason.USER_ABORT) == transitions.Finished(
        epoch=2, next_run=None
    )
    assert await store.client.lrange(keys.run(first).thread_queue, 0, -1) == [third.encode()]
    holder = transitions.Control(run_id=first, epoch=1, owner="")
    assert await v.finish(store, holder) == transitions.Finished(epoch=2, next_run=third)


async def test_promotion_passes_over_runs_that_are_no_more(store: Store):
    """A waiting run whose record expired, or that is over, does not stop the queue."""
    first, expired, over, third = (v.new_run("t") for _ in range(4))
    await v.start(store, first)
    for run_id in (expired, over, third):
        await v.start(store, run_id, if_active="enqueue")
    await store.client.delete(keys.run(expired).record)
    await store.client.hset(keys.run(over).record, "status", "aborted")
    holder = transitions.Control(run_id=first, epoch=1, owner="")
    assert await v.finish(store, holder) == transitions.Finished(epoch=2, next_run=third)
    assert not await store.client.exists(keys.run(expired).record)


async def test_racing_starts_and_ends_never_leave_a_thread_stuck(store: Store):
    """Whatever the order: when all is over nobody holds the thread and nobody waits."""
    dice = random.Random(7)
    runs = [v.new_run("t") for _ in range(12)]
    hows = ["enqueue", "replace", "reject"]

    async def life(run_id: str) -> None:
        started = await v.start(store, run_id, if_active=dice.choice(hows))
        while isinstance(started, transitions.Started):
            state = await transitions.read(store, run_id)
            assert isinstance(state, transitions.State)
            if dice.random() < 0.3:
                await v.finish(
                    store, transitions.Control(run_id=run_id, epoch=state.epoch, owner=""), top=state.top
                )
            claimed = await v.claim(store, run_id)
            if isinstance(claimed, transitions.Claimed):
                await v.finish(store, transitions.Control(run_id=run_id, epoch=claimed.epoch, owner="me"))
            elif isinstance(claimed, transitions.Stopping):
                await v.finish(
                    store, transitions.Control(run_id=run_id, epoch=claimed.epoch, owner=""), top=state.top
                )
            if isinstance(claimed, transitions.Refused) and claimed.status.is_terminal:
                return
            active = await store.client.hget(keys.run(run_id).thread, "active")
            assert active is None or active.decode() in runs

    async with asyncio.timeout(20):
        await asyncio.gather(*map(life, runs))
    assert await store.client.hget(keys.run(runs[0]).thread, "active") is None
    assert not await store.client.exists(keys.run(runs[0]).thread_queue)


# -- lifetimes


async def test_keys_live_as_long_as_they_must(store: Store):
    """Live keys for the live time, a thread's for longer; from its end a run is kept for the retention."""
    control = await v.running(store, thread="t")
    k = keys.run(control.run_id)

    async def ttl(key: str) -> float:
        return await store.client.pttl(key)

    await v.append(store, control, "a")
    await v.snapshot(store, control, Cursor(2, 1))
    for key in (k.record, k.log, k.snapshot):
        assert v.LIVE_MS - 10_000 < await ttl(key) <= v.LIVE_MS, key
    assert v.THREAD_MS - 10_000 < await ttl(k.thread) <= v.THREAD_MS
    await v.finish(store, control, top=Cursor(2, 1))
    for key in (k.record, k.log):
        assert v.RETENTION_MS - 10_000 < await ttl(key) <= v.RETENTION_MS, key
    assert await ttl(k.thread_runs) >= v.RETENTION_MS


async def test_a_claim_prolongs_the_thread_too(store: Store):
    """A run that is handed over again and again never loses its thread, or its place in the thread's list."""
    run_id = v.new_run()
    await v.start(store, run_id)
    k = keys.run(run_id)
    for key in (k.record, k.log, k.thread, k.thread_runs):
        await store.client.pexpire(key, 5000)
    await v.claim(store, run_id)
    for key in (k.record, k.log, k.thread, k.thread_runs):
        assert await store.client.pttl(key) > v.LIVE_MS - 10_000, key


async def test_a_prolonged_life_is_never_shortened(store: Store):
    """`extend` only lengthens: a long retention of other runs stays."""
    run_id = v.new_run()
    await v.start(store, run_id)
    k = keys.run(run_id)
    await store.client.pexpire(k.thread_runs, 10 * v.THREAD_MS)
    claimed = await v.claim(store, run_id)
    await v.finish(store, transitions.Control(run_id=run_id, epoch=claimed.epoch, owner="me"))
    assert await store.client.pttl(k.thread_runs) > 9 * v.THREAD_MS
