"""A pool host starts and stops a worker process's `Housekeeping`; each of Celery's pools has its own.

The asyncio pool has the loop that everything runs on. Threads and solo use the process's background loop, as
does each prefork child. What abort and shutdown each can give is told in `docs/pools.md`.
"""

# Celery and kombu are partly untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import time
from collections.abc import Coroutine
from typing import Any, Final, Protocol, TypeVar

from celery import signals
from celery.exceptions import ImproperlyConfigured

from mainstem_shared.settings import Settings
from mainstem_tasks.celery_support import background_loop
from mainstem_tasks.execution import runtime
from mainstem_tasks.execution.runtime import Runtime, Stop
from mainstem_workers import pool_support
from mainstem_workers.housekeeping import Housekeeping
from mainstem_workers.pool import _celery

T = TypeVar("T")

logger = logging.getLogger(__name__)

START_TIMEOUT_S: Final = 20.0
"""Less than `worker_proc_alive_timeout`: an unavailable store must not end prefork children."""
STOP_TIMEOUT_S: Final = 5.0
CANCEL_GRACE_S: Final = 10.0
"""After the drain: what cancelled engines may take for their cleanup and the terminal event."""
_AGAIN_S: Final = 0.5
_NOW: Final = b"!"
"""What the parent of prefork children says before it hangs up, if they shall not wait for the drain."""


class Host(Protocol):
    """What `RunsStep` asks of a host; the parent is Celery's WorkController."""

    def start(self, parent: Any) -> None: ...
    def stop(self, parent: Any) -> None: ...
    def terminate(self, parent: Any) -> None: ...
    def info(self) -> dict[str, Any]: ...


def host_for(parent: Any) -> Host:
    """Return the host for a worker's pool.

    Raises:
        ImproperlyConfigured: the worker would execute runs on a pool that cannot.
    """
    settings: Settings = parent.app.conf.mainstem_settings
    pool = pool_support.pool_of(parent.pool_cls)
    match pool:
        case pool_support.Pool.ASYNCIO:
            return AsyncioHost(settings)
        case pool_support.Pool.THREADS | pool_support.Pool.SOLO:
            return ThreadsHost(settings, eager=pool_support.consumes_runs(parent.app, settings))
        case pool_support.Pool.PREFORK:
            return PreforkHost(settings, eager=pool_support.consumes_runs(parent.app, settings))
        case _:
            if pool_support.consumes_runs(parent.app, settings):
                raise ImproperlyConfigured(pool_support.refusal(pool, parent.pool_cls, settings))
            return NoHost()


class NoHost:
    """For workers of an application that neither can nor shall execute runs."""

    def start(self, parent: Any) -> None:
        del parent
        logger.info("this worker executes no runs", extra={"action": "no_runs_here"})

    def stop(self, parent: Any) -> None:
        """Nothing was started."""

    def terminate(self, parent: Any) -> None:
        """Nothing was started."""

    def info(self) -> dict[str, Any]:
        return {}


class AsyncioHost:
    """On the asyncio pool: on its loop, stopped by its shutdown hook after the last job."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._housekeeping: Housekeeping | None = None

    def start(self, parent: Any) -> None:
        pool = parent.pool
        housekeeping = self._housekeeping = pool.run(_make(self._settings, pool.loop))
        pool.run(housekeeping.start())
        pool.add_shutdown_hook(housekeeping.stop)

    def stop(self, parent: Any) -> None:
        """Nothing: the pool's shutdown hook does it, after the last job."""

    def terminate(self, parent: Any) -> None:
        """Nothing: the pool's shutdown hook does it, after the last job."""

    def info(self) -> dict[str, Any]:
        return _told(None if self._housekeeping is None else self._housekeeping.runtime)


class Background:
    """Housekeeping on this process's background loop, started when it is first needed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
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
            segment.stop(Stop.SHUTDOWN)
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
        housekeeping = Housekeeping(self._settings, asyncio.get_running_loop())
        await housekeeping.start()
        return housekeeping

    def _call(self, work: Coroutine[Any, Any, T], timeout_s: float = START_TIMEOUT_S) -> T:
        future: concurrent.futures.Future[T] = asyncio.run_coroutine_threadsafe(
            work, background_loop.background().loop
        )
        return future.result(timeout_s)


class ThreadsHost:
    """On threads and solo: on the background loop; stopped here, once the pool has ended its last job."""

    def __init__(self, settings: Settings, *, eager: bool) -> None:
        self._settings = settings
        self._eager = eager
        self._background = Background(settings)

    def start(self, parent: Any) -> None:
        runtime.provide(self._background.ready)
        _celery.before_cold_cancel(parent, lambda: self._background.drain(0))
        signals.worker_shutting_down.connect(self._on_shutting_down, weak=False)
        if self._eager:
            self._background.start()

    def stop(self, parent: Any) -> None:
        parent.pool.stop()  # Celery would stop it after us; asked twice, it does nothing
        self._end()

    def terminate(self, parent: Any) -> None:
        del parent  # these pools cannot be terminated: what runs is stopped from here
        self._background.drain(0)
        self._background.wait_idle(CANCEL_GRACE_S)
        self._end()

    def info(self) -> dict[str, Any]:
        return _told(self._background.runtime)

    def _end(self) -> None:
        signals.worker_shutting_down.disconnect(self._on_shutting_down)
        runtime.provide(None)
        self._background.stop()

    def _on_shutting_down(self, how: str = "", **_: Any) -> None:
        self._background.drain(self._settings.drain_s if how == "Warm" else 0)


class PreforkHost:
    """On prefork: every child keeps its own. The parent says by a pipe that it is shutting down.

    Children are not told of a warm shutdown by Celery, which would wait for their runs for ever. They see the
    pipe close also if the parent dies.
    """

    def __init__(self, settings: Settings, *, eager: bool) -> None:
        self._settings = settings
        self._eager = eager
        # Before the pool forks, or children would not inherit it.
        self._hears, self._says = os.pipe()
        self._background: Background | None = None
        signals.worker_process_init.connect(self._on_child_started, weak=False)
        signals.worker_process_shutdown.connect(self._on_child_stopping, weak=False)
        signals.worker_shutting_down.connect(self._on_shutting_down, weak=False)

    def start(self, parent: Any) -> None:
        """Hear of a cold shutdown before it cancels the children's tasks. They are running already."""
        _celery.before_cold_cancel(parent, lambda: self._say(_NOW))

    def stop(self, parent: Any) -> None:
        del parent
        self._say(b"")

    def terminate(self, parent: Any) -> None:
        del parent
        self._say(_NOW)

    def info(self) -> dict[str, Any]:
        return {}

    # -- in the parent

    def _on_shutting_down(self, how: str = "", **_: Any) -> None:
        self._say(b"" if how == "Warm" else _NOW)

    def _say(self, word: bytes) -> None:
        """Tell all children at once. On a signal handler's stack: nothing here may block."""
        if self._says < 0:
            return
        says, self._says = self._says, -1
        if word:
            os.write(says, word * _MOST_CHILDREN)
        os.close(says)

    # -- in a child

    def _on_child_started(self, **_: Any) -> None:
        os.close(self._says)
        self._says = -1
        background = self._background = Background(self._settings)
        runtime.provide(background.ready)
        loop = background_loop.background().loop
        loop.call_soon_threadsafe(loop.add_reader, self._hears, self._on_parent)
        if self._eager:
            background.start()

    def _on_parent(self) -> None:
        asyncio.get_running_loop().remove_reader(self._hears)
        assert self._background is not None
        if os.read(self._hears, 1) == _NOW:
            self._background.stop_segments()  # at once: SIGTERM comes, and would look like a revoke
        else:
            self._background.drain(self._settings.drain_s)

    def _on_child_stopping(self, **_: Any) -> None:
        if self._background is not None:
            self._background.stop()


_MOST_CHILDREN: Final = 4096
"""A byte for each child that may read one; it fits a pipe's buffer, so that writing does not block."""


def _told(here: Runtime | None) -> dict[str, Any]:
    return {} if here is None else {"owner": here.lease.owner, "runs": len(here.segments)}


async def _make(settings: Settings, loop: asyncio.AbstractEventLoop) -> Housekeeping:
    return Housekeeping(settings, loop)
