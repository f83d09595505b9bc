"""Sweepers drain due work in slices until nothing is due; each sweeper takes slices of its own.

A slice is taken from its index (`take_due`), so that sweepers share a backlog instead of repeating each
other's work. Kinds of work take turns: neither starves the other. Between slices a sweeper pauses
for a while: its process has runs and readers to serve, too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from mainstem_shared.model.time import now_ms

SLICE: Final = 200
"""Entries of one slice: some ten milliseconds of this process's time, mostly waiting for the store."""
HOLD_MS: Final = 15_000
"""What a sweeper that dies in the middle of a slice delays it by."""
PAUSE: Final = 0.25
"""Share of a slice's time for which a sweeper pauses after it: two keep up with 2,000 ends a second."""
LONGEST_PAUSE_S: Final = 0.02


@dataclass(kw_only=True)
class Figures:
    """What a sweeper has seen and done of one kind of work."""

    lateness_s: float = 0.0
    """For how long the oldest entry had been due when it was last taken; 0 when nothing was due."""
    done: int = 0


@dataclass(kw_only=True)
class Drain:
    """Drains kinds of work. A kind's function does one slice; it returns since when each was due (ms).

    None once nothing is.
    """

    kinds: dict[str, Callable[[], Awaitable[list[int]]]]
    figures: dict[str, Figures] = field(default_factory=dict[str, Figures])

    async def run(self, budget_s: float) -> bool:
        """Work until nothing is due, or for about `budget_s`; False if something is left."""
        until = time.monotonic() + budget_s
        open_kinds = dict(self.kinds)
        while open_kinds:
            for kind, work in list(open_kinds.items()):
                began = time.monotonic()
                if not await self._slice(kind, work):
                    del open_kinds[kind]
                    continue
                now = time.monotonic()
                if now > until:
                    return False
                await asyncio.sleep(min(PAUSE * (now - began), LONGEST_PAUSE_S))
        return True

    async def _slice(self, kind: str, work: Callable[[], Awaitable[list[int]]]) -> bool:
        """Do one slice; returns whether anything was due."""
        figures = self.figures.setdefault(kind, Figures())
        taken_ms = now_ms()
        due = await work()
        figures.lateness_s = max(0.0, (taken_ms - min(due)) / 1000) if due else 0.0
        figures.done += len(due)
        return bool(due)
