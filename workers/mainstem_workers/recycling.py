"""Recycling ends a worker process that is old or large, in order: its runs go on, or are handed over.

That is what `worker_max_tasks_per_child` and `worker_max_memory_per_child` are for on prefork, where Celery
itself replaces children. Here the whole process stops as if told to, and its supervisor starts the next one.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import time
from pathlib import Path
from typing import Final

from mainstem_shared.settings import Settings

logger = logging.getLogger(__name__)

CHECK_S: Final = 5.0
"""Seconds between two looks."""
YOUNGEST_S: Final = 60.0
"""A process is not ended for its size before this age: one that is born too large would never do anything."""
JITTER: Final = 0.2
"""Workers that were started together must not be gone together."""
_STATM: Final = Path("/proc/self/statm")
PROCESS_POOLS: Final = frozenset({"prefork"})
"""Pools whose runs are in children of the worker, which Celery recycles."""


class Recycling:
    """Decides when this process has lived, or grown, for long enough."""

    def __init__(self, settings: Settings, *, pool: str) -> None:
        spread = random.uniform(1 - JITTER, 1)
        self._longest_s = settings.recycle_after_s * spread
        self._largest_mb = settings.recycle_rss_mb
        self._begun = time.monotonic()
        self._is_over = pool in PROCESS_POOLS or not (settings.recycle_after_s or settings.recycle_rss_mb)

    def check(self) -> None:
        """Have the process stop, once, if it is time."""
        if self._is_over or (why := self._why()) is None:
            return
        self._is_over = True
        logger.warning("the worker is recycled: %s", why, extra={"action": "worker_recycled"})
        os.kill(os.getpid(), signal.SIGTERM)

    def _why(self) -> str | None:
        age_s = time.monotonic() - self._begun
        if self._longest_s and age_s > self._longest_s:
            return f"it is {age_s:.0f} s old"
        if self._largest_mb and age_s > YOUNGEST_S and (size := rss_mb()) > self._largest_mb:
            return f"it has {size:.0f} MB"
        return None


def rss_mb() -> float:
    """Return this process's resident memory in MB (2**20 bytes); 0 where the system does not tell."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (OSError, ValueError, IndexError):
        return 0.0
