"""The pace of a process's writing: how long events wait to be merged, by how many groups go out now."""

from __future__ import annotations

import math
import time
from typing import Final

from mainstem_shared.settings import WriteProfile

FULL_RATE: Final = 33_000
"""Groups a second, of all runs, at which a core of this process is nearly full: the window is widest."""
LATENCY_WINDOW_S: Final = 0.030
"""At 50 tokens/s a run, three tokens come in two windows: they share what an entry costs."""
ECONOMY_WINDOW_S: Final = 0.080
"""At 40 tokens/s a run merges about three tokens in this window."""
RATE_MEMORY_S: Final = 0.1


class Pace:
    """Measures all groups that a process sends, to whatever servers: it is its core that is to be spared."""

    def __init__(self, profile: WriteProfile) -> None:
        self._is_economical = profile is WriteProfile.ECONOMY
        self._rate = 0.0
        self._sent_at = 0.0

    @property
    def window_s(self) -> float:
        """How long events wait to be merged now."""
        if self._is_economical:
            return ECONOMY_WINDOW_S
        elapsed = time.monotonic() - self._sent_at
        rate = self._rate * math.exp(-elapsed / RATE_MEMORY_S)
        # The square: a process that has time to spare writes at once, one that is nearly full gathers.
        window = LATENCY_WINDOW_S * min(1.0, rate / FULL_RATE) ** 2
        return window if window > 0.0001 else 0.0  # a timer shorter than its own cost is none

    def measure(self, groups: int) -> None:
        """Note that so many groups went out."""
        now = time.monotonic()
        elapsed, self._sent_at = now - self._sent_at, now
        decay = math.exp(-elapsed / RATE_MEMORY_S)
        self._rate = self._rate * decay + groups / RATE_MEMORY_S
