"""The clock of explorations: this process's store clock stands still at whatever time a step happens."""

from __future__ import annotations

from mainstem_shared.model import time


def stand_at(now_ms: int) -> None:
    """Have this process take it for that time, until it is said otherwise."""
    vars(time.CLOCK)["now_ms"] = lambda: now_ms


def go_on() -> None:
    """Have the time pass again."""
    vars(time.CLOCK).pop("now_ms", None)
