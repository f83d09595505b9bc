"""Daemon threads run blocking work: plain `def` tasks and the tracer's blocking calls.

Unlike ThreadPoolExecutor's, they never keep a process from exiting: a task that hangs in a system call
must not hold up a cold shutdown. Threads are kept, as result backends and database handles live per thread.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class DaemonThreads(Executor):
    """An executor whose threads never keep the process from exiting."""

    def __init__(self, name: str, size: int, initializer: Callable[[], None]) -> None:
        self._name = name
        self._size = size
        self._initializer = initializer
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._idle = 0

    @property
    def threads(self) -> int:
        return self._threads

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()

        def work() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as exc:  # noqa: BLE001 - the future carries it to the waiting task
                future.set_exception(exc)

        with self._lock:
            if self._idle > 0:
                self._idle -= 1
            elif self._threads < self._size:
                self._threads += 1
                name = f"{self._name}-{self._threads}"
                threading.Thread(target=self._run, name=name, daemon=True).start()
        self._queue.put(work)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002
        """Let idle threads end. Busy ones end with their work, or with the process."""
        for _ in range(self._threads):
            self._queue.put(None)

    def _run(self) -> None:
        self._initializer()
        while (work := self._queue.get()) is not None:
            work()
            del work
            with self._lock:
                if self._queue.empty():
                    self._idle += 1
