"""A fair share on a real store and broker without workers: turns, places, and what crashes in between leave."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
import redis

from mainstem_api import AsyncRuns
from mainstem_shared import errors, transitions
from mainstem_shared.coordination.leases import incarnation
from mainstem_shared.eventlog.reading import run_states
from mainstem_shared.model import ids
from mainstem_shared.model.actions import Action, Question
from mainstem_shared.model.contents import Content
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.principals import Principal
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations import admission, children, performing, starting
from mainstem_shared.operations.aborting import Aborter
from mainstem_shared.operations.queries import summaries
from mainstem_shared.operations.sweeping import Sweeper
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.models import listed
from support.models import verb_calls as v

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


async def start(
    runs: AsyncRuns, user: str, number: int = 1, *, tenant: str = "default", **fields: str
) -> list[str]:
    """Start runs of a user, each on a thread of its own."""
    made: list[str] = []
    for _ in range(number):
        answer = await starting.start_run(
            runs._operations,
            starting.parse_request({"engine": "echo", "input": {}, **fields}),
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


async def test_batch_delays_nobody_who_waits(runs: AsyncRuns, broker_url: str):
    """Batch has a quarter of another's turns, and does not delay what the same user waits for."""
    await start(runs, "filler", WINDOW)
    batch = await start(runs, "ann", 12, priority="batch")
    bobs = await start(runs, "bob", 12, priority="interactive")
    anns = await start(runs, "ann", 2)
    ended: list[str] = []
    got = [await end_oldest(runs, broker_url, ended) for _ in range(14)]
    assert set(got[:5]) >= set(anns)
    assert [len(set(got) & set(some)) for some in (batch, bobs, anns)] == [3, 9, 2]


async def test_an_endless_row_of_new_users_starves_no_batch(store: Store):
    """Who comes for the first time never has to wait for a batch, but passes it only so many times."""

    async def admitted(run_id: str, *, share: float = 1, over: str = "") -> tuple[str, ...]:
        wanted = transitions.Wanted(run_id=run_id, user=run_id.partition(" ")[0], share=share)
        done = await transitions.admit(
            store, "celery", window=1, live_ttl_ms=60_000, wanted=wanted, over=[over]
        )
        return done.fresh

    (last,) = await admitted("filler")
    for number in range(2):
        await admitted(f"batch {number}", share=0.05)
    await admitted("waits")  # somebody always does
    rounds: list[str] = []
    while "batch 1" not in rounds and len(rounds) < 1000:
        (last,) = await admitted(f"new{len(rounds)}", over=last)
        rounds.append(last)
    assert "batch 1" in rounds
    assert 20 < rounds.index("batch 1") < 80, "0.05 is fifty times what each admission adds"


async def test_a_resumed_run_keeps_its_turn(runs: AsyncRuns, store: Store, broker_url: str):
    """A pause gives the place to others; the resumed run is next, before all that had no turn yet."""
    first, *others = await start(runs, "ann", WINDOW + 4)
    await start(runs, "bob", 4)
    control = v.controlled(await v.claim(store, first))
    spec = await run_states.check_owner(store, first, tenant="default", user_id="ann")
    action = Action(
        action_id="act", kind="question", questions=(Question(question_id="q", text="?"),),
        expires_ms=now_ms() + 60_000,
    )  # fmt: skip
    pause = performing.PAUSE.of(
        control, nonce=ids.nonce(), top=Cursor(control.epoch, 0), spec=spec, action=action, fold=Content(),
        checkpoint=b"", settings=runs.settings,
    )  # fmt: skip
    await runs._operations.perform(pause, notify=performing.nobody)
    assert first not in await places(store)
    assert len(await places(store)) == WINDOW
    await runs.resume(first, "act", answers=[{"question_id": "q", "text": "yes"}])
    assert await store.client.zrank(KEYS.waiting, first) == 0
    assert await end_oldest(runs, broker_url, [first]) == first
    assert set(others[: WINDOW - 1]) & await places(store)


async def test_a_class_is_kept_and_shown(runs: AsyncRuns, store: Store):
    """The start's class stands, else the engine's, and a child has its parent's; none is shown as none."""
    await store.client.hset(keys.ENGINES, mapping={"echo": "{}", "report": '{"x-mainstem-priority":"batch"}'})
    operations = runs._operations
    asked: dict[str, dict[str, Any]] = {
        "none": {"engine": "echo"},
        "engine": {"engine": "report"},
        "start": {"engine": "report", "priority": "interactive"},
    }
    made = {name: (await runs.start(name, **fields)).run for name, fields in asked.items()}
    assert {name: run.priority for name, run in made.items()} == {
        "none": None,
        "engine": "batch",
        "start": "interactive",
    }
    parent = await run_states.check_owner(store, made["engine"].run_id, tenant="default", user_id=None)
    child = await children.start(operations, parent, key="k", fields={"engine": "echo"})
    assert (await runs.get(child)).priority == "batch"
    listed_runs = {
        run.run_id: run.priority for run in await summaries.of(store, [child, made["none"].run_id])
    }
    assert listed_runs == {child: "batch", made["none"].run_id: None}
    assert "priority" not in made["none"].model_dump()
    with pytest.raises(errors.InvalidRequest, match=r"priority.*'interactive' or 'batch'"):
        await runs.start("bad", "echo", priority="urgent")  # type: ignore[arg-type]


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


async def test_a_lost_window_lets_nobody_wait_for_ever(
    runs: AsyncRuns, store: Store, sweeper: Sweeper, broker_url: str
):
    """Fail-overs that lose places, turns and counts, twice: sweeps offer every run again until all had their turn."""
    started = await start(runs, "heavy", 3 * WINDOW) + await start(runs, "ann", 2)
    ended = set[str]()
    for sweep in range(len(started)):
        if sweep in (0, 2):
            await store.client.delete(*KEYS)
        await sweep_now(store, sweeper)
        for run_id in set(published(broker_url)) - ended:
            await runs.abort(run_id)
            ended.add(run_id)
    assert ended == set(started)
    assert await places(store) == set()


async def test_the_window_follows_the_workers(runs: AsyncRuns, store: Store):
    """Leases say how many places there are; one of an earlier version has as many as the settings say."""
    await store.client.zadd(keys.WORKERS, {"w2": now_ms(), "g": now_ms(), "dead": now_ms()})
    await store.client.set(keys.lease("w2"), "worker asyncio 0.9", px=60_000)
    await store.client.set(keys.lease("g"), "gateway  1.0 0", px=60_000)
    window = admission.Admission(store, Settings(concurrency=6))
    assert await window.window("celery") == 12
    await store.client.delete(keys.lease("w1"), keys.lease("w2"))
    assert await window.window("celery") == 12, "for a second, nobody asks"
    assert await admission.Admission(store, Settings()).window("celery") == 1


async def test_a_window_that_cannot_be_reached_delays_a_start_but_does_not_refuse_it(
    runs: AsyncRuns, store: Store, sweeper: Sweeper, broker_url: str, monkeypatch: pytest.MonkeyPatch
):
    """The run is durable already: its caller is not told that it failed, and a sweeper offers it again."""

    async def away(*_: object, **__: object) -> None:
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
