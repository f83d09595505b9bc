"""A census counts the store's unfinished runs by state, for metrics: one sweeper takes it, others read it.

It looks at records, as everything does that must be true; of a store with more unfinished runs than
SCAN_LIMIT it looks at those whose checks are due first, and says that it is not complete.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote

from pydantic import BaseModel, ValidationError

from mainstem_shared import transitions
from mainstem_shared.model import contents, ids
from mainstem_shared.model.record import Record
from mainstem_shared.model.runs import Status, WaitingFor
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations import undelivered_callbacks
from mainstem_shared.operations.indexes import CALLBACKS, CHECKS, Backlog, Indexes
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store

logger = logging.getLogger(__name__)

SCAN_LIMIT: Final = 20_000
"""Unfinished runs a census looks at: 20,000 take a server some 50 ms, in pieces of a millisecond."""
_BATCH: Final = 500
TTL_MS: Final = 60_000
"""A census that nobody renews is forgotten: figures of a minute ago are none."""
STATES: Final = ("running", "queued", "waiting_for_thread", "paused")
_FIELDS: Final = (Record.waiting_for, Record.published_ms, Record.queued_ms)


class Census(BaseModel):
    """Figures of the whole store, as of one moment."""

    at_ms: int
    complete: bool = True
    runs: dict[str, int] = {}
    queued_since_ms: int | None = None
    """Since when the oldest run that waits for a worker does."""
    unpublished: int = 0
    unpublished_since_ms: int | None = None
    engines: list[str] = []
    processes: list[tuple[str, str, str, int]] = []
    """Role, pool and version of living processes, and how many there are."""
    places: dict[str, int] = {}
    """Runs that living workers can execute, by queue; without a name: of workers that name none."""
    callbacks: dict[str, int] = {}
    memory_bytes: int = 0
    memory_limit_bytes: int = 0


async def latest(store: Store) -> Census | None:
    """Return the last census; None if there is none that is recent."""
    stored = await store.command("GET", keys.CENSUS)
    if stored is None:
        return None
    try:
        return Census.model_validate_json(stored)
    except ValidationError:
        return None  # of another version: the next one of this version's sweepers will do


async def take(store: Store, indexes: Indexes, due: Mapping[str, Backlog]) -> Census:
    """Take a census of what a look at every index found, and leave it for everybody."""
    now = now_ms()
    counting = await _count(store, indexes, due)
    infos = await store.each("INFO", "memory")
    alive = await _leases(store)
    limits = [_number(info, "maxmemory") for info in infos]
    census = Census(
        at_ms=now,
        **counting.figures(),
        engines=[name.decode() for name in await store.command("HKEYS", keys.ENGINES)],
        processes=_processes(alive),
        places=_places(alive),
        callbacks=await undelivered_callbacks.count(store, due[CALLBACKS].filled),
        memory_bytes=sum(_number(info, "used_memory") for info in infos),
        memory_limit_bytes=sum(limits) if all(limits) else 0,
    )
    await store.command("SET", keys.CENSUS, census.model_dump_json(), "PX", TTL_MS)
    return census


async def take_of_some(
    store: Store, indexes: Indexes, due: Mapping[str, Backlog], former: Census | None
) -> Census:
    """Count the runs of the available servers, while others are unavailable: this process's own figures."""
    now = now_ms()
    counting = await _count(store, indexes, due)
    known = former or Census(at_ms=now)
    return known.model_copy(update={**counting.figures(), "at_ms": now, "complete": False})


async def _count(store: Store, indexes: Indexes, due: Mapping[str, Backlog]) -> _Counting:
    run_ids = await indexes.unfinished(due[CHECKS].filled, limit=SCAN_LIMIT + 1)
    counting = _Counting(is_complete=len(run_ids) <= SCAN_LIMIT)
    for first in range(0, min(len(run_ids), SCAN_LIMIT), _BATCH):
        batch = run_ids[first : min(first + _BATCH, SCAN_LIMIT)]
        counting.add(batch, await transitions.read_many(store, batch, *_FIELDS))
    await counting.date_the_rest(store)
    return counting


@dataclass(kw_only=True)
class _Counting:
    """What a census has counted so far."""

    is_complete: bool
    states: Counter[str] = field(default_factory=Counter[str])
    queued_since: int | None = None
    unpublished: int = 0
    unpublished_since: int | None = None
    _undated: list[tuple[str, bool]] = field(default_factory=list[tuple[str, bool]])
    """Queued runs whose spec alone tells since when they wait; whether their message is missing."""

    def figures(self) -> dict[str, Any]:
        """Return what a census says of this."""
        return {
            "complete": self.is_complete,
            "runs": {state: self.states[state] for state in STATES},
            "queued_since_ms": self.queued_since,
            "unpublished": self.unpublished,
            "unpublished_since_ms": self.unpublished_since,
        }

    def add(self, run_ids: Sequence[str], records: Sequence[Record | transitions.Gone]) -> None:
        for run_id, record in zip(run_ids, records, strict=True):
            if isinstance(record, transitions.Gone):
                continue
            try:
                self._add(run_id, record)
            except contents.UNREADABLE:
                logger.debug("a record cannot be counted", extra={"action": "uncounted", "run_id": run_id})

    def _add(self, run_id: str, record: Record) -> None:
        match record.status:
            case Status.RUNNING:
                self.states["running"] += 1
            case Status.REQUIRES_ACTION:
                self.states["paused"] += 1
            case Status.QUEUED if record.waiting_for is not WaitingFor.WORKER:
                self.states["waiting_for_thread"] += 1
            case Status.QUEUED:
                self.states["queued"] += 1
                is_unpublished = record.published_ms is None
                self.unpublished += is_unpublished
                since = ids.created_ms(run_id) if record.queued_ms is None else record.queued_ms
                if since is None:
                    self._undated.append((run_id, is_unpublished))
                else:
                    self._since(since, is_unpublished=is_unpublished)
            case _:
                pass

    def _since(self, at_ms: int, *, is_unpublished: bool) -> None:
        self.queued_since = min(self.queued_since or at_ms, at_ms)
        if is_unpublished:
            self.unpublished_since = min(self.unpublished_since or at_ms, at_ms)

    async def date_the_rest(self, store: Store) -> None:
        """Read when those were created that were never queued again."""
        for first in range(0, len(self._undated), _BATCH):
            batch = self._undated[first : first + _BATCH]
            records = await transitions.read_many(store, [run_id for run_id, _ in batch], Record.spec)
            for (_, is_unpublished), record in zip(batch, records, strict=True):
                try:
                    if not isinstance(record, transitions.Gone):
                        self._since(record.spec.created_ms, is_unpublished=is_unpublished)
                except contents.UNREADABLE:
                    continue  # it was counted; since when it waits, nobody knows


async def _leases(store: Store) -> list[str]:
    owners = [name.decode() for name in await store.command("ZRANGE", keys.WORKERS, 0, -1, large=True)]
    leases = await store.commands(*(("GET", keys.lease(owner)) for owner in owners), large=True)
    return [lease.decode() for lease in leases if lease is not None]


def _processes(alive: Sequence[str]) -> list[tuple[str, str, str, int]]:
    found = Counter(_described(lease) for lease in alive)
    return [(*process, count) for process, count in sorted(found.items())]


def _places(alive: Sequence[str]) -> dict[str, int]:
    found = Counter[str]()
    for lease in alive:
        _, _, _, places, queues, *_ = [*lease.split(" "), "", "", "", ""]
        for queue in queues.split(",") if places.isdecimal() else ():
            found[unquote(queue)] += int(places)
    return dict(found)


def _described(lease: str) -> tuple[str, str, str]:
    """Return role, pool and version of a lease's process; earlier versions left the role alone."""
    role, pool, version, *_ = [*lease.split(" "), "", ""]
    return role, pool, version


def _number(info: bytes | dict[str, Any], name: str) -> int:
    if isinstance(info, dict):
        return int(info.get(name, 0))
    for line in info.decode(errors="replace").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.partition(":")[2])
    return 0
