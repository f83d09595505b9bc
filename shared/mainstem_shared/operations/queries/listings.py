"""Lists runs, newest first, page by page: a thread's, a user's, or all recent ones, merged from all buckets.

Indexes may name runs that are gone (retention, a start that never happened): such entries are skipped, and
removed once they are old enough not to belong to a start that is under way.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from mainstem_shared import errors, transitions
from mainstem_shared.eventlog.reading import run_states
from mainstem_shared.model import contents
from mainstem_shared.model.principals import DEFAULT_TENANT
from mainstem_shared.model.record import Record
from mainstem_shared.model.runs import TERMINAL, Run, Spec, Status
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations import indexes
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store

logger = logging.getLogger(__name__)

PAGE: Final = 20
LONGEST_PAGE: Final = 100
SCAN_LIMIT: Final = 2000
"""Index entries read for one page: a rare status among many runs makes short pages, not slow ones."""
BYTES_PER_PAGE: Final = 4 * 1024 * 1024
"""A page ends early once its runs hold this much text: runs of megabytes come one by one."""
_BATCH: Final = 100
_OF_A_BUCKET: Final = 3
"""Entries read of each bucket at a time: with even buckets, enough for some hundred runs."""
_AT_ONCE: Final = 8  # runs folded at a time, for what they may weigh in memory
_START_GRACE_MS: Final = 60_000
_CURSOR: Final = re.compile(r"([0-9]{1,15})\.([a-z2-7]{16}_[a-z2-7]{26})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Which runs to list. Without thread and user: all of the tenant's."""

    tenant: str = DEFAULT_TENANT
    thread_id: str | None = None
    user_id: str | None = None
    status: Status | None = None
    active: bool | None = None

    @property
    def index(self) -> str | None:
        """The key of the list to read; None for the recent runs of all buckets."""
        if self.thread_id is not None:
            return keys.thread_runs(self.tenant, self.thread_id)
        if self.user_id is not None:
            return keys.user_runs(self.tenant, self.user_id)
        return None

    def matches(self, spec: Spec, status: Status) -> bool:
        """Tell whether a run of this index is asked for."""
        return (
            spec.tenant == self.tenant
            and (self.user_id is None or spec.user_id == self.user_id)
            and (self.status is None or status is self.status)
            and (self.active is None or (status not in TERMINAL) is self.active)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some runs, newest first; `next` continues after them, None at the end."""

    runs: list[Run]
    next: str | None
    complete: bool = True
    """Whether all servers of the store were there: runs of those that were not are missing."""


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """An index entry: creation time and run id, which together order all runs."""

    created_ms: int
    run_id: str

    def __str__(self) -> str:
        return f"{self.created_ms}.{self.run_id}"


async def page(store: Store, query: Query, *, limit: int = PAGE, cursor: str | None = None) -> Page:
    """Return the next runs after `cursor`, at most `limit`, possibly fewer.

    Raises:
        InvalidCursor: it is not the `next` of a page.
        InvalidRequest: the limit is out of range.
    """
    if not 1 <= limit <= LONGEST_PAGE:
        raise errors.InvalidRequest(f"limit: must be between 1 and {LONGEST_PAGE}.")
    position = _parse(cursor) if cursor is not None else None
    runs: list[Run] = []
    missed: set[str] = set()
    size = scanned = 0
    while scanned < SCAN_LIMIT:
        batch = await after(store, query, position, missed=missed)
        if not batch:
            return Page(runs=runs, next=None, complete=not missed)
        async for position, run in _runs(store, query, batch, missed=missed):
            runs.append(run)
            size += len(run.text)
            if len(runs) == limit or size > BYTES_PER_PAGE:
                more = position != batch[-1] or await after(store, query, position, missed=missed)
                return Page(runs=runs, next=str(position) if more else None, complete=not missed)
        position = batch[-1]
        scanned += len(batch)
    return Page(runs=runs, next=str(position), complete=not missed)


async def positions(
    store: Store, query: Query, *, limit: int, cursor: str | None = None, missed: set[str] | None = None
) -> tuple[list[Position], str | None]:
    """Return where the next runs after `cursor` stand in their index, and the cursor after them.

    With `missed`, runs whose servers are unavailable are left out, and these servers are put there.

    Raises:
        InvalidCursor: it is not the `next` of a page.
        InvalidRequest: the limit is out of range.
    """
    if not 1 <= limit <= LONGEST_PAGE:
        raise errors.InvalidRequest(f"limit: must be between 1 and {LONGEST_PAGE}.")
    position = _parse(cursor) if cursor is not None else None
    found: list[Position] = []
    scanned = 0
    while scanned < SCAN_LIMIT:
        batch = await after(store, query, position, missed=missed)
        if not batch:
            return found, None
        matching = (await _matching(store, query, batch, missed=missed))[: limit - len(found)]
        found += matching
        if len(found) == limit:
            return found, str(found[-1])
        position = batch[-1]
        scanned += len(batch)
    return found, str(position)


def _parse(cursor: str) -> Position:
    match = _CURSOR.fullmatch(cursor)
    if match is None:
        raise errors.InvalidCursor("A page's cursor is the `next` of the page before.")
    return Position(int(match[1]), match[2])


async def newest_of_thread(store: Store, tenant: str, thread_id: str, *, limit: int) -> list[str]:
    """Return the ids of a thread's newest runs, newest first, wherever they are.

    Raises:
        StoreUnavailable, ArchiveUnavailable: nobody can tell.
    """
    found = set(await stored_of_thread(store, tenant, thread_id, limit=limit))
    if store.archive is not None:
        kept = await store.archive.positions(tenant=tenant, thread_id=thread_id, limit=limit)
        found |= {Position(at, run_id) for at, run_id in kept}
    return [entry.run_id for entry in sorted(found, reverse=True)[:limit]]


async def stored_of_thread(store: Store, tenant: str, thread_id: str, *, limit: int) -> list[Position]:
    """Return where a thread's newest runs stand in the store's list of them, newest first."""
    index = keys.thread_runs(tenant, thread_id)
    return positions_of(await store.command("ZREVRANGE", index, 0, limit - 1, "WITHSCORES", large=True))


async def after(
    store: Store, query: Query, position: Position | None, *, missed: set[str] | None = None
) -> list[Position]:
    """Return the entries that come next, of the store's index and of the archive; none at their end.

    The store is asked first: a run that leaves its index meanwhile is in the archive by then.
    """
    here = await _listed_after(store, query.index, position, missed)
    if store.archive is None or query.active:
        return here
    before = None if position is None else (position.created_ms, position.run_id)
    kept = await store.archive.positions(
        tenant=query.tenant, thread_id=query.thread_id, user_id=query.user_id, before=before, limit=_BATCH
    )
    there = [Position(at, run_id) for at, run_id in kept]
    # Either list may have more behind its end: what stands below the higher end waits for the next batch.
    ends = [here[-1]] if here else []
    ends += [there[-1]] if len(there) == _BATCH else []
    merged = sorted({*here, *there}, reverse=True)
    floor = max(ends, default=None)
    return merged if floor is None else [entry for entry in merged if entry >= floor]


async def _listed_after(
    store: Store, index: str | None, position: Position | None, missed: set[str] | None
) -> list[Position]:
    """Return the entries that come next in an index of the store; none at its end."""
    if index is None:
        return await recent_after(store, position, missed=missed)
    ceiling = "+inf" if position is None else position.created_ms
    skipped = 0
    while True:
        found = await _entries(store, index, ceiling, skipped)
        fresh = [entry for entry in found if position is None or entry < position]
        if fresh or not found:
            return fresh
        skipped += len(found)  # of the same millisecond as the position, and before it


async def recent_after(
    store: Store, position: Position | None, *, missed: set[str] | None = None
) -> list[Position]:
    """Return the recent runs of all buckets that come next; none at the end.

    With `missed`, buckets whose servers are unavailable are left out, and these servers are put there.

    Of each bucket a few are read, in one round trip for all. What is older than the last one read of a bucket
    that may have more is left for the next batch: something may belong before it.
    """
    ceiling = "+inf" if position is None else position.created_ms
    each = _OF_A_BUCKET
    lists = await _there(store, [bucket.recent for bucket in keys.every_index()], missed)
    while True:
        replies = await store.commands(
            *(
                ("ZREVRANGEBYSCORE", listed, ceiling, "-inf", "WITHSCORES", "LIMIT", 0, each)
                for listed in lists
            )
        )
        listed = [positions_of(flat) for flat in replies]
        horizon = max((found[-1] for found in listed if len(found) == each), default=None)
        fresh = [
            entry
            for found in listed
            for entry in found
            if (position is None or entry < position) and (horizon is None or entry >= horizon)
        ]
        if fresh or horizon is None:
            return sorted(fresh, reverse=True)[:_BATCH]
        each *= 4  # of the same millisecond as the position, and before it


async def _there(store: Store, names: list[str], missed: set[str] | None) -> list[str]:
    """Return the keys whose servers are there; all of them, if nobody may be missed."""
    if missed is None:
        return names
    there = await store.there(names, missed=missed)
    return [name for name, is_there in zip(names, there, strict=True) if is_there]


async def those_there(store: Store, batch: list[Position], missed: set[str] | None) -> list[Position]:
    """Return the entries whose runs' servers are there; all of them, if nobody may be missed."""
    if missed is None:
        return batch
    there = await store.there([keys.run(entry.run_id).record for entry in batch], missed=missed)
    return [entry for entry, is_there in zip(batch, there, strict=True) if is_there]


async def _entries(store: Store, index: str, ceiling: str | int, skipped: int) -> list[Position]:
    return positions_of(
        await store.command(
            "ZREVRANGEBYSCORE", index, ceiling, "-inf", "WITHSCORES", "LIMIT", skipped, _BATCH
        )
    )


def positions_of(flat: list[bytes]) -> list[Position]:
    """Parse the reply to a range command WITHSCORES."""
    return [
        Position(int(score), member.decode()) for member, score in zip(flat[::2], flat[1::2], strict=True)
    ]


async def _runs(
    store: Store, query: Query, batch: list[Position], *, missed: set[str]
) -> AsyncIterator[tuple[Position, Run]]:
    """Read the runs of a batch that match, a few at a time."""
    matching = await _matching(store, query, batch, missed=missed)
    for first in range(0, len(matching), _AT_ONCE):
        group = matching[first : first + _AT_ONCE]
        for entry, run in zip(group, await asyncio.gather(*(_read(store, e) for e in group)), strict=True):
            if run is not None:
                yield entry, run


async def _read(store: Store, entry: Position) -> Run | None:
    try:
        return await run_states.get_run(store, entry.run_id)
    except errors.NotFound:
        return None  # its retention ended this very moment


def cannot_read(run_id: str, error: Exception) -> None:
    """Note a record that is damaged, or of a later version: it must not keep the others from being listed."""
    noted = {"action": "run_unreadable", "run_id": run_id}
    logger.error("a record is damaged, or of a later version", extra=noted, exc_info=error)


def spec_and_status(run_id: str, record: Record) -> tuple[Spec, Status] | None:
    """Return what lists filter by; None for a record that cannot be read."""
    try:
        return record.spec, record.status
    except contents.UNREADABLE as error:
        cannot_read(run_id, error)
        return None


async def _matching(
    store: Store, query: Query, batch: list[Position], *, missed: set[str] | None = None
) -> list[Position]:
    batch = await those_there(store, batch, missed)
    records = await transitions.find_many(store, [entry.run_id for entry in batch], Record.spec)
    matching: list[Position] = []
    gone: list[Position] = []
    for entry, record in zip(batch, records, strict=True):
        if isinstance(record, transitions.Gone):
            gone.append(entry)
        elif (known := spec_and_status(entry.run_id, record)) and query.matches(*known):
            matching.append(entry)
    await _drop(store, query.index, gone)
    return matching


async def _drop(store: Store, index: str | None, gone: list[Position]) -> None:
    """Remove entries of runs that are gone, but not of a start that has yet to write its record."""
    gone_for_good = [entry.run_id for entry in gone if entry.created_ms < now_ms() - _START_GRACE_MS]
    await indexes.drop(store, index, gone_for_good)
