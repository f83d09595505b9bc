"""`Slots` decides which jobs run and which wait: at most `limit` bodies at once, first come, first served.

A slot is held until the body has really ended, also when its end was announced before (a revoke, a time
limit). Everything here happens on the loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from mainstem_tasks.celery_support.cancellation import CancelCause
from mainstem_workers.pool import _celery
from mainstem_workers.pool.jobs import Job, Phase


class Slots:
    """The waiting and the running jobs of a pool."""

    def __init__(self, limit: int, is_backlogged: Callable[[], bool]) -> None:
        self.limit = limit
        self.waiting: deque[Job] = deque()
        self.running: set[Job] = set()
        #: Set while nothing runs.
        self.idle = asyncio.Event()
        self.idle.set()
        self._is_backlogged = is_backlogged
        self._closed = False
        self._filling = False

    def admit(self, job: Job) -> None:
        if self._closed:
            job.cancel(CancelCause.SHUTDOWN)
            return
        if job.phase is not Phase.WAITING:
            return  # revoked on its way here
        job.waited = len(self.running) >= self.limit or bool(self.waiting)
        self.waiting.append(job)
        self.fill()

    def fill(self) -> None:
        """Start what may start."""
        if self._filling:
            return  # a job that ends at once must not recurse through all that wait behind it
        self._filling = True
        try:
            while self.waiting and self._may_start():
                self._take(self.waiting.popleft())
        finally:
            self._filling = False

    def _may_start(self) -> bool:
        return len(self.running) < self.limit and not self._closed and not self._is_backlogged()

    def _take(self, job: Job) -> None:
        if job.cancellation.cancelled:
            return  # its cancellation is on its way and ends it
        if job.waited and _celery.is_revoked(job.call):
            job.end(_celery.announce_revoked, job.call)
            return
        self.running.add(job)
        self.idle.clear()
        job.start()

    def ended(self, job: Job) -> None:
        if job in self.running:
            self.running.remove(job)
        elif job in self.waiting:
            self.waiting.remove(job)
        if not self.running:
            self.idle.set()
        self.fill()

    def resize(self, limit: int) -> None:
        """A smaller limit takes effect as running jobs end."""
        self.limit = limit
        self.fill()

    def drop_waiting(self) -> None:
        """Forget what has not started. Its messages are unacknowledged: the broker delivers them again."""
        for job in list(self.waiting):
            job.cancel(CancelCause.SHUTDOWN)

    def close(self) -> None:
        """Start nothing any more."""
        self._closed = True
        self.drop_waiting()
