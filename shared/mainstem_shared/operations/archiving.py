"""Moves finished runs to the archive: commit there, let go here, forget the to-do, in this order.

A sweeper calls it for the runs whose deltas it has dropped. A process that dies on the way leaves the run to
the next sweep, and every step may be repeated. While the archive is away runs stay in the store.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any, Final

from mainstem_shared import errors, transitions
from mainstem_shared.archive.rows import StoredRun, row_of
from mainstem_shared.model.events import Type
from mainstem_shared.model.runs import Spec
from mainstem_shared.model.verification import Dump
from mainstem_shared.operations.performing import FORGET, Operations, nobody

logger = logging.getLogger(__name__)

AWAY_S: Final = 5.0
"""For how long an archive that failed is left alone."""
AWAY_HOLD_MS: Final = 60_000
"""When runs are tried again that could not be moved."""
DAMAGED: Final = (ValueError, KeyError)


class Archiver:
    """Moves runs for one process."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._store = operations.store
        self._away_until = 0.0
        self.archived = 0
        """Runs that this process moved."""

    @property
    def is_away(self) -> bool:
        """Whether the archive failed a moment ago."""
        return time.monotonic() < self._away_until

    async def archive(self, run_ids: Sequence[str]) -> list[str]:
        """Move runs; returns those that need nothing more: they are moved, gone, or cannot be kept.

        Raises:
            StoreUnavailable: some are moved; repeat it for all.
        """
        archive = self._store.archive
        if archive is None:
            return list(run_ids)
        if self.is_away:
            return []
        stored, settled = await self._read(run_ids)
        rows, unreadable = _rows(stored)
        try:
            deleted = await archive.put(rows) if rows else set[str]()
        except errors.ArchiveUnavailable as error:
            self._away_until = time.monotonic() + AWAY_S
            noted = {"action": "archive_away", "waiting": len(rows), "why": repr(error.__cause__)}
            logger.warning("the archive does not take runs; they wait in the store", extra=noted)
            return settled
        kept = [run for run in stored if run.run_id not in unreadable]
        return settled + await self._let_go(kept, deleted) + sorted(unreadable)

    async def _read(self, run_ids: Sequence[str]) -> tuple[list[StoredRun], list[str]]:
        """Return the runs that are to be moved, and the ids of those that are gone or not over."""
        stored: list[StoredRun] = []
        settled: list[str] = []
        for run_id, found in zip(run_ids, await transitions.dump_many(self._store, run_ids), strict=True):
            if isinstance(found, transitions.Gone):
                settled.append(run_id)
            elif (run := stored_of(found)) is not None:
                stored.append(run)
        return stored, settled

    async def _let_go(self, runs: Sequence[StoredRun], deleted: set[str]) -> list[str]:
        for run in runs:
            if run.run_id in deleted:  # somebody deletes it at this moment
                spec = run.record().spec
                forget = FORGET.of(run.run_id, owner=(spec.tenant, spec.user_id), keep_memory=True)
                await self._operations.perform(forget, notify=nobody)
        ended = [(run.run_id, run.nonce) for run in runs]
        released = await transitions.release_all(
            self._store, ended, hot_ms=int(self._operations.settings.archive_hot_s * 1000)
        )
        done = [run for run, is_this in zip(runs, released, strict=True) if is_this]
        specs: list[Spec] = [run.record().spec for run in done]
        await self._operations.indexes.archived(specs)
        self.archived += len(done)
        return [run.run_id for run in done]


def stored_of(found: Dump) -> StoredRun | None:
    """Return what the archive keeps of a run; None if it is not over."""
    last = found.entries[-1] if found.entries else None
    final = last if last is not None and last.type == Type.FINISHED else None
    run = StoredRun(run_id=found.run_id, fields=dict(found.record), final=final)
    try:
        return run if run.record().status.is_terminal else None
    except DAMAGED:
        return run


def _rows(runs: Sequence[StoredRun]) -> tuple[list[dict[str, Any]], set[str]]:
    """Return the rows of runs, and the ids of those that have none: they are damaged."""
    rows: list[dict[str, Any]] = []
    unreadable: set[str] = set()
    for run in runs:
        try:
            rows.append(row_of(run))
        except DAMAGED:
            unreadable.add(run.run_id)
            noted = {"action": "run_unreadable", "run_id": run.run_id}
            logger.exception("a damaged record is not archived", extra=noted)
    return rows, unreadable
