"""Queues of engines on a real store and broker: where messages go, who takes them, and who says that nobody does."""

from __future__ import annotations

import contextlib
import json

import pytest
import redis

from mainstem_api import AsyncRuns
from mainstem_api.cli import doctor
from mainstem_shared.coordination import leases
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations import gauges
from mainstem_shared.operations.census import Census
from mainstem_shared.operations.sweeping import Sweeper
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.blocking import BlockingStore
from mainstem_shared.store.client import Store
from mainstem_workers import pool_support
from mainstem_workers.app import make_app
from support.models import listed

QUEUES = {"report": "slow", "train": "g p,u"}


@pytest.fixture
def settings(store_url: str, broker_url: str) -> Settings:
    return Settings(redis_url=store_url, broker_url=broker_url, sweep_s=0.5, engine_queues=QUEUES)


@pytest.fixture
def sweeper(runs: AsyncRuns) -> Sweeper:
    return Sweeper(operations=runs._operations, owner=leases.incarnation)


async def join(
    store_url: str, store: Store, settings: Settings, queues: tuple[str, ...], places: int
) -> None:
    """Take the lease of a worker with these queues, as it stands after its first beat."""
    lease = leases.Lease(store_url, settings, pool="asyncio", places=places, queues=queues)
    lease._beat()
    assert await store.command("EXISTS", keys.lease(lease.owner)) == 1


def published(broker_url: str, queue: str) -> list[str]:
    with redis.Redis.from_url(broker_url) as client:
        messages = [json.loads(raw) for raw in reversed(client.lrange(queue, 0, -1))]
    return [message["headers"]["mainstem_run_id"] for message in messages]


async def sweep_now(store: Store, sweeper: Sweeper) -> None:
    await listed.put(store.client, "active", dict.fromkeys(await listed.scores(store.client, "active"), 0))
    await store.client.delete(keys.SWEEP)
    await sweeper.sweep()


async def test_an_engines_runs_go_to_its_queue(runs: AsyncRuns, broker_url: str):
    """Those of the others go to the deployment's."""
    found = {name: (await runs.start(name, name, {})).run_id for name in ("report", "train", "echo")}
    for queue, engine in (("slow", "report"), ("g p,u", "train"), ("celery", "echo")):
        assert published(broker_url, queue) == [found[engine]]


async def test_a_message_that_is_sent_again_goes_there_too(runs: AsyncRuns, broker_url: str):
    """A message that was lost is sent again where it was."""
    run_id = (await runs.start("t", "report", {})).run_id
    with redis.Redis.from_url(broker_url) as client:
        client.delete("slow")
    await runs._operations.deliver(run_id)
    assert published(broker_url, "slow") == [run_id]


@pytest.mark.parametrize(
    ("wanted", "taken"), [(None, ("celery", "slow", "g p,u")), (["slow"], ("slow",)), (["mail"], ())]
)
def test_a_worker_takes_all_queues_or_those_it_is_told(
    settings: Settings, wanted: list[str] | None, taken: tuple[str, ...]
):
    """`-Q` selects; one that takes none executes no runs."""
    app = make_app(settings)
    if wanted is not None:
        app.amqp.queues.select(wanted)
    assert pool_support.consumed_queues(app, settings) == taken
    assert pool_support.consumes_runs(app, settings) is bool(taken)


async def test_who_takes_a_queue_is_in_leases(
    store: Store, store_url: str, settings: Settings, sweeper: Sweeper
):
    """The doctor and the metric name a queue that nobody takes; names may be anything."""
    await join(store_url, store, settings, ("celery", "g p,u"), 3)
    await store.client.zadd(keys.WORKERS, {"old": now_ms()})
    await store.client.set(keys.lease("old"), "worker asyncio 1.0 5", px=60_000)  # of an earlier version
    await sweep_now(store, sweeper)
    stored = await store.command("GET", keys.CENSUS)
    places = gauges._places(Census.model_validate_json(stored), settings)
    assert places == {("celery",): 8.0, ("slow",): 0.0, ("g p,u",): 3.0}
    with contextlib.closing(BlockingStore(store_url, timeout_s=10)) as asked:
        found = [one for one in doctor._fleet(asked, settings) if one.name == "queue of runs"]
    assert [one.mark for one in found] == [doctor.Mark.GOOD, doctor.Mark.WARNING, doctor.Mark.GOOD]
    assert found[1].words == "'slow' (engines: report): no living worker takes it"


async def test_each_queue_has_a_window_of_its_own(
    store: Store, store_url: str, broker_url: str, settings: Settings
):
    """A burst for one queue takes no places of another; what ends gives its place to its own queue."""
    fair = settings.model_copy(update={"fair_share": True})
    await join(store_url, store, fair, ("slow",), 1)
    await join(store_url, store, fair, ("celery",), 3)
    async with AsyncRuns(fair) as runs:
        slow = [(await runs.start(f"s{n}", "report", {})).run_id for n in range(5)]
        quick = [(await runs.start(f"q{n}", "echo", {})).run_id for n in range(6)]
        assert published(broker_url, "slow") == slow[:2]
        assert published(broker_url, "celery") == quick[:4]
        await runs.abort(slow[0])
        assert published(broker_url, "slow") == slow[:3]
        assert published(broker_url, "celery") == quick[:4]
