"""Due work is drained until nothing is due, by all sweepers, each taking its own; late work shows."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mainstem_shared import errors, transitions
from mainstem_shared.model import ids
from mainstem_shared.model.runs import Reason
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations import due_work, sweeping, trends
from mainstem_shared.operations.performing import Operations
from mainstem_shared.operations.sweeping import Sweeper
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.models import listed
from support.models.logs import RunLog
from support.processes import dying_process
from support.processes.gateways import GatewayThread
from support.waiting import wait_until_async

COMPACT = keys.indexes(7).compact
ENDED = 3 * due_work.SLICE + 7


def sweeper(store: Store, name: str) -> Sweeper:
    settings = Settings(sweep_s=30)
    operations = Operations(store=store, settings=settings, publisher=dying_process.Messages())
    return Sweeper(operations=operations, owner=lambda: name)


async def ended(store: Store, count: int) -> list[RunLog]:
    """Runs that are over, with the deltas of their words, due for compaction."""

    async def one() -> RunLog:
        log = await RunLog.start(store)
        await log.claim()
        await log.say(3)
        await log.finish(Reason.COMPLETED)
        return log

    logs = [await one() for _ in range(count)]
    await listed.put(store.client, "compact", {log.run_id: now_ms() - 5000 for log in logs})
    return logs


async def test_one_sweep_leaves_nothing_that_is_due(store: Store):
    """More than any slice: every run is compacted, and the figures say how late it was."""
    logs = await ended(store, ENDED)
    one = sweeper(store, "one")
    await one.sweep()
    assert await listed.scores(store.client, "compact") == {}
    assert {await store.client.xlen(log.keys.log) for log in logs} == {1}
    count, lateness_s = one.backlog["compactions"]
    assert count == ENDED
    assert 5 <= lateness_s < 60
    assert one.drained
    await one.sweep()
    assert one.backlog["compactions"] == (0, 0.0)


async def test_one_sweeper_asks_every_index_for_all(store: Store):
    """However many processes sweep: who is not elected asks a few keys, and works on what the elected told."""
    elected, other = sweeper(store, "elected"), sweeper(store, "other")
    logs = await ended(store, 3)
    asked = await elected._indexes.due()
    await store.client.set(keys.SWEEP, "elected", ex=60)
    await elected._indexes.share_due(asked, ttl_ms=60_000)
    await store.client.config_resetstat()
    await other.sweep()
    stats = await store.client.info("commandstats")
    assert sum(stats[name]["calls"] for name in stats if "zrange" in name) < 10
    assert {await store.client.xlen(log.keys.log) for log in logs} == {1}
    assert other.backlog["compactions"][0] == 3


async def test_who_is_told_nothing_asks_itself(store: Store):
    """The elected sweeper may have died before it told; what another version told is not understood."""
    logs = await ended(store, 3)
    await store.client.set(keys.SWEEP, "dead", ex=60)
    await store.client.set(keys.DUE, b'["of another version"]', ex=60)
    await sweeper(store, "other").sweep()
    assert {await store.client.xlen(log.keys.log) for log in logs} == {1}


async def test_sweepers_share_a_backlog(store: Store):
    """No entry is taken by two of them, and together they take all."""
    await store.client.zadd(COMPACT, {f"run{n}": n for n in range(ENDED)})
    slices = await asyncio.gather(
        *(transitions.take_due(store, COMPACT, limit=50, hold_ms=60_000) for _ in range(ENDED // 50 + 1))
    )
    taken = [run_id for found in slices for run_id, _ in found]
    assert len(taken) == len(set(taken)) == ENDED


async def test_what_a_dead_sweeper_took_is_due_again(store: Store):
    """Its hold passes, and the entry is where it was."""
    await store.client.zadd(COMPACT, {"run": 1})
    assert await transitions.take_due(store, COMPACT, limit=1, hold_ms=0) == [("run", 1)]
    again = await transitions.take_due(store, COMPACT, limit=1, hold_ms=60_000)
    assert [run_id for run_id, _ in again] == ["run"]
    assert await transitions.take_due(store, COMPACT, limit=1, hold_ms=60_000) == []


async def test_a_backlog_of_one_kind_does_not_hold_up_the_other(store: Store):
    """Checks and compactions take turns: a lost message goes out before thousands of runs are compacted."""
    order: list[str] = []
    left = {"checks": 3, "compactions": 50}

    async def work(kind: str) -> list[int]:
        order.append(kind)
        left[kind] -= 1
        return [now_ms()] * (due_work.SLICE if left[kind] > 0 else 0)

    drain = due_work.Drain(kinds={kind: lambda kind=kind: work(kind) for kind in left})
    assert await drain.run(30)
    assert max(n for n, kind in enumerate(order) if kind == "checks") < 8
    assert order.count("compactions") == 50


async def test_a_drain_ends_when_its_time_is_over(store: Store):
    """It says that something is left: the next sweep begins at once."""

    async def endless() -> list[int]:
        await asyncio.sleep(0.01)
        return [now_ms()] * due_work.SLICE

    assert not await due_work.Drain(kinds={"checks": endless}).run(0.05)


async def test_lost_messages_of_many_runs_go_out_in_one_sweep(store: Store):
    """More queued runs than a slice lost their message: all are published again, the last as soon as the first."""
    logs = [await RunLog.start(store) for _ in range(due_work.SLICE + 20)]
    await listed.put(store.client, "active", {log.run_id: now_ms() - 1000 for log in logs})
    one = sweeper(store, "one")
    publisher = one.operations.publisher
    assert isinstance(publisher, dying_process.Messages)
    await one.sweep()
    assert set(publisher.published) == {log.run_id for log in logs}


async def test_entries_of_starts_that_never_happened_are_dropped_by_their_age(store: Store):
    """A young one may be a start under way and keeps its place; an old one goes."""
    young, old = (ids.run_id("default", name, ids.uuid7()) for name in ("young", "old"))
    scores = {young: now_ms() - 1000, old: now_ms() - sweeping.START_GRACE_MS - 1000}
    await listed.put(store.client, "active", scores)
    await sweeper(store, "one").sweep()
    assert await store.client.zscore(keys.run(old).active, old) is None
    assert await store.client.zscore(keys.run(young).active, young) == scores[young]


async def test_the_gateway_tells_what_is_due(store: Store, store_url: str, broker_url: str):
    """Backlog and lateness of the whole store stand in its metrics after its first sweep."""
    await listed.put(store.client, "compact", {f"{'a' * 16}_{'b' * 26}": now_ms() - 60_000})
    with GatewayThread(store_url, broker_url, sweep_s=0.2) as gateway:
        async with gateway.client() as http:

            async def told() -> bool:
                return (
                    'mainstem_due_lateness_seconds{work="compactions"} 6' in (await http.get("/metrics")).text
                )

            await wait_until_async(told, description="lateness in the metrics")


async def test_charts_that_cannot_be_written_fail_no_sweep(store: Store, monkeypatch: pytest.MonkeyPatch):
    """A store that is out of memory refuses them; the work of the sweep is done all the same."""

    async def refused(*_: Any) -> None:
        raise errors.StoreUnavailable

    monkeypatch.setattr(trends, "tell", refused)
    logs, one = await ended(store, 3), sweeper(store, "one")
    await one.sweep()
    assert one.swept == 1
    assert {await store.client.xlen(log.keys.log) for log in logs} == {1}
