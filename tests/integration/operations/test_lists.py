"""The lists of a user's and a thread's runs: they forget what is gone, and outlive what waits."""

from __future__ import annotations

from mainstem_api import AsyncRuns
from mainstem_shared.model import ids
from mainstem_shared.model.time import now_ms
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.models.logs import RunLog

GONE = 25
STARTS = 3  # of which each drops ten, or nine beside one that is there


async def test_lists_of_whoever_never_stops_stay_short(store: Store, runs: AsyncRuns):
    """Each start drops some entries of runs that are gone; an old run that is still there stays listed."""
    old_ms = now_ms() - 2 * runs.settings.thread_ttl_ms
    kept = await RunLog.start(store, user_id="ann", thread_id="t")
    await kept.finish()
    gone = [ids.run_id("default", "t", ids.uuid7()) for _ in range(GONE)]
    lists = keys.user_runs("default", "ann"), keys.thread_runs("default", "t")
    for index in lists:
        await store.client.zadd(index, dict.fromkeys([kept.run_id, *gone], old_ms))
    for _ in range(STARTS):
        started = await runs.start("t", "demo", {}, user_id="ann")
        await runs.abort(started.run_id)
    for index in lists:
        listed = {raw.decode() for raw in await store.client.zrange(index, 0, -1)}
        assert kept.run_id in listed
        assert not listed & set(gone)


async def test_a_start_does_not_shorten_the_list_of_one_that_waits_for_long(store: Store, runs: AsyncRuns):
    """A run that waits for a human for a year is listed for a year, whatever its user starts meanwhile."""
    index = keys.user_runs("default", "ann")
    await runs.start("t", "demo", {}, user_id="ann")
    year_ms = 365 * 86_400_000
    await store.client.pexpire(index, year_ms)
    await runs.start("other", "demo", {}, user_id="ann")
    assert await store.client.pttl(index) > year_ms - 60_000
