"""`Runs` offers `AsyncRuns` to programs without an event loop, through the loop of a background thread."""

from __future__ import annotations

import asyncio
import functools
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeVar

from mainstem_api.client.async_runs import AsyncRuns, RunEvent
from mainstem_shared.model.principals import DEFAULT_TENANT
from mainstem_shared.settings import Settings
from mainstem_tasks.celery_support.background_loop import background

P = ParamSpec("P")
T = TypeVar("T")


def _blocking(
    method: Callable[Concatenate[AsyncRuns, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Runs, P], T]:
    """Make the blocking twin of a method, with its signature and documentation."""

    @functools.wraps(method)
    def call(self: Runs, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return wait(method(self._runs(), *args, **kwargs))

    return call


class Runs:
    """Starts, reads, follows and lists runs, blocking. Threads may share one; it may be carried over a fork.

    Use it as a context manager or with `close()`. Code on an event loop uses `AsyncRuns`.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        """See `AsyncRuns`. Connections are made on first use."""
        self._settings = settings
        self._lock = threading.Lock()
        self._made: AsyncRuns | None = None
        _instances.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections. A later call makes new ones."""
        with self._lock:
            runs, self._made = self._made, None
        if runs is not None:
            wait(runs.aclose())

    start = _blocking(AsyncRuns.start)
    get = _blocking(AsyncRuns.get)
    wait = _blocking(AsyncRuns.wait)
    abort = _blocking(AsyncRuns.abort)
    resume = _blocking(AsyncRuns.resume)
    send_input = _blocking(AsyncRuns.send_input)
    send_event = _blocking(AsyncRuns.send_event)
    delete_thread = _blocking(AsyncRuns.delete_thread)
    delete_user = _blocking(AsyncRuns.delete_user)
    kill = _blocking(AsyncRuns.kill)
    requeue = _blocking(AsyncRuns.requeue)
    input = _blocking(AsyncRuns.input)
    blob = _blocking(AsyncRuns.blob)
    fork_thread = _blocking(AsyncRuns.fork_thread)
    threads = _blocking(AsyncRuns.threads)
    describe_thread = _blocking(AsyncRuns.describe_thread)
    describe = _blocking(AsyncRuns.describe)
    messages = _blocking(AsyncRuns.messages)
    list = _blocking(AsyncRuns.list)

    def events(
        self,
        run_id: str,
        after: str | None = None,
        *,
        user_id: str | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> Iterator[RunEvent]:
        """Yield the run's events; see `AsyncRuns.events`. Close the iterator if you leave it early."""
        yield from iterated(self._runs().events(run_id, after, user_id=user_id, tenant=tenant))

    def _runs(self) -> AsyncRuns:
        with self._lock:
            if self._made is None:
                self._made = AsyncRuns(self._settings)
            return self._made

    def after_fork(self) -> None:
        """Begin anew in a forked child: the parent's loop is not there, and its sockets are not ours."""
        if self._made is not None:
            _parents.append(self._made)
        self._made = None
        self._lock = threading.Lock()


def behind(runs: Runs) -> AsyncRuns:
    """Return what does a blocking client's work, on the background loop."""
    return runs._runs()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]


def iterated(stream: AsyncGenerator[T, None]) -> Iterator[T]:
    """Yield what a generator of the background loop yields; it is closed with the iterator."""
    try:
        while (item := wait(_next(stream))) is not None:
            yield item
    finally:
        wait(stream.aclose())


async def _next(stream: AsyncGenerator[T, None]) -> T | None:
    return await anext(stream, None)


def wait(body: Coroutine[Any, Any, T]) -> T:
    if threading.current_thread().name == background().name:
        body.close()
        raise RuntimeError("Runs would wait for the very loop that calls it; use AsyncRuns there.")
    future = asyncio.run_coroutine_threadsafe(body, background().loop)
    try:
        return future.result()
    except (
        BaseException
    ):  # the waiting thread's own, like KeyboardInterrupt: nobody wants the result any more
        future.cancel()
        raise


_instances: weakref.WeakSet[Runs] = weakref.WeakSet()
_parents: Final[list[AsyncRuns]] = []
"""Kept for ever in a forked child: collecting them could write a goodbye into the parent's sockets."""


def _after_fork() -> None:
    for runs in list(_instances):
        runs.after_fork()


os.register_at_fork(after_in_child=_after_fork)
