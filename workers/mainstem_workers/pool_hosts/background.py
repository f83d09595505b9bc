"""Runs housekeeping on the process's background loop, for pools whose tasks run in threads or processes."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from mainstem_shared.settings import Settings
from mainstem_tasks.celery_support import background_loop
from mainstem_tasks.execution.runtime import Runtime, StopCause
from mainstem_workers.housekeeping import Housekeeping

T = TypeVar("T")

logger = logging.getLogger(__name__)

START_TIMEOUT_S: Final = 20.0
"""Less than `worker_proc_alive_timeout`: an unavailable store must not end prefork children."""
STOP_TIMEOUT_S: Final = 5.0
CANCEL_GRACE_S: Final = 10.0
"""After the drain: what cancelled engines may take for their cleanup and the terminal event."""
_AGAIN_S: Final = 0.5


class Background:
    """Housekeeping on this process's background loop, started when it is first needed."""

    def __init__(
        self,
        settings: Settings,
        queues: Sequence[str],
        *,
        pool: str,
        slots: int = 1,
        metrics_folder: Path | None = None,
    ) -> None:
        self._settings = settings
        self._queues = queues
        self._pool = pool
        self._slots = slots
        self._metrics_folder = metrics_folder
        self._starting: asyncio.Task[Housekeeping] | None = None

    @property
    def runtime(self) -> Runtime | None:
        started = self._started
        return None if started is None else started.runtime

    def start(self) -> None:
        """Start it and wait, for a while: what takes longer goes on, and tasks wait for it."""
        try:
            self._call(self.ready())
        except TimeoutError:
            logger.warning("not ready for runs yet", extra={"action": "worker_slow_start"})

    async def ready(self) -> Runtime:
        """Return the runtime, started now if it was not before. On the background loop, as tasks are."""
        if self._starting is None or (self._starting.done() and self._started is None):
            self._starting = asyncio.create_task(self._start(), name="mainstem-start")
        return (await asyncio.shield(self._starting)).runtime

    def drain(self, grace_s: float) -> None:
        """Give segments `grace_s` seconds, then stop whatever runs or still comes. From any thread."""
        loop = background_loop.background().loop
        loop.call_soon_threadsafe(loop.call_later, grace_s, self.stop_segments)

    def stop_segments(self) -> None:
        """Stop what runs, and from now on whatever still comes. On the loop."""
        here = self.runtime
        for segment in [] if here is None else list(here.segments.values()):
            segment.stop(StopCause.SHUTDOWN)
        asyncio.get_running_loop().call_later(_AGAIN_S, self.stop_segments)

    def wait_idle(self, timeout_s: float) -> None:
        """Wait until no segment runs here."""
        deadline = time.monotonic() + timeout_s
        while (here := self.runtime) is not None and here.segments and time.monotonic() < deadline:
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop everything; the last job has ended."""
        started = self._started
        if started is None:
            return
        self._starting = None
        try:
            self._call(started.stop(), STOP_TIMEOUT_S)
        except TimeoutError:
            logger.warning("housekeeping did not stop in time", extra={"action": "worker_slow_stop"})

    @property
    def _started(self) -> Housekeeping | None:
        task = self._starting
        if task is None or not task.done() or task.cancelled() or task.exception() is not None:
            return None
        return task.result()

    async def _start(self) -> Housekeeping:
        housekeeping = Housekeeping(
            self._settings,
            asyncio.get_running_loop(),
            pool=self._pool,
            slots=self._slots,
            queues=self._queues,
            metrics_folder=self._metrics_folder,
        )
        await housekeeping.start()
        return housekeeping

    def _call(self, work: Coroutine[Any, Any, T], timeout_s: float = START_TIMEOUT_S) -> T:
        future: concurrent.futures.Future[T] = asyncio.run_coroutine_threadsafe(
            work, background_loop.background().loop
        )
        return future.result(timeout_s)


def info_of(here: Runtime | None) -> dict[str, Any]:
    """Return what `celery inspect stats` shows of a process's runtime."""
    return {} if here is None else {"owner": here.lease.owner, "runs": len(here.segments)}
