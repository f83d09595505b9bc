"""A background event loop runs coroutines for pools whose tasks run in threads or processes; one per process.

`background().run(coroutine)` blocks the calling thread, not the loop. Started on first use; a forked
child gets a loop of its own. Called by `AsyncTask` and by whatever needs a loop on such pools; our own
asyncio pool has its loop already and does not start this one.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import logging
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from celery.exceptions import SoftTimeLimitExceeded

from mainstem_tasks.celery_support.cancellation import (
    CancelCause,
    Cancellation,
    awaitable_steps,
    bind_cancellation,
)

T = TypeVar("T")

logger = logging.getLogger(__name__)

#: Seconds a cancelled coroutine gets for its cleanup when its thread must leave (SIGTERM of a prefork child).
INTERRUPT_GRACE_S = 5.0
START_TIMEOUT_S = 10.0


class LoopThread:
    """A daemon thread that runs an event loop, started when first needed."""

    def __init__(self, name: str = "mainstem-loop") -> None:
        self.name = name
        self.forget()

    def forget(self) -> None:
        """Start over. In a forked child the parent's thread is gone and its lock may be held for ever."""
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop; starts it when there is none."""
        with self._lock:
            if self._loop is None:
                self._start()
            assert self._loop is not None
            return self._loop

    def _start(self) -> None:
        ready: concurrent.futures.Future[asyncio.AbstractEventLoop] = concurrent.futures.Future()
        self._stopping = threading.Event()
        arguments = (ready, self._stopping)
        self._thread = threading.Thread(target=self._main, args=arguments, name=self.name, daemon=True)
        self._thread.start()
        self._loop = ready.result(START_TIMEOUT_S)

    @staticmethod
    def _main(ready: concurrent.futures.Future[asyncio.AbstractEventLoop], stopping: threading.Event) -> None:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        loop.call_soon(ready.set_result, loop)
        try:
            # Whatever a task does to the loop, other tasks and the lease live on.
            while not stopping.is_set():
                _run(loop)
        finally:
            loop.close()

    def stop(self, timeout: float = 5.0) -> None:
        """Stop the loop and wait for its thread. Running coroutines are abandoned."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
            self._stopping.set()
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(timeout)

    def run(self, body: Coroutine[Any, Any, T], cancellation: Cancellation | None = None) -> T:
        """Run `body` on the loop in a copy of the caller's context and block for its result.

        An exception that hits the waiting thread itself (a soft time limit's signal, SystemExit) is passed
        on to the body: `SoftTimeLimitExceeded` is raised in it, anything else cancels it.
        """
        if threading.current_thread() is self._thread:
            body.close()
            raise RuntimeError(
                "A task was called synchronously on the event loop that has to run it: await it."
            )
        execution = _Execution(self.loop, body, cancellation or Cancellation())
        try:
            execution.start()  # in here: a signal's exception may come as soon as the body runs
            return execution.result.result()
        except BaseException as exc:
            if execution.result.done():
                raise
            if not execution.started:
                body.close()
                raise
            return execution.interrupt(exc)


def _run(loop: asyncio.AbstractEventLoop) -> None:
    """Run a loop until something stops it: `stop`, or a task or callback that stops it or tries to exit."""
    try:
        loop.run_forever()
    except (SystemExit, KeyboardInterrupt):
        # asyncio lets these through from any task or callback; one task must not end all others.
        noted = {"action": "background_exit"}
        logger.critical("something on the background loop tried to exit", exc_info=True, extra=noted)


class _Execution(Generic[T]):
    """One coroutine on a foreign loop, with its result as a thread-safe future."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, body: Coroutine[Any, Any, T], cancellation: Cancellation
    ) -> None:
        self.result: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._loop = loop
        self._cancellation = cancellation
        self._context = contextvars.copy_context()
        self._context.run(bind_cancellation, cancellation)
        self._task: asyncio.Task[None] | None = None
        self._body = body
        self.started = False

    def start(self) -> None:
        self.started = True
        self._loop.call_soon_threadsafe(self._start)

    def _start(self) -> None:
        self._task = self._loop.create_task(self._run(), context=self._context)

    async def _run(self) -> None:
        try:
            value = await awaitable_steps(self._body, self._cancellation)
        except BaseException as exc:  # noqa: BLE001 - the waiting thread re-raises it
            self.result.set_exception(exc)
        else:
            self.result.set_result(value)

    def interrupt(self, exc: BaseException) -> T:
        if isinstance(exc, SoftTimeLimitExceeded):
            self._on_loop(lambda: self._cancellation.inject(exc))
            return self.result.result()  # bounded by the hard limit, which kills this process
        self._on_loop(lambda: self._cancellation.request(CancelCause.REVOKED))
        concurrent.futures.wait([self.result], INTERRUPT_GRACE_S)
        raise exc

    def _on_loop(self, record: Callable[[], bool]) -> None:
        def cancel() -> None:
            if record() and self._task is not None:
                self._task.cancel()

        self._loop.call_soon_threadsafe(cancel)


_background = LoopThread()
os.register_at_fork(after_in_child=_background.forget)


def background() -> LoopThread:
    """The process's background loop."""
    return _background
