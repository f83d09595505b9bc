"""A fair share on a real store and broker without workers: turns, places, and what crashes in between leave."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import redis

from mainstem_api import AsyncRuns
from mainstem_shared import errors
from mainstem_shared.coordination.leases import incarnation
from mainstem_shared.model import ids
from mainstem_shared.model.principals import Principal
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations import admission, starting
from mainstem_shared.operations.aborting import Aborter
from mainstem_shared.operations.sweeping import Sweeper
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.models import listed

PLACES = 4
WINDOW = 5
"""So many are published with these places: times 1.2, rounded up."""
KEYS = keys.admission("celery")


@pytest.fixture
def settings(store_url: str, broker_url: str) -> Settings:
    return Settings(
        redis_url=store_url,
        broker_url=broker_url,
        sweep_s=0.5,
        fair_share=True,
        fair_share_weights={"gold": 2},
    )


@pytest.fixture(autouse=True)
async def worker(store: Store) -> None:
    """The lease of a worker with a few places."""
    await store.client.zadd(keys.WORKERS, {"w1": now_ms()})
    await store.client.set(keys.lease("w1"), f"worker asyncio 1.0 {PLACES}", px=60_000)


@pytest.fixture
def sweeper(runs: AsyncRuns, monkeypatch: pytest.MonkeyPatch) -> Sweeper:
    monkeypatch.setattr(admission, "SETTLED_MS", -1)
    me = incarnation()
    return Sweeper(operations=runs._operations, owner=lambda: me)


async def start(runs: AsyncRuns, user: str, number: int = 1, *, tenant: str = "default") -> list[str]:
    """Start runs of a user, each on a thread of its own."""
    made: list[str] = []
    for _ in range(number):
        answer = await starting.start_run(
            runs._operations,
            starting.parse_request({"engine": "echo", "input": {}}),
            principal=Principal(user_id=user, tenant=tenant),
            thread_id=str(ids.uuid7()),
        )
        made.append(answer.run_id)
    return made


async def sweep_now(store: Store, sweeper: Sweeper) -> None:
    """One sweep that looks at every run, whenever it is due."""
    await listed.put(store.client, "active", dict.fromkeys(await listed.scores(store.client, "active"), 0))
    await store.client.delete(keys.SWEEP)
    await sweeper.sweep()


def published(broker_url: str) -> list[str]:
    """The runs whose messages are in the broker, the oldest first."""
    with redis.Redis.from_url(broker_url) as client:
        messages = [json.loads(raw) for raw in reversed(client.lrange("celery", 0, -1))]
    return [message["headers"]["mainstem_run_id"] for message in messages]


async def places(store: Store) -> set[str]:
    return {raw.decode() for raw in await store.client.zrange(KEYS.admitted, 0, -1)}


async def end_oldest(runs: AsyncRuns, broker_url: str, ended: list[str]) -> str:
    """End the oldest published run that has not ended; returns which one its place goes to."""
    before = published(broker_url)
    first = next(run_id for run_id in before if run_id not in ended)
    ended.append(first)
    await Aborter(operations=runs._operations, sealer=lambda: "me").abort(first)
    (new,) = published(broker_url)[len(before) :]
    return new


async def test_a_burst_does_not_delay_others(runs: AsyncRuns, broker_url: str):
    """A user's burst is published as far as there are places; the next place is another user's."""
    burst = await start(runs, "heavy", 20)
    assert published(broker_url) == burst[:WINDOW]
    light = await start(runs, "ann", 2) + await start(runs, "bob")
    assert published(broker_url) == burst[:WINDOW]
    ended: list[str] = []
    got = [await end_oldest(runs, broker_url, ended) for _ in range(6)]
    assert set(got[:4]) > {light[0], light[2]}, "first runs of those who had nothing yet"
    assert set(got) > set(light)
    assert len(set(got) & set(burst)) == 3


async def test_weights_divide_places(runs: AsyncRuns, broker_url: str):
    """Of two users who always wait, one with weight 2 gets twice as many places."""
    await start(runs, "filler", WINDOW)
    gold = await start(runs, "au", 14, tenant="gold")
    await start(runs, "fe", 14)
    ended: list[str] = []
    got = Counter[str]()
    for _ in range(12):
        got["gold" if await end_oldest(runs, broker_url, ended) in gold else "plain"] += 1
    assert got == {"gold": 8, "plain": 4}


async def test_a_deleted_run_gives_its_place_or_its_turn_back(runs: AsyncRuns, store: Store, broker_url: str):
    """A waiting run that is aborted is never published; a place of one that ended goes to the next."""
    first = await start(runs, "ann", WINDOW + 3)
    await runs.abort(first[WINDOW])
    await runs.abort(first[0])
    assert published(broker_url) == [*first[:WINDOW], first[WINDOW + 1]]
    assert await places(store) == {*first[1:WINDOW], first[WINDOW + 1]}


async def test_nothing_waits_forever_after_a_crash(
    runs: AsyncRuns, store: Store, sweeper: Sweeper, broker_url: str
):
    """A sweep takes back places of runs that are gone, and publishes who was admitted without a message."""
    first = await start(runs, "ann", WINDOW + 2)
    gone = [ids.run_id("default", "lost", ids.uuid7()) for _ in range(2)]
    await store.client.zrem(KEYS.admitted, *first[:2])  # as if these two ended,
    await store.client.zadd(KEYS.admitted, dict.fromkeys(gone, 1))  # and these two were never released
    await store.client.delete(KEYS.waiting)  # and a fail-over lost who waits
    await sweep_now(store, sweeper)
    await sweep_now(store, sweeper)
    assert await places(store) <= set(first)
    assert len(await places(store)) == WINDOW
    await store.client.zrem(KEYS.admitted, *first)
    await store.client.delete(KEYS.waiting)
    await store.client.zadd(KEYS.admitted, {first[-1]: 1})  # admitted by somebody who died then
    await sweep_now(store, sweeper)
    assert first[-1] in published(broker_url)


async def test_the_window_follows_the_workers(runs: AsyncRuns, store: Store):
    """Leases say how many places there are; one of an earlier version has as many as the settings say."""
    await store.client.zadd(keys.WORKERS, {"w2": now_ms(), "g": now_ms(), "dead": now_ms()})
    await store.client.set(keys.lease("w2"), "worker asyncio 0.9", px=60_000)
    await store.client.set(keys.lease("g"), "gateway  1.0 0", px=60_000)
    window = admission.Admission(store, Settings(concurrency=6))
    assert await window.window() == 12
    await store.client.delete(keys.lease("w1"), keys.lease("w2"))
    assert await window.window() == 12, "for a second, nobody asks"
    assert await admission.Admission(store, Settings()).window() == 1


async def test_a_window_that_cannot_be_reached_delays_a_start_but_does_not_refuse_it(
    runs: AsyncRuns, store: Store, sweeper: Sweeper, broker_url: str, monkeypatch: pytest.MonkeyPatch
):
    """The run is durable already: its caller is not told that it failed, and a sweeper offers it again."""

    async def away(*_: object) -> None:
        raise errors.StoreUnavailable

    with monkeypatch.context() as broken:
        broken.setattr(admission.Admission, "offer", away)
        first = await start(runs, "ann")
    assert published(broker_url) == []
    await sweep_now(store, sweeper)
    assert published(broker_url) == first


async def test_without_the_setting_nothing_is_counted(store: Store, settings: Settings):
    """A deployment that has not turned it on has no window, and pays nothing for it."""
    async with AsyncRuns(settings.model_copy(update={"fair_share": False})) as plain:
        await start(plain, "ann", WINDOW + 1)
    assert await store.client.exists(*KEYS) == 0
