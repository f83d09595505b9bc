"""Removes the blobs of runs and uploads that are gone: their retention is over, or their start was refused.

A deletion removes its runs' blobs itself; what it left when it was killed is found here.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable
from typing import Final

from mainstem_shared import errors
from mainstem_shared.blobs import drivers
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store

logger = logging.getLogger(__name__)

PAUSE_S: Final = 3600.0
"""Folders are listed this rarely: blobs that nobody can reach any more do no harm but of room."""
SLICE: Final = 500


class BlobCollector:
    """Collects blobs for one process."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._last = 0.0

    async def collect_sometimes(self) -> None:
        """Collect if that is due."""
        if time.monotonic() - self._last < PAUSE_S:
            return
        self._last = time.monotonic()
        await self.collect()

    async def collect(self) -> int:
        """Remove the blobs of runs that are gone, from store and archive; returns of how many.

        Those of new runs stay: their start may be under way. While the archive is unavailable nothing is
        removed.
        """
        driver, count = drivers.of(self._settings), 0
        aged_s = min(self._settings.retention_s, 3600.0)
        listed = driver.older_than(aged_s)
        while old := await asyncio.to_thread(lambda: list(itertools.islice(listed, SLICE))):
            for run_id in await self._gone(old):
                await asyncio.to_thread(driver.drop, run_id)
                count += 1
        if count:
            logger.info("Blobs collected", extra={"action": "blobs_collected", "runs": count})
        return count

    async def _gone(self, run_ids: list[str]) -> list[str]:
        """Return those that nobody has. The store is asked first: what leaves it is archived by then."""
        gone = await self._missing(run_ids, lambda run_id: keys.run(run_id).record)
        gone = await self._missing(gone, lambda upload_id: keys.upload(upload_id).record)
        if self._store.archive is None or not gone:
            return gone
        try:
            kept = await self._store.archive.known(gone)
        except errors.ArchiveUnavailable:
            return []
        return [run_id for run_id in gone if run_id not in kept]

    async def _missing(self, named: list[str], key_of: Callable[[str], str]) -> list[str]:
        there = await self._store.commands(*(("EXISTS", key_of(one)) for one in named))
        return [one for one, exists in zip(named, there, strict=True) if not exists]
