"""Buckets move between static shards while runs stream: nothing is lost or doubled, whoever dies meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from mainstem_shared import errors, transitions
from mainstem_shared.eventlog.reading.tailer import Tailer
from mainstem_shared.model.buckets import BUCKETS
from mainstem_shared.model.events import Type
from mainstem_shared.store import keys, shard_maps, shard_moves, topologies
from mainstem_shared.store.connections import connect_blocking
from mainstem_shared.store.shard_moves import Mover
from support.models import verb_calls as v
from support.models.hostile_writing import Engine, Reader, log_of, stored, through, writing
from support.processes.servers import ValkeyProcess

RUNS = 12
STRIDE = 1 if "MAINSTEM_FLEET_ROUNDS" in os.environ else 6
"""Of the commands before which a mover dies, every so many are tried."""


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, valkey_binary: Path) -> Iterator[list[ValkeyProcess]]:
    """Four servers that know nothing of each other."""
    del valkey_binary
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(ValkeyProcess(tmp_path_factory.mktemp(f"shard{n}"))) for n in range(4)]


@pytest.fixture
def shards(servers: list[ValkeyProcess]) -> list[ValkeyProcess]:
    """The servers, empty."""
    for server in servers:
        with server.client() as client:
            client.flushall()
    return servers


def url_of(shards: list[ValkeyProcess]) -> str:
    return ",".join(shard.url() for shard in shards)


def places_of(url: str) -> set[int]:
    with Mover(url=url) as mover:
        assert mover.map.is_stable
        return set(mover.map.places)


def moved(url: str, places: list[int]) -> shard_moves.Progress:
    """Give these shards equal shares, and the others nothing."""
    with Mover(url=url, keys_of_a_step=40) as mover:
        return mover.run(shard_moves.spread(mover.map, places))


async def test_a_shard_is_added_and_another_one_removed_while_runs_stream(
    shards: list[ValkeyProcess],
) -> None:
    """Every event is in the log once, in order, and reached its follower once; nothing stays where it was."""
    url = url_of(shards)
    async with stored(url_of(shards[:3])) as first:
        await first.refresh()  # the fleet begins with three
    async with stored(url) as store, writing(url) as writer, Tailer(store) as tailer:
        await store.refresh()
        engines = [Engine(writer, await v.running(store), seed) for seed in range(RUNS)]
        readers = [Reader(engine.run_id) for engine in engines]
        reading = asyncio.gather(*(reader.read(tailer) for reader in readers))
        trouble = asyncio.ensure_future(asyncio.to_thread(_change, url))
        carried = await through(store, engines, trouble)
        async with asyncio.timeout(30):
            await reading
        for engine, reader in zip(engines, readers, strict=True):
            entries = await log_of(store, engine.run_id)
            reader.check(list(entries))
            assert Type.RESYNC not in {entry.type for entry in entries}
            assert engine.losses == []
        assert any(
            len(servers) > 1 for servers in carried
        )  # three of twelve, where nothing else has the cores
    assert places_of(url) == {0, 2, 3}
    with shards[1].client() as client:
        left = {key.decode() if isinstance(key, bytes) else key for key in client.keys("ms:*")}
    assert not {key for key in left if "record" in key or "log" in key}


def _change(url: str) -> None:
    moved(url, [0, 1, 2, 3])
    moved(url, [0, 2, 3])


class Died(BaseException):
    """The mover is gone."""


def mortal(life: list[int]) -> Any:
    """Connect as a mover does that dies before it sends its next command, once so many are sent."""

    def spend() -> None:
        if not life[0]:
            raise Died
        life[0] -= 1

    def connect(url: str) -> Any:
        client = connect_blocking(url, timeout_s=5)
        execute, pipeline = client.execute_command, client.pipeline

        def execute_command(*args: Any, **options: Any) -> Any:
            spend()
            return execute(*args, **options)

        def mortal_pipeline(**options: Any) -> Any:
            pipe = pipeline(**options)
            run = pipe.execute

            def all_at_once(**how: Any) -> Any:
                spend()
                return run(**how)

            pipe.execute = all_at_once  # type: ignore[method-assign] - a test's
            return pipe

        client.execute_command, client.pipeline = execute_command, mortal_pipeline  # type: ignore[method-assign,assignment]
        return client

    return connect


READS: dict[bytes, Any] = {
    b"hash": lambda client, key: client.hgetall(key),
    b"zset": lambda client, key: client.zrange(key, 0, -1, withscores=True),
    b"stream": lambda client, key: (client.xrange(key), client.xinfo_stream(key)["last-generated-id"]),
    b"set": lambda client, key: client.smembers(key),
    b"list": lambda client, key: client.lrange(key, 0, -1),
    b"string": lambda client, key: client.get(key),
}
"""What a key of each type has; a hash that was copied may be in another order."""


def contents_of(shards: list[ValkeyProcess]) -> dict[bytes, list[tuple[int, Any, int]]]:
    """All keys of the store: where each is, what it has, and when it ends."""
    found: dict[bytes, list[tuple[int, Any, int]]] = {}
    for place, shard in enumerate(shards):
        with connect_blocking(shard.url(), timeout_s=5) as client:
            for key in client.keys("ms:*"):  # type: ignore[union-attr] - not a coroutine
                if not key.startswith(b"ms:shard"):
                    value: Any = READS[client.type(key)](client, key)  # type: ignore[index] - not a coroutine
                    found.setdefault(key, []).append((place, value, client.pexpiretime(key)))  # type: ignore[arg-type]
    return found


def expire_lock(shards: list[ValkeyProcess]) -> None:
    """What fifteen seconds do."""
    for shard in shards:
        with shard.client() as client:
            client.delete(keys.SHARD_MOVER)


async def test_a_mover_that_dies_before_any_command_is_run_again(shards: list[ValkeyProcess]) -> None:
    """The next one finishes: every key is there once, as it was, on the shard that the map says."""
    url = url_of(shards)
    async with stored(url_of(shards[:3])) as store:
        run_ids = [(await v.running(store)).run_id for _ in range(RUNS)]
        await store.command("SET", keys.lease("w1"), "worker", "PX", 600_000)
    before = {key: kept[0][1:] for key, kept in contents_of(shards).items()}
    died = 0
    target = 0
    for commands in range(1, 400, STRIDE):
        target = 3 - target  # there and back: each attempt has keys to move
        life = [commands]
        try:
            with Mover(url=url, connect=mortal(life), keys_of_a_step=30) as mover:
                held = mover.map.buckets_of(3) if target == 0 else mover.map.buckets_of(0)
                mover.run(shard_moves.chosen(mover.map, held, target))
        except Died:
            died += 1
        expire_lock(shards)
        with Mover(url=url, keys_of_a_step=30) as mover:
            held = mover.map.buckets_of(3) if target == 0 else mover.map.buckets_of(0)
            mover.run(shard_moves.chosen(mover.map, held, target))
        after = contents_of(shards)
        assert {key: kept[0][1:] for key, kept in after.items()} == before, commands
        assert {len(kept) for kept in after.values()} == {1}
        with Mover(url=url) as mover:
            assert mover.map.is_stable
            for key, [(place, *_)] in after.items():
                assert mover.map.owners[topologies.slot_of(key) // 16] == place
        if life[0]:
            break
    assert life[0], "more commands than this test has patience for"
    assert died >= 10
    async with stored(url) as store:
        records = await transitions.read_many(store, run_ids)
        assert not [record for record in records if isinstance(record, transitions.Gone)]


async def test_a_mover_that_was_thought_dead_changes_nothing_more(shards: list[ValkeyProcess]) -> None:
    """Another one took over while it stood still: neither may it copy old values over new ones, nor drop any."""
    url = url_of(shards[:2])
    async with stored(url) as store:
        control = await v.running(store)
        key = keys.run(control.run_id).record
        source = store.topology.place_of(key)  # type: ignore[attr-defined] - static shards
    bucket = topologies.slot_of(key) // 16
    resumed: list[Any] = []

    def stand_still(client: Any) -> None:
        """Have another mover do it all, and a process change the run, before the first key is copied."""
        execute = client.execute_command

        def execute_command(*args: Any, **options: Any) -> Any:
            if "RESTORE" in str(args[1:2]) and not resumed:
                resumed.append(args)
                expire_lock(shards)
                with Mover(url=url) as other:
                    other.run([])
                with shards[1 - source].client() as there:
                    there.hset(key, "title", "newer")
            return execute(*args, **options)

        client.execute_command = execute_command

    def connect(address: str) -> Any:
        client = connect_blocking(address, timeout_s=5)
        stand_still(client)
        return client

    with Mover(url=url, connect=connect) as mover, pytest.raises(errors.ShardsBusy):
        mover.run(shard_moves.chosen(mover.map, [bucket], 1 - source))
    assert resumed
    with shards[1 - source].client() as there, shards[source].client() as here:
        assert there.hget(key, "title") in ("newer", b"newer")
        assert not here.exists(key)


async def test_who_has_taken_over_is_disturbed_by_nobody(shards: list[ValkeyProcess]) -> None:
    """In the middle of its work the former mover awakes: what it copied before is refused, by the map's version."""
    url = url_of(shards[:2])
    async with stored(url) as store:
        key = keys.run((await v.running(store)).run_id).record.encode()
        source = store.topology.place_of(key)  # type: ignore[attr-defined] - static shards
    awoke: list[bytes] = []

    class Former(Mover):
        def _copy(self, moving: shard_maps.Moving, some: list[bytes]) -> None:
            if awoke:
                return super()._copy(moving, some)
            former, old = self, self.shards[source].client.dump(key)

            class Heir(Mover):
                def _copy(self, moving: shard_maps.Moving, some: list[bytes]) -> None:
                    with pytest.raises(errors.ShardsBusy):
                        former._guarded(shard_moves._RESTORE, moving.target, [key], [old, 0])
                    awoke.append(key)
                    super()._copy(moving, some)

            expire_lock(shards)
            with Heir(url=url) as heir:
                heir.run([])
            raise errors.ShardsBusy

    with Former(url=url) as mover, pytest.raises(errors.ShardsBusy):
        mover.run(shard_moves.chosen(mover.map, [topologies.slot_of(key) // 16], 1 - source))
    assert awoke
    ((place, *_),) = contents_of(shards)[key]
    assert place == 1 - source


async def test_who_came_while_buckets_were_on_their_way_hears_that_they_arrived(
    shards: list[ValkeyProcess],
) -> None:
    """The source closes its connections a second time: nobody waits there for what is elsewhere."""
    url = url_of(shards[:2])
    async with stored(url) as store:
        key = keys.run((await v.running(store)).run_id).record
        source = store.topology.place_of(key)  # type: ignore[attr-defined] - static shards
    met: list[int] = []
    with connect_blocking(shards[source].url(), timeout_s=5) as came:

        class Watched(Mover):
            def _copy(self, moving: shard_maps.Moving, some: list[bytes]) -> None:
                met.append(came.client_id())  # type: ignore[arg-type] - not a coroutine
                super()._copy(moving, some)

        with Watched(url=url) as mover:
            mover.run(shard_moves.chosen(mover.map, [topologies.slot_of(key) // 16], 1 - source))
        assert met
        assert came.client_id() not in met


async def test_two_movers_exclude_each_other(shards: list[ValkeyProcess]) -> None:
    """The second one says who is at work."""
    url = url_of(shards)
    async with stored(url_of(shards[:3])) as store:
        await store.refresh()
    refused: list[str] = []

    def intrude(progress: Any) -> None:
        del progress
        with Mover(url=url) as other, pytest.raises(errors.ShardsBusy) as error:
            other.run(shard_moves.spread(other.map, [0, 1]))
        refused.append(str(error.value))

    with Mover(url=url, on_progress=intrude) as mover:
        mover.run(shard_moves.spread(mover.map, [0, 1, 2, 3]))
    assert refused
    assert "are being moved by" in refused[0]
    assert places_of(url) == {0, 1, 2, 3}


async def test_a_failed_step_leaves_its_buckets_where_they_were(shards: list[ValkeyProcess]) -> None:
    """A target that takes no writes: runs go on where they are, and the map says so."""
    url = url_of(shards[:2])
    async with stored(url) as store:
        run_ids = [(await v.running(store)).run_id for _ in range(RUNS)]
        with shards[1].client() as client:
            client.config_set("maxmemory", "1")
        try:
            with Mover(url=url) as mover, pytest.raises(redis.exceptions.RedisError):
                mover.run(shard_moves.spread(mover.map, [1]))
        finally:
            with shards[1].client() as client:
                client.config_set("maxmemory", "0")
        assert len(await transitions.read_many(store, run_ids)) == RUNS
    with Mover(url=url) as mover:
        assert mover.map.moving is None
        assert len(mover.map.buckets_of(0)) == BUCKETS // 2


@pytest.mark.parametrize("count", [1, 3, 4])
def test_equal_shares_need_the_fewest_moves(count: int) -> None:
    """From three shards to any others: no bucket moves that could stay."""
    before = shard_maps.even(range(3), fleet="f")
    owners = list(before.owners)
    moves = shard_moves.spread(before, list(range(count)))
    for move in moves:
        for bucket in move.buckets:
            assert owners[bucket] == move.source
            owners[bucket] = move.target
    shares = [owners.count(place) for place in range(count)]
    assert sum(shares) == BUCKETS
    assert max(shares) - min(shares) <= 1
    stayed = sum(min(before.owners.count(place), max(shares)) for place in range(count))
    assert sum(len(move.buckets) for move in moves) <= BUCKETS - stayed + 1
