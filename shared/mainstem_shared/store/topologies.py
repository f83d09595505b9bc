"""A topology says which server has a key: the only one, its bucket's static shard, or a Cluster's node.

Pure: it is told what servers answer, and sends nothing itself. `client.Store` asks for it in a loop's place,
`blocking.BlockingStore` in a thread's. A server is named by its address, which may be one of Sentinels.

* `OneServer`: one server, or the primary that Sentinels name.
* `StaticShards`: a list of them. Each bucket's slots are one server's, by a map that all of them keep
  (`shard_maps`) beside which of them they are, so that the list's order does not matter.
* `Cluster`: the servers say which slots they have, and are asked again whenever one says that it has not.
"""

from __future__ import annotations

import binascii
import re
import secrets
from collections.abc import Callable, Generator, Iterable
from typing import Any, Final, Protocol
from urllib.parse import urlsplit, urlunsplit

from mainstem_shared import errors
from mainstem_shared.model.buckets import BUCKETS, SLOTS, TAGS
from mainstem_shared.store import failures, keys, shard_maps
from mainstem_shared.store.redaction import redacted
from mainstem_shared.store.sentinel_addresses import is_sentinel

Queries = Generator[tuple[str, tuple[Any, ...]], Any, None]
"""Questions to servers: yields address and command, is sent the reply, or has the failure thrown into it."""

CLUSTER_SCHEMES: Final = {
    "cluster": "redis",
    "redis+cluster": "redis",
    "clusters": "rediss",
    "rediss+cluster": "rediss",
}
"""Schemes of a Cluster's address, and those of its nodes."""
_LIST: Final = re.compile(r",(?=[A-Za-z][A-Za-z0-9+.-]*://)")
IS_IN_USE: Final = ("EXISTS", *(index for listed in keys.INDEXES for index in listed[:2]))
"""Tells whether a server has runs already."""
_SLOTS_OF_A_BUCKET: Final = SLOTS // BUCKETS


class Unlearned(failures.ConnectionLost):
    """Nobody has asked yet which server has the key: `Store.refresh` does."""


class Topology(Protocol):
    """Maps each key to the server that has it."""

    only: str | None
    """The address of the one server, if there is no other."""
    by_slot: bool
    """Whether a server serves each slot by itself, as a Cluster's do: no command may have keys of two."""

    changed: list[Callable[[], None]]
    """Who wants to know when slots have other servers."""

    @property
    def nodes(self) -> tuple[str, ...]:
        """The addresses of all servers that are known to have a part of the keys."""
        ...

    def node_of(self, key: str | bytes) -> str:
        """Return the address of the server that has a key.

        Raises:
            Unlearned: that is not known yet.
        """
        ...

    def tag_at(self, node: str) -> str:
        """Return a hash tag whose keys this server has."""
        ...

    def queries(self, *, first: str | None = None, thorough: bool = False) -> Queries | None:
        """Return the questions that bring it up to date, the first one to `first`; None: there are none.

        `thorough`: also where a server would say so that something has changed.

        Raises (while they are asked):
            Misconfigured: the servers are not those of the address.
        """
        ...

    def introduce(self) -> Queries:
        """Return the questions by which a process that starts learns whether the address means these servers.

        Raises (while they are asked):
            Misconfigured: they are not.
        """
        ...


def is_cluster(url: str) -> bool:
    """Tell whether an address is a Cluster's."""
    return url.partition("://")[0].lower() in CLUSTER_SCHEMES


def is_ours(url: str) -> bool:
    """Tell whether an address is one of Valkey's or Redis': brokers may be others."""
    return url.startswith(("redis://", "rediss://", "unix://")) or is_sentinel(url) or is_cluster(url)


def shards_of(url: str) -> list[str]:
    """Return the addresses in a list of them."""
    return [address.strip() for address in _LIST.split(url) if address.strip()]


def of(url: str) -> Topology:
    """Return the topology that an address means.

    Raises:
        Misconfigured: it lists a server twice, or a Cluster among others.
    """
    addresses = shards_of(url)
    if len(addresses) <= 1:
        return Cluster(url) if is_cluster(url) else OneServer(url)
    if len(set(addresses)) < len(addresses) or any(map(is_cluster, addresses)):
        raise errors.Misconfigured(
            "MAINSTEM_REDIS_URL lists static shards: each is one server, or one service of Sentinels, and is "
            "named once. A Cluster's address stands alone."
        )
    return StaticShards(tuple(addresses))


def slot_of(key: str | bytes) -> int:
    """Return a key's slot: of its hash tag, or else of the whole key."""
    raw = key.encode() if isinstance(key, str) else key
    start = raw.find(b"{")
    if start >= 0:
        end = raw.find(b"}", start + 1)
        if end > start + 1:
            raw = raw[start + 1 : end]
    return binascii.crc_hqx(raw, 0) % SLOTS


def key_of(command: tuple[Any, ...]) -> str | bytes:
    """Return the first key of a command: all keys of one are on one server."""
    return command[3] if command[0] in ("EVALSHA", "EVAL") else command[1]


class OneServer:
    """One server has every key."""

    by_slot: bool = False

    def __init__(self, url: str) -> None:
        self.only: str | None = url
        self.nodes = (url,)
        self.changed: list[Callable[[], None]] = []

    def node_of(self, key: str | bytes) -> str:
        del key
        return self.nodes[0]

    def tag_at(self, node: str) -> str:
        del node
        return TAGS[0]

    def queries(self, *, first: str | None = None, thorough: bool = False) -> Queries | None:
        del first, thorough
        return None

    def introduce(self) -> Queries:
        mark = _marked(self.nodes[0], (yield self.nodes[0], ("GET", keys.SHARD)))
        if mark is not None:
            raise errors.Misconfigured(
                f"{redacted(self.nodes[0])} is shard {mark.place + 1} of the fleet {mark.map.fleet}: "
                "MAINSTEM_REDIS_URL needs the whole list."
            )


class StaticShards:
    """A list of servers, each of which has buckets, and their slots, by a map that all of them keep."""

    only: str | None = None
    by_slot: bool = False

    def __init__(self, addresses: tuple[str, ...]) -> None:
        self.listed: tuple[str, ...] = tuple(self._guarded(address) for address in addresses)
        self.nodes = self.listed
        self.changed: list[Callable[[], None]] = []
        self.map = shard_maps.even(range(len(addresses)), fleet="", version=0)
        """The latest map that any of the servers returned; version 0: none did."""
        self._addresses: dict[int, str] = {}
        self._by_bucket: list[str | None] = [None] * BUCKETS
        self._strangers: dict[str, shard_maps.Mark] = {}

    def _guarded(self, address: str) -> str:
        guarded = shard_maps.GuardedAddress(address)
        guarded.version = lambda: self.map.version
        guarded.heard = lambda stored: self.hear(guarded, stored)
        return guarded

    def place_of(self, key: str | bytes) -> int:
        """Return the place of the server that has a key."""
        return self.map.owners[slot_of(key) // _SLOTS_OF_A_BUCKET]

    def address_of(self, place: int) -> str | None:
        """Return the address of a shard that has returned its mark."""
        return self._addresses.get(place)

    def node_of(self, key: str | bytes) -> str:
        node = self._by_bucket[slot_of(key) // _SLOTS_OF_A_BUCKET]
        if node is None:
            raise Unlearned("the key is on its way to another shard, or its shard was not heard yet")
        return node

    def tag_at(self, node: str) -> str:
        return TAGS[self._by_bucket.index(node)]

    def queries(self, *, first: str | None = None, thorough: bool = False) -> Queries | None:
        del first
        return self.introduce() if thorough or None in self._by_bucket else None

    # -- what servers say

    def hear(self, node: str, stored: bytes | None) -> None:
        """Take what a server says of itself.

        Raises:
            Unlearned: it is no shard of this fleet.
        """
        try:
            mark = shard_maps.read(stored)
        except ValueError as error:
            raise Unlearned(f"the shard at {redacted(node)} has a mark that cannot be read") from error
        self._strangers.pop(node, None)
        if mark is not None and not self._take(node, mark):
            self._strangers[node] = mark
            raise Unlearned(f"the server at {redacted(node)} is a shard of the fleet {mark.map.fleet}")

    def _take(self, node: str, mark: shard_maps.Mark) -> bool:
        """Learn from a mark; False if it is another fleet's."""
        if self.map.fleet not in ("", mark.map.fleet):
            return False
        if mark.map.version <= self.map.version and self._addresses.get(mark.place) == node:
            return True
        if mark.map.version > self.map.version:
            self.map = mark.map
        self._addresses = {place: it for place, it in self._addresses.items() if it != node}
        self._addresses[mark.place] = node
        held = set(self.map.moving.buckets) if self.map.moving is not None else set[int]()
        self._by_bucket = [
            None if bucket in held else self._addresses.get(place)
            for bucket, place in enumerate(self.map.owners)
        ]
        there = {it for place, it in self._addresses.items() if place in self.map.places}
        # Nobody knows yet where the others are: all that are listed may have something.
        is_whole = len(there) == len(self.map.places)
        self.nodes = tuple(it for it in self.listed if it in there) if is_whole else self.listed
        for notify in list(self.changed):
            notify()
        return True

    def introduce(self) -> Queries:
        """Read every server's mark, and give one to those that need one: who has runs already is refused."""
        marks: dict[str, shard_maps.Mark | None] = {}
        failure: Exception | None = None
        for node in self.listed:
            try:
                marks[node] = _marked(node, (yield node, ("GET", keys.SHARD)))
            except (failures.RedisError, OSError) as error:
                failure = error
        if not self.map.fleet and not any(marks.values()):
            if failure is not None:
                raise failure  # a list is written down while all of its servers answer
            yield from self._found()
            return
        for node, mark in (marks | self._strangers).items():
            if mark is not None and not self._take(node, mark):
                raise self._stranger(node, mark)
        if failure is None:
            yield from self._replace([node for node, mark in marks.items() if mark is None])

    def _found(self) -> Generator[tuple[str, tuple[Any, ...]], Any, None]:
        """Begin a fleet: who marks the first server says what it is called."""
        made = shard_maps.even(range(len(self.listed)), fleet=secrets.token_hex(8))
        for place, node in enumerate(self.listed):
            yield from self._mark(node, place, made if place == 0 else self.map)

    def _replace(self, unmarked: list[str]) -> Generator[tuple[str, tuple[Any, ...]], Any, None]:
        """Mark servers that lost all they had. New ones wait for `mainstem shards move`."""
        lost = [place for place in self.map.places if place not in self._addresses]
        for place in lost:
            here = self.listed[place] if place < len(self.listed) else None
            if here not in unmarked:
                here = unmarked[0] if len(unmarked) == len(lost) == 1 else None
            if here is None:
                raise errors.Misconfigured(
                    f"MAINSTEM_REDIS_URL lacks shard {place + 1} of the fleet {self.map.fleet}: the list "
                    "needs every shard that has buckets."
                )
            yield from self._mark(here, place, self.map)

    def _mark(
        self, node: str, place: int, made: shard_maps.ShardMap
    ) -> Generator[tuple[str, tuple[Any, ...]], Any, None]:
        """Mark a server that is in use for nothing yet; another process may have done so meanwhile."""
        if (yield node, IS_IN_USE):
            raise errors.Misconfigured(
                f"{redacted(node)} has runs of a store that was no shard: most of them would not be found. "
                "Begin a list with empty servers."
            )
        yield node, ("SET", keys.SHARD, made.mark(place), "NX")
        mark = _marked(node, (yield node, ("GET", keys.SHARD)))
        if mark is not None and not self._take(node, mark):
            raise self._stranger(node, mark)

    def _stranger(self, node: str, mark: shard_maps.Mark) -> errors.Misconfigured:
        return errors.Misconfigured(
            f"{redacted(node)} in MAINSTEM_REDIS_URL is shard {mark.place + 1} of the fleet "
            f"{mark.map.fleet}, and the others are of {self.map.fleet}: one list has the shards of one fleet."
        )


def _marked(node: str, stored: bytes | None) -> shard_maps.Mark | None:
    try:
        return shard_maps.read(stored)
    except ValueError as error:
        raise errors.Misconfigured(
            f"{redacted(node)} has a mark of a shard ({keys.SHARD}) that cannot be read: of another release?"
        ) from error


class Cluster:
    """The servers of a Cluster, by the slots that they said they have."""

    only: str | None = None
    by_slot: bool = True

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._parts = parts._replace(scheme=CLUSTER_SCHEMES[parts.scheme.lower()], path="/0")
        login, _, hosts = parts.netloc.rpartition("@")
        self._login = f"{login}@" if login else ""
        self._seeds = tuple(self._address(host) for host in hosts.split(","))
        self._owners: list[str | None] = [None] * SLOTS
        self.nodes: tuple[str, ...] = ()
        self.known: tuple[str, ...] = ()
        """All known servers, replicas among them: any of them can be asked."""
        self.changed: list[Callable[[], None]] = []

    def address_of(self, host: str, port: int) -> str:
        """Return the address of a node that another one named."""
        return self._address(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")

    def _address(self, netloc: str) -> str:
        return urlunsplit(self._parts._replace(netloc=f"{self._login}{netloc}"))

    def node_of(self, key: str | bytes) -> str:
        owner = self._owners[slot_of(key)]
        if owner is None:
            raise Unlearned("nobody knows which node has the slot")
        return owner

    def tag_at(self, node: str) -> str:
        return next(tag for tag in TAGS if self._owners[slot_of(tag)] == node)

    def queries(self, *, first: str | None = None, thorough: bool = False) -> Queries | None:
        del thorough
        return self._ask(dict.fromkeys([*([first] if first else ()), *self.known, *self._seeds]))

    def introduce(self) -> Queries:
        return self._ask(dict.fromkeys(self._seeds))

    def _ask(self, addresses: Iterable[str]) -> Queries:
        """Ask one after the other until one knows."""
        failure: Exception | None = None
        for address in addresses:
            try:
                ranges = yield address, ("CLUSTER", "SLOTS")
            except (failures.RedisError, OSError) as error:
                failure = error
                continue
            if ranges:
                self._learn(address, ranges)
                return
        raise failure or failures.ConnectionLost("no node of the Cluster knows its slots")

    def _learn(self, told_by: str, ranges: list[Any]) -> None:
        owners: list[str | None] = [None] * SLOTS
        heard: dict[str, None] = {}
        for first, last, primary, *replicas in ranges:
            addresses = [self._named(told_by, server) for server in (primary, *replicas)]
            heard |= dict.fromkeys(addresses)
            owners[first : last + 1] = [addresses[0]] * (last + 1 - first)
        former, self._owners = self._owners, owners
        self.nodes = tuple(sorted({owner for owner in owners if owner}))
        self.known = tuple(heard)
        if former != owners:
            for notify in list(self.changed):
                notify()

    def _named(self, told_by: str, server: list[Any]) -> str:
        """Return a server's address; one that does not know its own name is where it was asked."""
        host = server[0].decode() if server[0] else ""
        if host in ("", "?"):
            host = urlsplit(told_by).hostname or ""
        return self.address_of(host, server[1])
