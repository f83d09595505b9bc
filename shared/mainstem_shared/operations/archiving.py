"""Moves finished runs to the archive: commit there, release the store's keys, remove the index entry.

A sweeper calls it for the runs whose deltas it has dropped. A process that dies on the way leaves the run to
the next sweep, and every step may be repeated. While the archive is unavailable runs stay in the store; so
does, alone, a run that the archive refuses.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any, Final

from mainstem_shared import errors, transitions
from mainstem_shared.archive.rows import StoredRun, row_of
from mainstem_shared.metrics import catalogue as metrics
from mainstem_shared.model import contents
from mainstem_shared.model.events import Type
from mainstem_shared.model.runs import Spec
from mainstem_shared.model.time import now_ms
from mainstem_shared.model.verification import Dump
from mainstem_shared.operations.performing import FORGET, Operations, nobody
from mainstem_shared.operations.queries import ready_pages
from mainstem_shared.store import keys
from mainstem_shared.transitions import descriptions

logger = logging.getLogger(__name__)

UNAVAILABLE_S: Final = 5.0
"""For how long an archive that failed is left alone."""
UNAVAILABLE_HOLD_MS: Final = 20_000
"""When runs are tried again that could not be moved."""
REFUSED_HOLD_MS: Final = 3_600_000
"""When a run is tried again that the archive refused: somebody has to change something first."""


class Archiver:
    """Moves runs for one process."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._store = operations.store
        self._unavailable_until = 0.0
        self._oldest_ms: int | None = None
        self.archived = 0
        """Runs that this process moved."""

    @property
    def is_unavailable(self) -> bool:
        """Whether the archive failed a moment ago."""
        return time.monotonic() < self._unavailable_until

    @property
    def lag_s(self) -> float:
        """For how long the oldest run had been over, of those that could not be moved lately; else 0."""
        return 0.0 if self._oldest_ms is None else max(0.0, (now_ms() - self._oldest_ms) / 1000)

    async def archive(self, run_ids: Sequence[str]) -> list[str]:
        """Move runs; returns those that need nothing more: they are moved, or gone.

        Raises:
            StoreUnavailable: some are moved; repeat it for all.
        """
        archive = self._store.archive
        if archive is None:
            return list(run_ids)
        if self.is_unavailable:
            return []
        read_ms = now_ms()
        stored, settled = await self._read(run_ids)
        rows, unreadable = _rows(stored, read_ms)
        try:
            deleted, refused = await archive.put_each(rows)
            await archive.threads.keep(await self._described(stored))
        except errors.ArchiveUnavailable as error:
            self._failed(rows, error)
            return settled
        self._oldest_ms = None
        await self._keep_waiting(refused | unreadable)
        kept = [run for run in stored if run.run_id not in unreadable | refused]
        return settled + await self._let_go(kept, deleted)

    def _failed(self, rows: Sequence[dict[str, Any]], error: errors.ArchiveUnavailable) -> None:
        self._unavailable_until = time.monotonic() + UNAVAILABLE_S
        ended = [row["finished_ms"] for row in rows if row["finished_ms"]]
        self._oldest_ms = min(filter(None, (self._oldest_ms, *ended)), default=now_ms())
        metrics.ARCHIVED.labels("unavailable").inc(len(rows))
        noted = {"action": "archive_unavailable", "waiting": len(rows), "why": repr(error.__cause__)}
        logger.warning("the archive does not take runs; they wait in the store", extra=noted)

    async def _keep_waiting(self, run_ids: set[str]) -> None:
        """Leave runs in the store that the archive refuses, and say so: they must not stop the others."""
        await self._operations.indexes.archive_at(sorted(run_ids), now_ms() + REFUSED_HOLD_MS)
        for run_id in sorted(run_ids):
            metrics.ARCHIVED.labels("refused").inc()
            noted = {"action": "archive_refused", "run_id": run_id}
            logger.error("the archive refuses a run; it stays in the store", extra=noted)

    async def _read(self, run_ids: Sequence[str]) -> tuple[list[StoredRun], list[str]]:
        """Return the runs that are to be moved, and the ids of those that are gone."""
        stored: list[StoredRun] = []
        settled: list[str] = []
        for run_id, found in zip(run_ids, await transitions.dump_many(self._store, run_ids), strict=True):
            if isinstance(found, transitions.Gone):
                settled.append(run_id)
            elif (run := stored_of(found)) is not None:
                stored.append(run)
        return stored, settled

    async def _described(self, runs: Sequence[StoredRun]) -> list[dict[str, Any]]:
        """Return what the store has of these runs' threads: from before there was an archive."""
        named = {keys.run(run.run_id).thread: run for run in runs}
        found = await self._store.commands(
            *(("HMGET", thread, *descriptions.NAMES) for thread in named), large=True
        )
        described: list[dict[str, Any]] = []
        for run, values in zip(named.values(), found, strict=True):
            if any(values):
                spec = run.record().spec
                members = dict(zip(descriptions.NAMES, values, strict=True))
                described.append({"tenant": spec.tenant, "thread_id": spec.thread_id, **members})
        return described

    async def _let_go(self, runs: Sequence[StoredRun], deleted: set[str]) -> list[str]:
        for run in runs:
            if run.run_id in deleted:  # somebody deletes it at this moment
                spec = run.record().spec
                forget = FORGET.of(run.run_id, owner=(spec.tenant, spec.user_id), keep_memory=True)
                await self._operations.perform(forget, notify=nobody)
        hot_ms = int(self._operations.settings.archive_hot_s * 1000)
        released = await transitions.release_all(self._store, [_ended(run) for run in runs], hot_ms=hot_ms)
        done = [run for run, is_this in zip(runs, released, strict=True) if is_this]
        specs: list[Spec] = [run.record().spec for run in done]
        await self._operations.indexes.archived(specs)
        self.archived += len(done)
        metrics.ARCHIVED.labels("archived").inc(len(done))
        return [run.run_id for run in done]


def _ended(run: StoredRun) -> transitions.Ended:
    title, labels, metadata = (run.fields.get(name, b"") for name in descriptions.NAMES)
    return transitions.Ended(
        run_id=run.run_id,
        user_id=run.record().spec.user_id,
        nonce=run.nonce,
        description=(title, labels, metadata),
    )


def stored_of(found: Dump) -> StoredRun | None:
    """Return what the archive keeps of a run; None if it is not over."""
    last = found.entries[-1] if found.entries else None
    final = last if last is not None and last.type == Type.FINISHED else None
    run = StoredRun(run_id=found.run_id, fields=dict(found.record), final=final)
    try:
        return run if run.record().status.is_terminal else None
    except contents.UNREADABLE:
        return run


def _rows(runs: Sequence[StoredRun], read_ms: int) -> tuple[list[dict[str, Any]], set[str]]:
    """Return the rows of runs, and the ids of those that have none: they are damaged."""
    rows: list[dict[str, Any]] = []
    unreadable: set[str] = set()
    for run in runs:
        try:
            rows.append(row_of(run, read_ms=read_ms, messages=ready_pages.ready_of(run, read_ms)))
        except contents.UNREADABLE:
            unreadable.add(run.run_id)
            noted = {"action": "run_unreadable", "run_id": run.run_id}
            logger.exception("a damaged record is not archived", extra=noted)
    return sorted(rows, key=lambda row: row["run_id"]), unreadable
