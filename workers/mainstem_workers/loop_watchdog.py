"""The loop watchdog reports code that blocks the event loop, and ends a process whose loop stays blocked."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import sys
import threading
import time
import traceback
from typing import Final

from mainstem_shared.metrics import catalogue as metrics

logger = logging.getLogger(__name__)

TICK_S: Final = 0.25
WARN_S: Final = 1.0
"""A stall that readers notice."""
EXIT_S: Final = 60.0
"""A stall nobody comes back from: a process without runs is better than one that holds them."""
EXIT_CODE: Final = 70  # EX_SOFTWARE in sysexits.h


class Watchdog:
    """Watches a loop from a thread of its own: warns after a second, ends the process after a minute."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, exit_s: float = EXIT_S) -> None:
        self._loop = loop
        self._exit_s = exit_s
        self._beat = time.monotonic()
        self._stopped = threading.Event()
        self._loop_thread = threading.get_ident()
        self._thread = threading.Thread(target=self._watch, name="mainstem-watchdog", daemon=True)
        self._tick: asyncio.TimerHandle | None = None

    @property
    def lag_s(self) -> float:
        """How late the loop is now; from any thread."""
        return max(0.0, time.monotonic() - self._beat - TICK_S)

    def start(self) -> None:
        """Begin; call on the loop."""
        self._loop_thread = threading.get_ident()
        self._pulse()
        self._thread.start()

    def stop(self) -> None:
        """End; call on the loop."""
        self._stopped.set()
        if self._tick is not None:
            self._tick.cancel()

    def _pulse(self) -> None:
        self._beat = time.monotonic()
        self._tick = self._loop.call_later(TICK_S, self._pulse)

    def _watch(self) -> None:
        warned = 0.0
        last = time.monotonic()
        while not self._stopped.wait(TICK_S):
            now = time.monotonic()
            if now - last > WARN_S:
                self._beat = now  # this thread did not run either: the process was suspended, not the loop
            last = now
            stall = now - self._beat
            if stall > self._exit_s:
                self._give_up(stall)
            elif stall > WARN_S and self._beat > warned:
                warned = now
                metrics.LOOP_STALLS.inc()
                logger.warning(
                    "the event loop has been blocked for %.1f s, all runs stand still\n%s",
                    stall,
                    self._culprit(),
                    extra={"action": "loop_blocked"},
                )

    def _culprit(self) -> str:
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001 - documented for this use
        return "".join(traceback.format_stack(frame)) if frame is not None else "(no stack)"

    def _give_up(self, stall: float) -> None:
        logger.critical(
            "the event loop has been blocked for %.0f s, this process ends\n%s",
            stall,
            self._culprit(),
            extra={"action": "loop_dead"},
        )
        faulthandler.dump_traceback(all_threads=True)
        os._exit(EXIT_CODE)
