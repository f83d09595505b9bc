"""`now_ms` returns the store's time in milliseconds since the epoch, the unit of records, logs and indexes.

Processes compare what others wrote: when a run is due, how long it has been at work, whether a window is
over. So all of them go by one clock, the store's, whatever their machines think the time is. Who speaks to
the store (`store.shared_connections`, `coordination.leases`) has it `learn`; in between, a steady clock.
"""

from __future__ import annotations

import time
from typing import Final

# CLOCK_BOOTTIME goes on while a virtual machine is suspended, CLOCK_MONOTONIC does not (macOS has no other).
_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
TOLERANCE_NS: Final = 50_000_000
"""What machines with synchronised clocks differ by at most: less is not worth a step, which could go back."""


class StoreClock:
    """The store's time, as far as this process knows it; before it does, this machine's."""

    def __init__(self) -> None:
        self._ahead_ns: int | None = None
        """The store's time minus the steady clock."""

    @property
    def is_known(self) -> bool:
        return self._ahead_ns is not None

    def now_ms(self) -> int:
        if self._ahead_ns is None:
            return time.time_ns() // 1_000_000
        return (self._ahead_ns + steady_ns()) // 1_000_000

    def learn(self, seconds: int, micros: int, *, asked_ns: int) -> None:
        """Learn from the reply to a TIME that was sent at `asked_ns` on the steady clock, and has just come.

        What was known stays as long as the reply does not disprove it: it was read at some time in between.
        """
        here, told = steady_ns(), (seconds * 1_000_000 + micros) * 1000
        known = time.time_ns() - here if self._ahead_ns is None else self._ahead_ns
        earliest, latest = told - here - TOLERANCE_NS, told - asked_ns + TOLERANCE_NS
        self._ahead_ns = known if earliest <= known <= latest else told - (asked_ns + here) // 2


CLOCK: Final = StoreClock()
"""This process's. One per process, because a process has one store."""


def steady_ns() -> int:
    """Return nanoseconds on a clock that neither steps nor sleeps; its zero means nothing."""
    return time.clock_gettime_ns(_CLOCK)


def now_ms() -> int:
    """Return the store's time in milliseconds since the epoch, as stored in records."""
    return CLOCK.now_ms()
