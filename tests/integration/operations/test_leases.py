"""Leases: what a process that was suspended leaves behind is listed, so that somebody sweeps it."""

from __future__ import annotations

import threading

import pytest

from mainstem_shared.coordination import clocks
from mainstem_shared.coordination.leases import Lease
from mainstem_shared.operations.indexes import Indexes
from mainstem_shared.operations.performing import Operations
from mainstem_shared.operations.sweeping import Sweeper
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from mainstem_tasks.celery_support.publisher import CeleryPublisher
from support.waiting import wait_until_async

RUN = "abcdefgh234567ab_abcdefghijklmnopqrstuvwxyz"


async def test_what_is_listed_under_a_former_name_is_swept(
    store: Store, store_url: str, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Swept while it was suspended, a claim lists a run before the process notices: the set must not stay."""
    suspended = threading.Event()
    lease = Lease(store_url, Settings(redis_url=store_url, lease_s=4), on_suspended=suspended.set)
    lease.start()
    former = lease.owner
    await store.client.zrem(keys.WORKERS, former)  # a sweep, while it was suspended
    await Indexes(store=store, settings=Settings()).own(former, RUN)
    begun = clocks.now()
    monkeypatch.setattr(clocks, "now", lambda: begun + 100)
    assert suspended.wait(20)
    monkeypatch.undo()
    lease.stop()
    assert lease.owner != former
    assert await store.client.zscore(keys.WORKERS, former) is not None
    by = Operations(store=store, settings=Settings(), publisher=CeleryPublisher(broker_url))
    sweeper = Sweeper(operations=by, owner=lambda: "the sweeper")
    for _ in range(2):  # a lease must be missing twice
        await store.client.delete(keys.SWEEP)
        await sweeper.sweep()
    assert not await store.client.exists(keys.owned(former))
    assert await store.client.zscore(keys.WORKERS, former) is None


async def test_a_beat_after_a_move_is_repeated(store: Store, store_url: str) -> None:
    """The first one may have gone to the former primary, whose lease is lost with it: the new one has it soon."""
    lease = Lease(
        store_url, Settings(redis_url=store_url, lease_s=60)
    )  # beats of its own would come too late
    lease.start()
    try:
        lease.beat_soon(moved=True)
        for _ in range(3):
            await store.client.delete(keys.lease(lease.owner))

            async def is_there() -> int:
                return await store.client.exists(keys.lease(lease.owner))

            await wait_until_async(is_there, description="another beat", timeout_s=10)
    finally:
        lease.stop()
