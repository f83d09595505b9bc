"""Runs that belong to a living worker which does not execute them."""

from __future__ import annotations

from mainstem_api import AsyncRuns
from mainstem_shared import transitions
from mainstem_shared.model import ids
from mainstem_shared.operations.indexes import Indexes
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store


async def test_a_claim_that_landed_late_is_ended_by_its_owner(live):
    """A run claimed in a worker's name, that the worker knows nothing of, ends `worker_lost` by that worker.

    A damaged record beside it, which is looked at first, does not keep it waiting.
    """
    live.worker(MAINSTEM_SWEEP_S="0.3")
    nobody_consumes = Settings(redis_url=live.store.url(0), broker_url=live.broker.url(1), queue="elsewhere")
    store = Store(live.store.url(0))
    try:
        async with AsyncRuns(nobody_consumes) as runs:
            started = await runs.start("thread", "demo", {"tokens": 3})
            owner = (await store.client.zrange(keys.WORKERS, 0, -1))[0].decode()
            damaged = "a" * len(started.run_id.partition("_")[0]) + "_" + started.run_id.partition("_")[2]
            await store.client.hset(keys.run(damaged).record, mapping={"status": "nonsense", "spec": "{"})
            for run_id in (damaged, started.run_id):
                await Indexes(store=store, settings=nobody_consumes).own(owner, run_id)
            claimed = await transitions.claim(
                store, started.run_id, nonce=ids.nonce(), owner=owner, task_id="late", live_ttl_ms=60_000
            )
            assert isinstance(claimed, transitions.Claimed)
            run = await runs.wait(started.run_id, timeout=20)
            assert (run.status, run.reason) == ("failed", "worker_lost")
    finally:
        await store.close()
