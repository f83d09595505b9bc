"""Removes the blobs of runs that are gone: their retention is over, or their start was refused."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from typing import Final

from mainstem_shared.blobs import drivers
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store

logger = logging.getLogger(__name__)

PAUSE_S: Final = 3600.0
"""Folders are listed this rarely: blobs that nobody can reach any more do no harm but of room."""
SLICE: Final = 500


class BlobCollector:
    """One process's part of it."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._last = 0.0

    async def collect_sometimes(self) -> None:
        """Collect if that is due. With an archive, which keeps runs that the store has not, nothing is."""
        if getattr(self._settings, "archive_url", None) or time.monotonic() - self._last < PAUSE_S:
            return
        self._last = time.monotonic()
        await self.collect()

    async def collect(self) -> int:
        """Remove the blobs of runs whose record is gone; returns of how many. Those of new runs stay."""
        driver, count = drivers.of(self._settings), 0
        aged_s = min(self._settings.retention_s, 3600.0)
        old = await asyncio.to_thread(lambda: list(itertools.islice(driver.older_than(aged_s), SLICE)))
        if not old:
            return 0
        there = await self._store.commands(*(("EXISTS", keys.run(run_id).record) for run_id in old))
        for run_id, exists in zip(old, there, strict=True):
            if not exists:
                await asyncio.to_thread(driver.drop, run_id)
                count += 1
        if count:
            logger.info("Blobs collected", extra={"action": "blobs_collected", "runs": count})
        return count
