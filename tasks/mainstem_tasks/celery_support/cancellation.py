"""A cancellation has one cause per job, which the task's body can read.

Whoever stops a job (the pool, a loop thread) records the cause here first and cancels afterwards;
the body asks `cancel_cause()` when `CancelledError` reaches it. A job is cancelled once: a second
request is refused, so that a `finally` which awaits is never interrupted. How long a body may take
after its cancellation is not decided here: the segment layer bounds its own finalisation.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
import types
from collections.abc import Callable, Coroutine, Generator
from enum import StrEnum
from typing import Any, TypeVar

T = TypeVar("T")


class CancelCause(StrEnum):
    """Why the pool stops a task's body; `cancel_cause()` tells it inside."""

    REVOKED = "revoked"
    SOFT_TIME_LIMIT = "soft_time_limit"
    HARD_TIME_LIMIT = "hard_time_limit"
    SHUTDOWN = "shutdown"


#: After these the job's outcome is already announced: whatever the body still returns is dropped.
FINAL_CAUSES = frozenset({CancelCause.REVOKED, CancelCause.HARD_TIME_LIMIT})


class Cancellation:
    """The stop state of one job. Thread-safe; shared by the job and every asyncio task of its body."""

    __slots__ = ("_cause", "_injection", "_lock", "_soft")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cause: CancelCause | None = None
        self._soft = False
        self._injection: BaseException | None = None

    @property
    def cause(self) -> CancelCause | None:
        """The recorded cause. A soft time limit gives way to a later cancellation: it is no cancellation."""
        if self._cause is None and self._soft:
            return CancelCause.SOFT_TIME_LIMIT
        return self._cause

    @property
    def cancelled(self) -> bool:
        """Whether the body was cancelled (a soft time limit alone does not cancel)."""
        return self._cause is not None

    @property
    def final(self) -> bool:
        return self._cause in FINAL_CAUSES

    def request(self, cause: CancelCause) -> bool:
        """Record the cause of a cancellation. True for the first request only."""
        with self._lock:
            if self._cause is not None:
                return False
            self._cause = cause
            self._injection = None
            return True

    def inject(self, exc: BaseException) -> bool:
        """Have `exc` raised in the body in place of the next `CancelledError` (the soft time limit)."""
        with self._lock:
            if self._cause is not None or self._soft:
                return False
            self._soft = True
            self._injection = exc
            return True

    def take_injection(self) -> BaseException | None:
        with self._lock:
            exc, self._injection = self._injection, None
            return exc

    def translate(self, exc: BaseException) -> BaseException:
        """What the body is to see where asyncio delivered `exc`."""
        if not isinstance(exc, asyncio.CancelledError):
            return exc
        injected = self.take_injection()
        if injected is None:
            return exc
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()  # else `asyncio.timeout` and TaskGroup in the body would take it for a cancel
        return injected


_current: contextvars.ContextVar[Cancellation | None] = contextvars.ContextVar(
    "mainstem_cancellation", default=None
)


def cancel_cause() -> CancelCause | None:
    """Why the running task is being stopped; None while nobody stops it, or outside of a task.

    Also right in asyncio tasks and threads (`asyncio.to_thread`) that the body started.
    """
    cancellation = _current.get()
    return None if cancellation is None else cancellation.cause


def current_cancellation() -> Cancellation | None:
    """Return the cancellation of the running job; None outside of one."""
    return _current.get()


def bind_cancellation(cancellation: Cancellation) -> None:
    """Make `cancellation` the current one in this context."""
    _current.set(cancellation)


def drive_steps(body: Coroutine[Any, Any, T], cancellation: Cancellation) -> Generator[Any, Any, T]:
    """Run `body`, raising injected exceptions where it waits. Yields the futures it waits for."""
    step: Callable[[], Any] = functools.partial(body.send, None)
    while True:
        try:
            future = step()
        except StopIteration as stop:
            return stop.value
        try:
            value = yield future
        except BaseException as exc:  # noqa: BLE001 - passed on to the body, which decides
            step = functools.partial(body.throw, cancellation.translate(exc))
        else:
            # A child that swallowed the cancel must not swallow the soft time limit with it.
            injected = cancellation.take_injection()
            step = (
                functools.partial(body.send, value)
                if injected is None
                else functools.partial(body.throw, injected)
            )


@types.coroutine
def awaitable_steps(body: Coroutine[Any, Any, T], cancellation: Cancellation) -> Generator[Any, Any, T]:
    """`drive_steps`, to be awaited."""
    return (yield from drive_steps(body, cancellation))
