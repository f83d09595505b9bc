"""The callback thread runs, in order, everything that may talk to the broker: acks, events, request state.

Order matters (accepted before succeeded), the event loop must never wait for it. Its queue is bounded by
the pool, which starts no job while too much is waiting here.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """How far the callback thread is behind."""

    waiting: int
    oldest_s: float


class CallbackThread:
    """Runs callbacks in a thread, in the order in which they were posted."""

    def __init__(self, on_drained: Callable[[], None]) -> None:
        self._queue: queue.SimpleQueue[tuple[float, Callable[..., Any], tuple[Any, ...]] | None] = (
            queue.SimpleQueue()
        )
        self._on_drained = on_drained
        self._current_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="mainstem-pool-callbacks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def post(self, callback: Callable[..., Any], *args: Any) -> None:
        """Run `callback` after everything posted before. Never blocks."""
        self._queue.put((time.monotonic(), callback, args))

    @property
    def backlog(self) -> Backlog:
        since = self._current_since
        waiting = self._queue.qsize() + (since is not None)
        return Backlog(waiting=waiting, oldest_s=0.0 if since is None else time.monotonic() - since)

    def stop(self, timeout: float) -> bool:
        """Run what was posted so far, then end. False when that took longer than `timeout` seconds."""
        self._queue.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (entry := self._queue.get()) is not None:
            self._current_since, callback, args = entry
            try:
                callback(*args)
            except Exception:  # one request's broken handler must not end the others' acknowledgements
                logger.exception("pool callback failed", extra={"action": "pool_callback"})
            except SystemExit:
                logger.exception("pool callback tried to exit", extra={"action": "pool_callback"})
            finally:
                self._current_since = None
                del callback, args, entry  # a request is large; the next one may be minutes away
            if self._queue.empty():
                self._on_drained()
