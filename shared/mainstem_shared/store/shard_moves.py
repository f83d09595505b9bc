"""A mover takes buckets from one static shard to another while runs stream, for `mainstem shards`. Blocking.

One step moves some buckets:

1. the map's next version says that they are on their way: whoever hears it uses them no more;
2. the source closes all its connections: who opens another one hears the map first (`connections`);
3. their keys are copied: nobody writes them now;
4. the next version says that they are the target's; the source closes its connections again, and drops them.

Versions follow each other on one shard, by compare-and-set, and whatever a mover does to keys is refused by
a server whose mark is not of the mover's own version: one that stood still, or lost its lock, does no harm.
A mover that dies leaves a map that says what it was about: the next one takes that over.
"""

# redis-py's types are partly unknown.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, Self

from mainstem_shared import errors
from mainstem_shared.model.buckets import BUCKETS, SLOTS
from mainstem_shared.store import failures, keys, shard_maps, topologies
from mainstem_shared.store.blocking import BlockingStore
from mainstem_shared.store.connections import BlockingClient, connect_blocking
from mainstem_shared.store.redaction import redacted
from mainstem_shared.store.shard_maps import Moving, ShardMap

TIMEOUT_S: Final = 10.0
LOCK_MS: Final = 15_000
KEYS_OF_A_STEP: Final = 2_000
"""Keys of the buckets that move at once: they are copied in a fraction of the second that callers wait."""
_COPIED_AT_ONCE: Final = 64
_DROPPED_AT_ONCE: Final = 512
_SCANNED_AT_ONCE: Final = 2_000
_REPLICAS_MS: Final = 2_000
_TRIES: Final = 3
_EXPIRED: Final = -2
_SLOTS_OF_A_BUCKET: Final = SLOTS // BUCKETS
_SPARED: Final = frozenset({keys.SHARD.encode(), keys.SHARD_MOVER.encode()})
"""Keys that are each server's own."""

_REPLACE: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""
_ADVANCE: Final = """
local stored = redis.call('GET', KEYS[1])
if stored and cjson.decode(stored).version >= tonumber(ARGV[2]) then return stored == ARGV[1] and 1 or 0 end
redis.call('SET', KEYS[1], ARGV[1])
return 1
"""
_RESTORE: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
for i = 2, #KEYS do
  redis.call('RESTORE', KEYS[i], ARGV[2 * i - 1], ARGV[2 * i - 2], 'REPLACE', 'ABSTTL')
end
return 1
"""
_DROP: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
for i = 2, #KEYS do redis.call('UNLINK', KEYS[i]) end
return 1
"""
_EXTEND: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
_RELEASE: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """Buckets that are to go from one shard to another, by their places."""

    source: int
    target: int
    buckets: tuple[int, ...]


@dataclass(slots=True, kw_only=True)
class Progress:
    """How far a mover has come."""

    total: int
    moved: int = 0
    keys: int = 0
    longest_hold_s: float = 0.0
    """For how long buckets could not be used, at most."""


@dataclass(slots=True, kw_only=True)
class Shard:
    """A server of the list."""

    place: int
    address: str
    is_new: bool
    client: BlockingClient
    buckets: int = 0


def spread(shard_map: ShardMap, places: Sequence[int]) -> list[Move]:
    """Return the fewest moves after which these shards have equal shares, and all others nothing."""
    share, more = divmod(BUCKETS, len(places))
    had = {place: shard_map.buckets_of(place) for place in (*shard_map.places, *places)}
    by_size = sorted(places, key=lambda place: (-len(had[place]), place))
    wanted = {place: share + (rank < more) for rank, place in enumerate(by_size)}
    leaving = [
        (place, bucket)
        for place, buckets in sorted(had.items())
        for bucket in buckets[wanted.get(place, 0) :]
    ]
    found: dict[tuple[int, int], list[int]] = {}
    for target in sorted(places):
        for source, bucket in islice(leaving, max(0, wanted[target] - len(had[target]))):
            found.setdefault((source, target), []).append(bucket)
        leaving = leaving[max(0, wanted[target] - len(had[target])) :]
    return [
        Move(source=source, target=target, buckets=tuple(buckets))
        for (source, target), buckets in found.items()
    ]


def chosen(shard_map: ShardMap, buckets: Iterable[int], target: int) -> list[Move]:
    """Return the moves that bring these buckets to one shard."""
    found: dict[int, list[int]] = {}
    for bucket in buckets:
        if (source := shard_map.owners[bucket]) != target:
            found.setdefault(source, []).append(bucket)
    return [
        Move(source=source, target=target, buckets=tuple(moved)) for source, moved in sorted(found.items())
    ]


@dataclass(kw_only=True)
class Mover:
    """Moves buckets between the shards of one list. A context manager: it closes its connections."""

    url: str
    on_progress: Callable[[Progress], None] = lambda _: None
    connect: Callable[[str], BlockingClient] = lambda url: connect_blocking(url, timeout_s=TIMEOUT_S)
    keys_of_a_step: int = KEYS_OF_A_STEP
    shards: dict[int, Shard] = field(default_factory=dict[int, Shard])
    map: ShardMap = field(init=False)
    _name: str = field(default_factory=lambda: f"{socket.gethostname()} {os.getpid()} {secrets.token_hex(4)}")
    _extended: float = 0.0

    def __enter__(self) -> Self:
        """Read the map from all servers.

        Raises:
            Misconfigured: the list has not all shards, or has others; or it is no list.
            redis.exceptions.RedisError, OSError: one of them does not answer.
        """
        store = BlockingStore(self.url, timeout_s=TIMEOUT_S)
        try:
            if not isinstance(store.topology, topologies.StaticShards):
                raise errors.Misconfigured("MAINSTEM_REDIS_URL lists no static shards: nothing can be moved.")
            store.check()
            self._read([str(address) for address in store.topology.listed])
        finally:
            store.close()
        return self

    def __exit__(self, *exc: object) -> None:
        for shard in self.shards.values():
            shard.client.close()

    def _read(self, addresses: list[str]) -> None:
        clients = {address: self.connect(address) for address in addresses}
        marks = {address: shard_maps.read(client.get(keys.SHARD)) for address, client in clients.items()}  # type: ignore[arg-type] - bytes
        self.map = max((mark.map for mark in marks.values() if mark), key=lambda it: it.version)
        places = {mark.place: address for address, mark in marks.items() if mark}
        new = [address for address, mark in marks.items() if mark is None]
        if self.map.moving is not None and self.map.moving.target not in places and new:
            places[self.map.moving.target] = new.pop(0)  # a mover died before it had marked it
        places |= {self.map.count + at: address for at, address in enumerate(new)}
        for place, address in sorted(places.items()):
            self.shards[place] = Shard(
                place=place,
                address=address,
                is_new=marks[address] is None,
                client=clients[address],
                buckets=len(self.map.buckets_of(place)),
            )

    # -- what is where

    def count(self, place: int, buckets: Iterable[int]) -> Counter[int]:
        """Return how many keys of these buckets a shard has."""
        wanted = frozenset(buckets)
        return Counter(bucket for bucket, _ in self._scan(place) if bucket in wanted)

    def _scan(self, place: int) -> Generator[tuple[int, bytes]]:
        """Return the keys of a shard and their buckets; each at least once, if it stays there."""
        client, cursor = self.shards[place].client, 0
        while True:
            page: Any = client.scan(cursor, match=f"{keys.PREFIX}:*", count=_SCANNED_AT_ONCE)
            cursor, found = page
            self._extend()
            yield from (
                (topologies.slot_of(key) // _SLOTS_OF_A_BUCKET, key) for key in found if key not in _SPARED
            )
            if not cursor:
                return

    # -- moving

    def run(self, moves: Sequence[Move]) -> Progress:
        """Move buckets, and first what another mover left under way.

        Raises:
            ShardsBusy: another mover is at work, or has taken over.
            Misconfigured: the new shard has runs of another store.
            redis.exceptions.RedisError, OSError: a server does not answer, or refuses; run it again.
        """
        progress = Progress(total=sum(len(move.buckets) for move in moves))
        with self._locked():
            for shard in self.shards.values():
                if not shard.is_new:
                    self._advance(shard)  # one that was unavailable, or was replaced by its replica, may lag
            self._finish_move(progress)
            for move in moves:
                for buckets in self._steps(move):
                    self._step(Move(source=move.source, target=move.target, buckets=buckets), progress)
                    self.on_progress(progress)
            self._finish_move(progress)
        return progress

    def give_back(self) -> tuple[int, ...]:
        """End what another mover left under way: buckets on their way stay where they were; returns them.

        Those that have arrived are the target's already: what the source still has of them is dropped.

        Raises:
            ShardsBusy: the other mover is at work.
            redis.exceptions.RedisError, OSError: a server does not answer, or refuses; run it again.
        """
        with self._locked():
            for shard in self.shards.values():
                if not shard.is_new:
                    self._advance(shard)
            moving = self.map.moving
            if moving is not None:
                self._change(self.map.stabilised())
                if not self.shards[moving.target].is_new:
                    self._drop(moving.target, set(moving.buckets))
            self._finish_move(Progress(total=0))
        return moving.buckets if moving is not None else ()

    def holder(self) -> tuple[str, float] | None:
        """Return who holds the movers' lock, and for how many seconds more if it is not extended."""
        for shard in self.shards.values():
            name: Any = shard.client.get(keys.SHARD_MOVER)
            left_ms: Any = shard.client.pttl(keys.SHARD_MOVER)
            if name is not None:
                return name.decode(), max(0, left_ms) / 1000
        return None

    def _steps(self, move: Move) -> Generator[tuple[int, ...]]:
        """Divide a move's buckets so that each step has about as many keys as it should."""
        # What was planned may have been done by what another mover had left under way.
        still_there = [bucket for bucket in move.buckets if self.map.owners[bucket] == move.source]
        counts = self.count(move.source, still_there)
        step: list[int] = []
        held = 0
        for bucket in still_there:
            if step and held + counts[bucket] > self.keys_of_a_step:
                yield tuple(step)
                step, held = [], 0
            step.append(bucket)
            held += counts[bucket]
        if step:
            yield tuple(step)

    def _finish_move(self, progress: Progress) -> None:
        """Finish what the map says is under way."""
        if self.map.moving is not None:
            self._change(self.map.taken_over())
            self._carry(progress)
        if self.map.cleaning is not None:
            self._clean(self.map.cleaning)
            self._change(self.map.stabilised())

    def _step(self, move: Move, progress: Progress) -> None:
        self._welcome(self.shards[move.target])
        self._drop(move.target, set(move.buckets))  # of an attempt that was called off
        self._change(self.map.begun(Moving(source=move.source, target=move.target, buckets=move.buckets)))
        self._carry(progress)
        progress.moved += len(move.buckets)

    def _welcome(self, shard: Shard) -> None:
        """Give a new server its place; it must be empty."""
        if not shard.is_new:
            return
        if shard.client.execute_command(*topologies.IS_IN_USE):
            raise errors.Misconfigured(
                f"{redacted(shard.address)} has runs of a store that was no shard: a new shard begins empty."
            )
        self._advance(shard)
        shard.is_new = False

    def _carry(self, progress: Progress) -> None:
        """Bring the buckets on their way to their target; if that fails, they stay where they were."""
        assert self.map.moving is not None
        moving, began = self.map.moving, time.monotonic()
        try:
            progress.keys += self._copy_all(moving)
            self._change(self.map.arrived())
        except (failures.RedisError, OSError, errors.StoreUnavailable, KeyboardInterrupt):
            # If the last change was made after all, this one is refused: then they have arrived.
            with contextlib.suppress(failures.RedisError, OSError, errors.MainstemError):
                if self.map.cleaning is None:  # they have not arrived
                    self._change(self.map.stabilised())
            raise
        finally:
            progress.longest_hold_s = max(progress.longest_hold_s, time.monotonic() - began)
        self._clean(moving.source)

    def _copy_all(self, moving: Moving) -> int:
        source = self.shards[moving.source]
        for _ in range(_TRIES):
            history = _history(source.client)
            self._close_connections(source)
            self._drop(moving.target, set(moving.buckets))
            wanted = frozenset(moving.buckets)
            found = list({key: None for bucket, key in self._scan(moving.source) if bucket in wanted})
            for first in range(0, len(found), _COPIED_AT_ONCE):
                self._copy(moving, found[first : first + _COPIED_AT_ONCE])
            if _history(source.client) == history:
                return len(found)
            self._advance(source)  # a replica was promoted: it may have neither the mark nor all of the keys
        raise errors.StoreUnavailable(f"{redacted(source.address)} does not stay the same server.")

    def _copy(self, moving: Moving, some: list[bytes]) -> None:
        with self.shards[moving.source].client.pipeline(transaction=False) as pipe:
            for key in some:
                pipe.execute_command("DUMP", key)
                pipe.execute_command("PEXPIRETIME", key)
            replies: list[Any] = pipe.execute()
        copied, values = list[bytes](), list[Any]()
        for key, value, expires_ms in zip(some, replies[::2], replies[1::2], strict=True):
            if value is not None and expires_ms != _EXPIRED:
                copied.append(key)
                values += [value, max(0, expires_ms)]
        if copied:
            self._guarded(_RESTORE, moving.target, copied, values)

    def _clean(self, place: int) -> None:
        """Drop what a shard still has of buckets that left it, once nobody reads it there any more."""
        self._close_connections(self.shards[place])
        self._drop(place, {bucket for bucket in range(BUCKETS) if self.map.owners[bucket] != place})

    def _drop(self, place: int, buckets: set[int]) -> None:
        """Drop keys of buckets that a shard has not."""
        assert not any(self.map.owners[bucket] == place for bucket in buckets)
        found = [key for bucket, key in self._scan(place) if bucket in buckets]
        for first in range(0, len(found), _DROPPED_AT_ONCE):
            self._guarded(_DROP, place, found[first : first + _DROPPED_AT_ONCE])

    def _guarded(self, script: str, place: int, named: list[bytes], values: Sequence[Any] = ()) -> None:
        """Change keys of a server, if it has this mover's map."""
        self._extend()
        client, mark = self.shards[place].client, self.map.mark(place)
        if not client.eval(script, 1 + len(named), keys.SHARD, *named, mark, *values):  # type: ignore[arg-type] - bytes
            raise errors.ShardsBusy

    def _close_connections(self, shard: Shard) -> None:
        """Have a server close all connections to its database but this one."""
        own = shard.client.client_id()
        database = str(shard.client.connection_pool.connection_kwargs.get("db", 0))
        listed: Any = shard.client.client_list()
        with shard.client.pipeline(transaction=False) as pipe:
            for it in listed:
                if it["db"] == database and int(it["id"]) != own and not {"S", "M"} & set(it["flags"]):
                    pipe.execute_command("CLIENT", "KILL", "ID", it["id"])
            pipe.execute(raise_on_error=False)  # who left by himself is no failure

    # -- the map

    def _change(self, following: ShardMap) -> None:
        """Make the next version the one that holds, and tell all servers, the source first."""
        self._extend()
        coordinator = self.shards[self.map.coordinator]
        place = coordinator.place
        if not coordinator.client.eval(
            _REPLACE,
            1,
            keys.SHARD,
            self.map.mark(place),
            following.mark(place),  # type: ignore[arg-type] - bytes
        ) and coordinator.client.get(keys.SHARD) != following.mark(place):
            raise errors.ShardsBusy
        self.map = following
        moving = following.moving
        order = sorted(self.shards, key=lambda it: (moving is None or it != moving.source, it))
        for place in order:
            if not self.shards[place].is_new:
                self._advance(self.shards[place])

    def _advance(self, shard: Shard) -> None:
        """Bring a server's mark up to this version, and its replicas."""
        given = (self.map.mark(shard.place), self.map.version)
        if not shard.client.eval(_ADVANCE, 1, keys.SHARD, *given):  # type: ignore[arg-type] - bytes
            raise errors.ShardsBusy
        replicas: int = shard.client.info("replication").get("connected_slaves", 0)  # type: ignore[union-attr] - not a coroutine
        if replicas and shard.client.wait(replicas, _REPLICAS_MS) < replicas:  # type: ignore[operator] - not a coroutine
            raise errors.StoreUnavailable(f"The replicas of {redacted(shard.address)} do not follow it.")

    # -- one mover at a time

    @contextlib.contextmanager
    def _locked(self) -> Generator[None]:
        """Keep others out; of servers that are no shards yet it is no matter."""
        held: list[Shard] = []
        try:
            for shard in self.shards.values():
                if shard.is_new:
                    continue
                if not shard.client.set(keys.SHARD_MOVER, self._name, nx=True, px=LOCK_MS):
                    by: Any = shard.client.get(keys.SHARD_MOVER) or b"?"
                    raise errors.ShardsBusy(
                        f"Buckets are being moved by {by.decode()}; if it is dead, wait 15 s."
                    )
                held.append(shard)
            self._extended = time.monotonic()
            self._read_again()
            yield
        finally:
            self._extended = 0.0
            for shard in held:
                with contextlib.suppress(failures.RedisError, OSError):
                    shard.client.eval(_RELEASE, 1, keys.SHARD_MOVER, self._name)

    def _read_again(self) -> None:
        """Refuse moves that were planned by a map that another mover has changed since."""
        marks = (shard_maps.read(it.client.get(keys.SHARD)) for it in self.shards.values())  # type: ignore[arg-type] - bytes
        if any(mark is not None and mark.map.version > self.map.version for mark in marks):
            raise errors.ShardsBusy("Another mover has changed the map meanwhile; look again.")

    def _extend(self) -> None:
        if not self._extended or time.monotonic() - self._extended < LOCK_MS / 5000:
            return
        self._extended = time.monotonic()
        for shard in self.shards.values():
            if not shard.is_new:
                shard.client.eval(_EXTEND, 1, keys.SHARD_MOVER, self._name, LOCK_MS)


def _history(client: BlockingClient) -> tuple[str, str]:
    """Return which life, and which history, of a server answers."""
    server: Any = client.info("server")
    replication: Any = client.info("replication")
    return server["run_id"], replication["master_replid"]
