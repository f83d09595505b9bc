"""Static shards: three servers, each with its buckets; processes with different lists refuse."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from mainstem_shared import errors, transitions
from mainstem_shared.model.buckets import BUCKETS, TAGS
from mainstem_shared.model.runs import Status
from mainstem_shared.operations.indexes import CHECKS, Indexes
from mainstem_shared.operations.queries import listings, summaries
from mainstem_shared.operations.queries.listings import Query
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys, readiness, shard_maps, topologies
from mainstem_shared.store.blocking import BlockingStore
from mainstem_shared.store.client import Store
from support.models import verb_calls as v
from support.processes.servers import ValkeyProcess

RUNS = 24


@pytest.fixture(scope="module")
def servers(
    tmp_path_factory: pytest.TempPathFactory, valkey_binary: Path
) -> Iterator[tuple[ValkeyProcess, ...]]:
    """Three servers that know nothing of each other."""
    del valkey_binary
    with contextlib.ExitStack() as stack:
        yield tuple(
            stack.enter_context(ValkeyProcess(tmp_path_factory.mktemp(f"shard{n}"))) for n in range(3)
        )


@pytest.fixture
def shards(servers: tuple[ValkeyProcess, ...]) -> tuple[ValkeyProcess, ...]:
    """The servers, empty."""
    for server in servers:
        with server.client() as client:
            client.flushall()
            client.script_flush()
    return servers


@pytest.fixture
async def store(shards: tuple[ValkeyProcess, ...]) -> AsyncIterator[Store]:
    made = Store(",".join(shard.url() for shard in shards))
    yield made
    await made.close()


def test_each_bucket_is_one_shards_and_each_shard_has_a_third() -> None:
    """By the bucket's tag, and by every key that carries it; neighbouring buckets stay together."""
    topology = topologies.StaticShards(("redis://a", "redis://b", "redis://c"))
    made = shard_maps.even(range(3), fleet="f")
    for place, node in enumerate(topology.listed):
        topology.hear(node, made.mark(place))
    places = [topology.place_of(f"ms:{{{tag}}}:active") for tag in TAGS]
    assert places == sorted(places)
    assert {places.count(place) for place in range(3)} <= {BUCKETS // 3, BUCKETS // 3 + 1}
    for place, node in enumerate(topology.nodes):
        assert topology.place_of(f"ms:{{{topology.tag_at(node)}}}:x") == place


async def test_runs_are_spread_and_every_list_has_all_of_them(
    store: Store, shards: tuple[ValkeyProcess, ...]
) -> None:
    """Verbs, reads of many, lists, what is due and what is swept: the same as on one server."""
    run_ids = {(await v.running(store)).run_id for _ in range(RUNS)}
    held = []
    for shard in shards:
        with shard.client() as client:
            held.append({str(key).split(":record")[0] for key in client.keys("ms:*:record")})
    assert all(held)
    assert sum(map(len, held)) == RUNS
    records = await transitions.read_many(store, sorted(run_ids))
    assert not [record for record in records if isinstance(record, transitions.Gone)]
    page = await listings.page(store, Query(), limit=100)
    assert {run.run_id for run in page.runs} == run_ids
    overview = await summaries.active(store, Query())
    assert overview.counts == {Status.RUNNING: RUNS}
    indexes = Indexes(store=store, settings=Settings())
    filled = (await indexes.due())[CHECKS].filled
    assert set(await indexes.unfinished(filled, limit=100)) == run_ids
    for run_id in run_ids:
        await indexes.check_at(run_id, 1)
    due = (await indexes.due())[CHECKS]
    assert due.count == RUNS
    taken: set[str] = set()
    while some := await indexes.take(due, limit=10, hold_ms=10_000):
        taken |= {run_id for run_id, _ in some}
    assert taken == run_ids
    dumps = await transitions.dump_many(store, sorted(run_ids))
    assert [dump.run_id for dump in dumps if not isinstance(dump, transitions.Gone)] == sorted(run_ids)
    await readiness.check_writes(store)


async def test_a_failed_shard_fails_its_own_keys_alone(store: Store, shards: tuple[ValkeyProcess, ...]):
    """And a call for many servers gets the rest of its replies when the last one answers again."""
    run_ids = [(await v.running(store)).run_id for _ in range(RUNS)]
    shards[1].freeze()
    try:
        mine = [r for r in run_ids if store.topology.node_of(keys.run(r).record) != shards[1].url()]
        assert len(await transitions.read_many(store, mine)) == len(mine)
    finally:
        shards[1].thaw()
    assert len(await transitions.read_many(store, run_ids)) == RUNS


@pytest.mark.parametrize("wrong", ["fewer", "another", "single"])
async def test_another_list_is_refused_by_name(
    wrong: str, store: Store, shards: tuple[ValkeyProcess, ...], tmp_path: Path
) -> None:
    """Whoever has another list than those that serve would look for runs where they are not."""
    await v.running(store)
    with ValkeyProcess(tmp_path / "other") as other:
        a, b = (shard.url() for shard in shards[:2])
        listed = {"fewer": [a, b], "another": [a, b, other.url()], "single": [b]}[wrong]
        if wrong == "another":  # of a fleet of its own
            with other.client() as client:
                client.set(keys.SHARD, shard_maps.even(range(3), fleet="f").mark(2))
        if wrong != "single":  # which asks nobody before each command
            mine = Store(",".join(listed))
            with pytest.raises(errors.Misconfigured, match="shard"):
                await v.running(mine)
            await mine.close()
        blocking = BlockingStore(",".join(listed), timeout_s=2)
        with pytest.raises(errors.Misconfigured, match="shard"):
            blocking.check()
        blocking.close()


async def test_a_server_with_runs_does_not_become_a_shard(shards: tuple[ValkeyProcess, ...]) -> None:
    """Most of its runs would not be found in a list."""
    one = Store(shards[0].url())
    await v.running(one)
    await one.close()
    store = Store(",".join(shard.url() for shard in shards))
    with pytest.raises(errors.Misconfigured, match="empty servers"):
        await v.running(store)
    await store.close()


def test_a_list_names_each_server_once() -> None:
    """Nor is a Cluster a shard."""
    for listed in ("redis://a,redis://a", "redis://a,redis+cluster://b"):
        with pytest.raises(errors.Misconfigured, match="named once"):
            topologies.of(listed)
    assert topologies.shards_of("sentinel://a:1,b:2/x/0,redis://c") == ["sentinel://a:1,b:2/x/0", "redis://c"]
