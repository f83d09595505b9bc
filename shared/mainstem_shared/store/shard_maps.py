"""A shard map says which static shard has each bucket, and which buckets are on their way to another.

Each shard keeps the map in its mark, `ms:shard`, beside its own place. A map has a version: of two the later
one holds. Versions follow each other on one shard, the map's coordinator. Pure; `topologies.StaticShards`
goes by it, `shard_moves` changes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Final

from mainstem_shared.model import jsontext
from mainstem_shared.model.buckets import BUCKETS

FIRST_VERSION: Final = 1


class GuardedAddress(str):
    """The address of a shard: who opens a connection to it reads the shard's mark before anything else.

    A mover changes the mark and then closes all connections, so that nobody sends by an older map.
    """

    __slots__ = ("heard", "version")

    version: Callable[[], int]
    """The version of the map that the process goes by."""
    heard: Callable[[bytes | None], None]
    """Called with the mark; raises Unlearned if the server is another fleet's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moving:
    """Buckets that are on their way: no process uses them, at either end."""

    source: int
    target: int
    buckets: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardMap:
    """Where each bucket is, as of one version. Shards are known by their places, the numbers they got."""

    fleet: str
    version: int
    count: int
    """How many places were ever given: a new shard gets the next one."""
    owners: tuple[int, ...]
    """The place of each bucket."""
    moving: Moving | None = None
    cleaning: int | None = None
    """The place of a shard that may still have the keys of buckets that left it."""

    @property
    def places(self) -> tuple[int, ...]:
        """The places of all shards that have buckets."""
        return tuple(sorted(set(self.owners)))

    @property
    def coordinator(self) -> int:
        """The place of the shard that decides which map is the next one."""
        return min(self.owners)

    @property
    def is_stable(self) -> bool:
        """Whether no buckets are being moved."""
        return self.moving is None and self.cleaning is None

    def buckets_of(self, place: int) -> list[int]:
        """Return the buckets that a shard has, moving ones included."""
        return [bucket for bucket, owner in enumerate(self.owners) if owner == place]

    # -- the versions that follow

    def begun(self, moving: Moving) -> ShardMap:
        """Return the next version, in which buckets are on their way."""
        return replace(
            self,
            version=self.version + 1,
            moving=moving,
            cleaning=None,
            count=max(self.count, moving.target + 1),
        )

    def taken_over(self) -> ShardMap:
        """Return the next version, which says the same: whoever made this one may go on no more."""
        return replace(self, version=self.version + 1)

    def arrived(self) -> ShardMap:
        """Return the next version, in which the moving buckets are the target's."""
        assert self.moving is not None
        owners = list(self.owners)
        for bucket in self.moving.buckets:
            owners[bucket] = self.moving.target
        return replace(
            self,
            version=self.version + 1,
            owners=tuple(owners),
            moving=None,
            cleaning=self.moving.source,
        )

    def stabilised(self) -> ShardMap:
        """Return the next version, without a move: buckets of an unfinished one stay at their source."""
        return replace(self, version=self.version + 1, moving=None, cleaning=None)

    # -- as shards keep it

    def mark(self, place: int) -> bytes:
        """Return the mark of a shard: the map, and the shard's place."""
        moving = self.moving
        return jsontext.dumps(
            {
                "fleet": self.fleet,
                "place": place,
                "version": self.version,
                "of": self.count,
                "owners": [[owner, len(list(run))] for owner, run in groupby(self.owners)],
                **(
                    {"moving": [moving.source, moving.target, ranges(moving.buckets)]}
                    if moving is not None
                    else {}
                ),
                **({"cleaning": self.cleaning} if self.cleaning is not None else {}),
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What a shard says of itself."""

    place: int
    map: ShardMap


def even(places: Sequence[int], *, fleet: str, version: int = FIRST_VERSION) -> ShardMap:
    """Return the map of a fleet in which every shard has its share, neighbouring buckets together."""
    owners = tuple(places[bucket * len(places) // BUCKETS] for bucket in range(BUCKETS))
    return ShardMap(fleet=fleet, version=version, count=max(places) + 1, owners=owners)


def read(stored: bytes | None) -> Mark | None:
    """Return what a mark says; None: the server has none.

    Raises:
        ValueError: it is no mark.
    """
    if stored is None:
        return None
    try:
        told: dict[str, Any] = jsontext.loads(stored)
        owners = tuple(place for place, count in told["owners"] for _ in range(count))
        moving = told.get("moving")
        found = ShardMap(
            fleet=told["fleet"],
            version=told["version"],
            count=told["of"],
            owners=owners,
            moving=moving and Moving(source=moving[0], target=moving[1], buckets=_numbers(moving[2])),
            cleaning=told.get("cleaning"),
        )
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError("no mark of a shard") from error
    if len(owners) != BUCKETS:
        raise ValueError("a mark of another number of buckets")
    return Mark(place=told["place"], map=found)


def ranges(numbers: Sequence[int]) -> list[list[int]]:
    """Return numbers as ranges, each by its first and its last one."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return found


def _numbers(given: list[list[int]]) -> tuple[int, ...]:
    return tuple(number for first, last in given for number in range(first, last + 1))
