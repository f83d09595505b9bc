"""Maintains the archive: measures its lag, deletes what exceeds retention, backfills older runs.

For sweepers, and for `mainstem archive`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mainstem_shared import errors, transitions
from mainstem_shared.model.record import Record
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations import deleting
from mainstem_shared.operations.archiving import Archiver
from mainstem_shared.operations.performing import Operations
from mainstem_shared.operations.queries import listings

if TYPE_CHECKING:
    from mainstem_shared.archive.database import Archive

logger = logging.getLogger(__name__)

PAUSE_S: Final = 600.0
"""How often runs are looked for whose retention is over."""
AT_ONCE: Final = 20
"""Slices of a tenant that are deleted then: if there is more, the next sweep goes on."""
TOMBSTONES_MS: Final = 400 * 86_400_000
"""How long a tombstone stays: longer than a run waits in the store for an unavailable archive."""
DAY_MS: Final = 86_400_000
OTHERS: Final = "*"
SAMPLE_SIZE: Final = 1000
"""Waiting runs that are asked for their age."""


class Retention:
    """Deletes what is older than its tenant keeps (MAINSTEM_ARCHIVE_RETENTION_DAYS); every process may."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._last = -PAUSE_S
        self._is_through = True
        """Whether the last look left nothing."""

    async def expire_sometimes(self) -> None:
        """Delete it if that is due."""
        if time.monotonic() - self._last < PAUSE_S or self._operations.store.archive is None:
            return
        self._last = time.monotonic()
        self._is_through = True
        await self.expire()
        if not self._is_through:
            self._last -= PAUSE_S

    async def expire(self) -> int:
        """Delete runs whose retention is over, with their files, as users do; returns how many.

        These are as many as a sweep has time for.

        Raises:
            ArchiveUnavailable: some are deleted.
        """
        archive, days = self._operations.store.archive, self._operations.settings.archive_retention_days or {}
        if archive is None:
            return 0
        count = 0
        for tenant in await archive.deletions.tenants() if OTHERS in days else list(days):
            if (kept := days.get(tenant, days.get(OTHERS))) is not None:
                count += await self._expire(archive, tenant, before_ms=now_ms() - int(kept * DAY_MS))
        await archive.deletions.drop_tombstones(before_ms=now_ms() - TOMBSTONES_MS)
        if count:
            logger.info("Archived runs expired", extra={"action": "archive_expired", "runs": count})
        return count

    async def _expire(self, archive: Archive, tenant: str, *, before_ms: int) -> int:
        count = 0
        for _ in range(AT_ONCE):
            deleted = await archive.deletions.delete_before(tenant, before_ms)
            if not deleted:
                return count
            await deleting.clear_or_leave(self._operations, deleted)
            count += len(deleted)
        self._is_through = False
        return count


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveStatus:
    """The archive's state: what it has, and what waits for it.

    Attributes:
        database: its kind.
        runs: how many it has.
        deleting: runs whose deletion is under way, or was given up by a process that died.
        waiting: finished runs in the store that are to be moved.
        oldest_s: for how long the oldest of a thousand of them has been over.
    """

    database: str
    runs: int
    deleting: int
    waiting: int
    oldest_s: float


async def status(operations: Operations, archive: Archive) -> ArchiveStatus:
    """Return the archive's state.

    Raises:
        StoreUnavailable, ArchiveUnavailable: one of them does not answer.
    """
    waiting, some = await operations.indexes.to_compact(limit=SAMPLE_SIZE)
    records = await transitions.read_many(operations.store, some, Record.finished_ms)
    ended = [r.finished_ms for r in records if not isinstance(r, transitions.Gone) and r.finished_ms]
    return ArchiveStatus(
        database=archive.url.get_backend_name(),
        runs=await archive.count(),
        deleting=len(await archive.deletions.uncleared(before_ms=now_ms() + DAY_MS)),
        waiting=waiting,
        oldest_s=max(0.0, (now_ms() - min(ended, default=now_ms())) / 1000),
    )


async def backfill(operations: Operations) -> AsyncIterator[int]:
    """Move all finished runs that the store still has, also those from before there was an archive.

    Yields how many were moved, slice by slice.

    Raises:
        StoreUnavailable, ArchiveUnavailable: some are moved; repeat it.
    """
    archiver = Archiver(operations)
    position: listings.Position | None = None
    while batch := await listings.recent_after(operations.store, position):
        position = batch[-1]
        run_ids = [entry.run_id for entry in batch]
        before = archiver.archived
        await transitions.compact_all(operations.store, run_ids, keep_due=True)
        await archiver.archive(run_ids)
        if archiver.is_unavailable:
            raise errors.ArchiveUnavailable
        yield archiver.archived - before
