"""The wall clock, in the one unit that records, logs and indexes use: milliseconds since the epoch."""

from __future__ import annotations

import time


def now_ms() -> int:
    """Return wall-clock milliseconds since the epoch, as stored in records."""
    return time.time_ns() // 1_000_000
