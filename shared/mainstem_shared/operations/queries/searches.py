"""Searches the kept runs: by status, reason, engine and words, and by when they ended.

Reads records of the newest SCAN_LIMIT runs, in batches, and no content. For operators' pages and bulk aborts.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from mainstem_shared import transitions
from mainstem_shared.model import contents, jsontext
from mainstem_shared.model.record import Record
from mainstem_shared.model.runs import Reason, Spec, Status
from mainstem_shared.operations.queries import listings, summaries
from mainstem_shared.operations.queries.listings import Query
from mainstem_shared.operations.queries.summaries import RunSummary
from mainstem_shared.store.client import Store

SCAN_LIMIT: Final = 4000
"""Runs read for one answer: some 50 ms of this process."""
_FIELDS: Final = (Record.spec, Record.reason, Record.error, Record.finished_ms, Record.owner)


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What to look for among the runs of a query."""

    query: Query
    ended: bool | None = None
    reason: Reason | None = None
    engine: str | None = None
    words: str = ""
    """In ids, user, engine, worker, metadata and the error's text; all of them, in any case."""

    def accepts(self, spec: Spec, record: Record) -> bool:
        """Tell whether a run is looked for."""
        status: Status = record.status
        return (
            self.query.matches(spec, status)
            and (self.ended is None or status.is_terminal is self.ended)
            and (self.reason is None or record.reason is self.reason)
            and (self.engine is None or spec.engine == self.engine)
            and self._has_words(spec, record)
        )

    def _has_words(self, spec: Spec, record: Record) -> bool:
        if not self.words:
            return True
        error = "" if record.error is None else f"{record.error.code} {record.error.message}"
        told = (
            spec.run_id,
            spec.thread_id,
            spec.user_id,
            spec.engine,
            record.owner,
            record.reason or "",
            error,
        )
        text = f"{' '.join(told)} {jsontext.dumps(spec.metadata).decode()}".lower()
        return all(word in text for word in self.words.lower().split())


async def find(
    store: Store, search: Search, *, limit: int, by_end: bool, missed: set[str] | None = None
) -> list[RunSummary]:
    """Return the runs that are looked for, those that were created, or ended, last first.

    With `missed`, runs whose servers are unavailable are left out, and these servers are put there.
    """
    found: list[tuple[int, str]] = []
    async for at_ms, run_id in _found(store, search, by_end=by_end, missed=missed):
        found.append((at_ms, run_id))
        if not by_end and len(found) == limit:
            break
    found.sort(reverse=True)
    return await summaries.of(store, [run_id for _, run_id in found[:limit]])


async def ids(store: Store, search: Search) -> list[str]:
    """Return the ids of the runs that are looked for."""
    return [run_id async for _, run_id in _found(store, search, by_end=False)]


async def _found(
    store: Store, search: Search, *, by_end: bool, missed: set[str] | None = None
) -> AsyncIterator[tuple[int, str]]:
    position: listings.Position | None = None
    scanned = 0
    while scanned < SCAN_LIMIT and (
        batch := await listings.after(store, search.query, position, missed=missed)
    ):
        there = await listings.those_there(store, batch, missed)
        records = await transitions.find_many(store, [entry.run_id for entry in there], *_FIELDS)
        for entry, record in zip(there, records, strict=True):
            if isinstance(record, transitions.Gone):
                continue
            try:
                if search.accepts(record.spec, record):
                    yield (record.finished_ms or 0 if by_end else entry.created_ms), entry.run_id
            except contents.UNREADABLE as error:
                listings.cannot_read(entry.run_id, error)
        position = batch[-1]
        scanned += len(batch)
