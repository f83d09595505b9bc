"""Measures leases on a clock that goes on while the process is suspended."""

from __future__ import annotations

import time

# CLOCK_BOOTTIME goes on while a virtual machine is suspended, CLOCK_MONOTONIC does not; without it (macOS)
# a suspension shows only as a stopped process.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> float:
    """Return seconds on a clock that neither jumps nor stops during a suspension."""
    return time.clock_gettime(_CLOCK)
