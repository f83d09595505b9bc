"""`TaskPool` implements Celery's pool interface on the event loop.

One event loop in one thread runs all `async def` tasks; plain `def` tasks run in threads; callbacks run on
one ordered thread. Celery's main thread calls in here; the work is in `admission`, `jobs` and `shutdown`.
"""

# Celery and kombu are partly untyped.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import logging
import os
import threading
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from mainstem_tasks.celery_support import async_task
from mainstem_tasks.celery_support.cancellation import CancelCause
from mainstem_workers.pool import _celery
from mainstem_workers.pool.callback_thread import CallbackThread
from mainstem_workers.pool.daemon_threads import DaemonThreads
from mainstem_workers.pool.job_loop import JobLoop
from mainstem_workers.pool.jobs import Job, find_driver, make_job
from mainstem_workers.pool.options import PoolOptions
from mainstem_workers.pool.shutdown import Drain, Hook, ShutdownHooks
from mainstem_workers.pool.slots import Slots

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds between two looks of the draining main thread at what Celery's event loop has pending.
_PUMP_INTERVAL_S = 0.05
_LOOP_STOP_TIMEOUT_S = 5.0
_START_TIMEOUT_S = 30.0


class TaskPool(_celery.BasePool):
    """The asyncio pool. Attributes beside Celery's are for bootsteps of the worker application."""

    signal_safe = False
    body_can_be_buffer = True
    limit: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: Mutable until the pool stops: `pool.settings = dataclasses.replace(pool.settings, grace_s=5)`.
        self.settings: PoolOptions = self._read_options()
        self.callbacks: CallbackThread = CallbackThread(on_drained=self._on_callbacks_drained)
        self._hooks = ShutdownHooks()
        self._loop_thread = JobLoop(self._init_thread, self._end_process)
        self.threads: DaemonThreads = DaemonThreads(
            "mainstem-pool-task", self.settings.threads, self._set_app
        )
        self.offloads: DaemonThreads = DaemonThreads(
            "mainstem-pool-offload", self.settings.offload_threads, self._set_app
        )
        self._slots: Slots | None = None
        self._jobs: dict[int, Job] = {}
        self._drain: Drain | None = None
        self._drained: concurrent.futures.Future[None] | None = None
        self._finished = False
        self._undo_offload = lambda: None

    def _read_options(self) -> PoolOptions:
        conf = getattr(self.app, "conf", None)
        options = None if conf is None else conf.get("mainstem_pool")
        return options if isinstance(options, PoolOptions) else PoolOptions()

    # --- for the worker application

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop all async tasks run on."""
        return self._loop_thread.loop

    @property
    def thread(self) -> threading.Thread:
        """The thread that runs the loop."""
        return self._loop_thread.thread

    @property
    def context(self) -> contextvars.Context:
        """What jobs' contexts are copies of. For `JobHost`."""
        return self._loop_thread.context

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float = _START_TIMEOUT_S) -> T:
        """Run a coroutine on the loop and wait for it. Not from the loop; for bootsteps."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout)

    def add_shutdown_hook(self, hook: Hook) -> None:
        """Have `await hook()` run on the loop after the last job ended and before the loop stops.

        Hooks run one after another, last registered first, each for at most `settings.hook_timeout_s`.
        """
        self._hooks.add(hook)

    def cancel(self, task_id: str, cause: CancelCause) -> bool:
        """Cancel the body of a task that runs here. False when there is none, or it was cancelled before."""
        return any(job.cancel(cause) for job in list(self._jobs.values()) if job.call.task_id == task_id)

    # --- Celery: start

    def on_start(self) -> None:
        _celery.require_greenlet()
        _celery.make_request_sets_iterable()
        async_task.register_driver(find_driver)
        if self.app is not None:
            self._undo_offload = _celery.offload_callbacks(self.app, find_driver)
        self.callbacks.start()
        self._loop_thread.start()
        self._slots = self.run(self._make_slots())

    async def _make_slots(self) -> Slots:
        return Slots(self.limit, self._is_backlogged)

    def _set_app(self) -> None:
        if self.app is not None:
            self.app.set_current()  # per thread

    def _init_thread(self) -> None:
        self._set_app()
        _celery.send_process_init()

    def _end_process(self) -> None:
        _celery.send_process_shutdown(os.getpid())

    def _is_backlogged(self) -> bool:
        return self.callbacks.backlog.waiting > max(64, self.limit * self.settings.callbacks_per_slot)

    def _on_callbacks_drained(self) -> None:
        slots = self._slots
        if slots is not None and slots.waiting:
            self._on_loop(slots.fill)

    def _on_loop(self, callback: Any, *args: Any) -> None:
        try:
            self.loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:  # closed
            logger.debug("pool loop is closed", extra={"action": "pool_late_call"})

    # --- Celery: work

    def on_apply(  # pyright: ignore[reportIncompatibleMethodOverride] - untyped upstream, inferred as None
        self, target: Any, args: Any = None, kwargs: Any = None, **options: Any
    ) -> Job:
        options["soft_timeout"] = options.get("soft_timeout") or self.options.get("soft_timeout")
        options["timeout"] = options.get("timeout") or self.options.get("timeout")
        job = make_job(_celery.call_from(self.app, target, args, kwargs, options), self)
        self._jobs[job.pid] = job  # Celery keeps a weak reference only
        assert self._slots is not None, "the pool has not started"
        self._on_loop(self._slots.admit, job)
        return job

    def terminate_job(self, pid: int, signal: int | None = None) -> None:
        """Cancel the job Celery knows by this pid. Celery announces its end itself."""
        job = self._jobs.get(pid)
        if job is not None:
            job.announced = True
            job.terminate(signal)

    def ended(self, job: Job) -> None:
        assert self._slots is not None
        self._slots.ended(job)

    def forget(self, job: Job) -> None:
        self._jobs.pop(job.pid, None)

    def flush(self) -> None:
        """Drop what has not started: the connection was lost, the broker delivers it again."""
        if self._slots is not None:
            self._on_loop(self._slots.drop_waiting)

    def grow(self, n: int = 1) -> None:
        self._resize(self.limit + n)

    def shrink(self, n: int = 1) -> None:
        """Lower the limit; jobs above it run to their end. Refuses to go below one."""
        if self.limit - n < 1:
            raise ValueError("Cannot shrink the pool below one slot: stop the worker instead.")
        self._resize(self.limit - n)

    def _resize(self, limit: int) -> None:
        self.limit = limit
        if self._slots is not None:
            self._on_loop(self._slots.resize, limit)

    def _get_info(self) -> dict[str, Any]:
        slots, backlog = self._slots, self.callbacks.backlog
        return {
            **super()._get_info(),
            "running": len(slots.running) if slots else 0,
            "waiting": len(slots.waiting) if slots else 0,
            "threads": self.threads.threads,
            "offload-threads": self.offloads.threads,
            "callbacks": {"waiting": backlog.waiting, "oldest": round(backlog.oldest_s, 3)},
            "shutdown-hooks": len(self._hooks),
        }

    # --- Celery: stop (see `shutdown` for the order)

    def on_close(self) -> None:
        if self._slots is not None:
            self._on_loop(self._slots.close)

    def on_stop(self) -> None:
        self._stop(0.0 if _celery.is_cold_shutdown() else self.settings.grace_s)

    def on_terminate(self) -> None:
        self._stop(0.0)

    def _stop(self, grace: float) -> None:
        """Stop the pool and wait. Celery calls this repeatedly, also from a signal during a call."""
        if self._slots is None or self._finished:
            return
        if self._drained is None:
            self._drain = self.run(self._make_drain(self._slots))
            self._drained = asyncio.run_coroutine_threadsafe(self._drain.run(grace), self.loop)
        elif self._drain is not None and not grace:
            self._on_loop(self._drain.hurry)
        self._wait_for(self._drained, time.monotonic() + self._stop_bound(grace))
        self._finish()

    async def _make_drain(self, slots: Slots) -> Drain:
        return Drain(slots, self._hooks, self.settings)

    def _stop_bound(self, grace: float) -> float:
        """Seconds after which the drain itself is given up: the loop must be blocked."""
        return grace + self.settings.cancel_grace_s + len(self._hooks) * self.settings.hook_timeout_s + 5.0

    def _wait_for(self, drained: concurrent.futures.Future[None], deadline: float) -> None:
        pump = threading.current_thread() is threading.main_thread() and not _celery.in_shutdown_signal()
        while time.monotonic() < deadline and not self._finished:
            if pump:
                _celery.run_pending_callbacks()
            if concurrent.futures.wait([drained], _PUMP_INTERVAL_S).done:
                return

    def _finish(self) -> None:
        if self._finished:
            return
        self._finished = True
        self._undo_offload()
        if not self.callbacks.stop(self.settings.callbacks_timeout_s):
            logger.error("callbacks are not delivered, giving up", extra={"action": "pool_callbacks_stuck"})
        self.threads.shutdown()
        self.offloads.shutdown()
        if not self._loop_thread.stop(_LOOP_STOP_TIMEOUT_S):
            logger.error("the event loop is blocked, leaving it", extra={"action": "pool_loop_stuck"})
