"""A topology says which server has a key: the only one, its bucket's static shard, or a Cluster's node.

Pure: it is told what servers answer, and sends nothing itself. `client.Store` asks for it in a loop's place,
`blocking.BlockingStore` in a thread's. A server is named by its address, which may be one of Sentinels.

* `OneServer`: one server, or the primary that Sentinels name.
* `StaticShards`: a list of them. Each bucket's slots are one server's; each server keeps a mark that says
  which place of which list it has, so that processes with different lists refuse.
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
from mainstem_shared.model import jsontext
from mainstem_shared.model.buckets import BUCKETS, SLOTS, TAGS
from mainstem_shared.store import failures, keys
from mainstem_shared.store.sentinel_addresses import is_sentinel, redacted

Look = Generator[tuple[str, tuple[Any, ...]], Any, None]
"""Questions to servers: yields address and command, is sent the reply, or has the failure thrown into it."""

CLUSTER_SCHEMES: Final = {
    "cluster": "redis",
    "redis+cluster": "redis",
    "clusters": "rediss",
    "rediss+cluster": "rediss",
}
"""Schemes of a Cluster's address, and those of its nodes."""
_LIST: Final = re.compile(r",(?=[A-Za-z][A-Za-z0-9+.-]*://)")
_SLOTS_OF_A_BUCKET: Final = SLOTS // BUCKETS


class Unlearned(failures.ConnectionLost):
    """Nobody has asked yet which server has the key: `Store.refresh` does."""


class Topology(Protocol):
    """What everybody asks who sends a command with a key."""

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

    def look(self, *, first: str | None = None) -> Look | None:
        """Return the questions that bring it up to date, the first one to `first`; None: there are none.

        Raises (while they are asked):
            Misconfigured: the servers are not those of the address.
        """
        ...

    def introduce(self) -> Look:
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

    def look(self, *, first: str | None = None) -> Look | None:
        del first
        return None

    def introduce(self) -> Look:
        mark = _parsed((yield self.nodes[0], ("GET", keys.SHARD)))
        if mark is not None:
            raise errors.Misconfigured(
                f"{redacted(self.nodes[0])} is shard {_ordinal(mark.get('place'))} of {mark.get('of')} of "
                f"the fleet {mark.get('fleet')}: MAINSTEM_REDIS_URL needs the whole list."
            )


class StaticShards:
    """A fixed list of servers, each of which has a range of buckets, and of slots with them."""

    only: str | None = None
    by_slot: bool = False

    def __init__(self, addresses: tuple[str, ...]) -> None:
        self.nodes = addresses
        self.changed: list[Callable[[], None]] = []
        self._fleet: str | None = None
        self._checked: set[int] = set()

    def place_of(self, key: str | bytes) -> int:
        """Return the place in the list of the server that has a key."""
        return slot_of(key) // _SLOTS_OF_A_BUCKET * len(self.nodes) // BUCKETS

    def node_of(self, key: str | bytes) -> str:
        place = self.place_of(key)
        if place not in self._checked:
            raise Unlearned("nobody knows yet whether this server is the one that the list means")
        return self.nodes[place]

    def tag_at(self, node: str) -> str:
        return TAGS[-(-self.nodes.index(node) * BUCKETS // len(self.nodes))]

    def look(self, *, first: str | None = None) -> Look | None:
        del first
        return self.introduce() if len(self._checked) < len(self.nodes) else None

    def introduce(self) -> Look:
        """Read every server's mark, and give one to those that have none: who has runs already is refused."""
        marks: dict[int, dict[str, Any] | None] = {}
        failure: Exception | None = None
        for place, node in enumerate(self.nodes):
            try:
                marks[place] = _parsed((yield node, ("GET", keys.SHARD)))
            except (failures.RedisError, OSError) as error:
                failure = error
        fleet = self._fleet or next((mark["fleet"] for mark in marks.values() if mark), None)
        if fleet is None and failure is not None:
            raise failure  # a list is written down while all of its servers answer
        made = secrets.token_hex(8)
        for place, found in marks.items():
            mark = found or (yield from self._mark(place, fleet or made))
            fleet = self._judge(place, mark, fleet)
            self._checked.add(place)
        self._fleet = fleet

    def _mark(self, place: int, fleet: str) -> Generator[tuple[str, tuple[Any, ...]], Any, dict[str, Any]]:
        """Mark a server that is in use for nothing yet; returns its mark, which may be another process's."""
        node = self.nodes[place]
        if (yield node, ("EXISTS", *(index for listed in keys.INDEXES for index in listed[:2]))):
            raise errors.Misconfigured(
                f"{redacted(node)} has runs of a store that was no shard: most of them would not be found. "
                "Begin a list with empty servers."
            )
        mark = {"fleet": fleet, "place": place, "of": len(self.nodes)}
        yield node, ("SET", keys.SHARD, jsontext.dumps(mark), "NX")
        return _parsed((yield node, ("GET", keys.SHARD))) or mark

    def _judge(self, place: int, mark: dict[str, Any], fleet: str | None) -> str:
        """Return the fleet that a server belongs to; it must have this place in the list."""
        said = (mark.get("place"), mark.get("of"))
        if said != (place, len(self.nodes)) or fleet not in (None, mark.get("fleet")):
            raise errors.Misconfigured(
                f"{redacted(self.nodes[place])} is listed at place {place + 1} of {len(self.nodes)} in "
                f"MAINSTEM_REDIS_URL, but it is shard {_ordinal(said[0])} of {said[1]} of the fleet "
                f"{mark.get('fleet')}: all processes need the same list, in the same order."
            )
        return str(mark["fleet"])


def _parsed(stored: bytes | None) -> dict[str, Any] | None:
    return None if stored is None else jsontext.loads(stored)


def _ordinal(place: object) -> object:
    return place + 1 if isinstance(place, int) else place


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
        """All servers that were heard of, replicas among them: any of them can be asked."""
        self.changed: list[Callable[[], None]] = []

    def _address(self, netloc: str) -> str:
        return urlunsplit(self._parts._replace(netloc=f"{self._login}{netloc}"))

    def node_of(self, key: str | bytes) -> str:
        owner = self._owners[slot_of(key)]
        if owner is None:
            raise Unlearned("nobody knows which node has the slot")
        return owner

    def tag_at(self, node: str) -> str:
        return next(tag for tag in TAGS if self._owners[slot_of(tag)] == node)

    def look(self, *, first: str | None = None) -> Look | None:
        return self._ask(dict.fromkeys([*([first] if first else ()), *self.known, *self._seeds]))

    def introduce(self) -> Look:
        return self._ask(dict.fromkeys(self._seeds))

    def _ask(self, addresses: Iterable[str]) -> Look:
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
            for tell in list(self.changed):
                tell()

    def _named(self, told_by: str, server: list[Any]) -> str:
        """Return a server's address; one that does not know its own name is where it was asked."""
        host = server[0].decode() if server[0] else ""
        if host in ("", "?"):
            host = urlsplit(told_by).hostname or ""
        return self._address(f"[{host}]:{server[1]}" if ":" in host else f"{host}:{server[1]}")
