"""Tells wall-clock time in the one unit of records, logs and indexes: milliseconds since the epoch."""

from __future__ import annotations

import time


def now_ms() -> int:
    """Return wall-clock milliseconds since the epoch, as stored in records."""
    return time.time_ns() // 1_000_000
