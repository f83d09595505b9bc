"""A job is one call that Celery made to the pool, from its admission to the delivery of its outcome.

`AsyncJob` runs Celery's tracer in a greenlet on the loop; the body is driven inside that greenlet, so
Celery's greenlet-local stacks are right in it, and only the futures it waits for are passed out to the
asyncio task that owns the job. `ThreadJob` runs tracer and body in a thread. Which job runs when is
decided in `admission`.

Cancellation is one-shot and has a cause. The outcome is delivered once: what Celery (a revoke) or a hard
time limit announced already, a later end of the body does not announce again.
"""

from __future__ import annotations

import asyncio
import contextvars
import enum
import functools
import itertools
import logging
import time
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Executor
from typing import Any, Protocol

from greenlet import getcurrent, greenlet

from mainstem_tasks.celery_support.async_task import AsyncTask
from mainstem_tasks.celery_support.cancellation import (
    CancelCause,
    Cancellation,
    bind_cancellation,
    drive_steps,
)
from mainstem_workers.pool import _celery
from mainstem_workers.pool.callback_thread import CallbackThread

logger = logging.getLogger(__name__)

#: Celery addresses a running job by "pid". Ours start above any process id, so that nobody kills a stranger.
_job_ids = itertools.count(1 << 32)


class ShutdownError(RuntimeError):
    """The worker shut down before the task ended; its message was acknowledged already."""


class Phase(enum.Enum):
    """How far a job has come."""

    WAITING = enum.auto()  # no slot yet
    STARTING = enum.auto()  # in the tracer, before the body
    BODY = enum.auto()
    ENDING = enum.auto()  # in the tracer, after the body: cancelling would only lose the result
    DONE = enum.auto()


class JobHost(Protocol):
    """What a job needs of its pool."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...
    @property
    def callbacks(self) -> CallbackThread: ...
    @property
    def threads(self) -> Executor:
        """For plain `def` tasks."""
        ...

    @property
    def offloads(self) -> Executor:
        """For blocking calls of async tasks' tracers."""
        ...

    @property
    def context(self) -> contextvars.Context:
        """What each job's context is a copy of."""
        ...

    def ended(self, job: Job) -> None:
        """The job is over; on the loop."""
        ...

    def forget(self, job: Job) -> None:
        """The job's outcome is delivered; on the callback thread."""
        ...


class Job:
    """What both kinds share. Celery holds it as its `ApplyResult`. On the loop unless said otherwise."""

    def __init__(self, call: _celery.Call, host: JobHost) -> None:
        self.call = call
        self.host = host
        self.pid: int = next(_job_ids)
        self.cancellation: Cancellation = Cancellation()
        self.phase: Phase = Phase.WAITING
        #: Celery knows the end of this task already; whatever follows is not told again.
        self.announced: bool = False
        self.waited: bool = False
        self._timers: list[asyncio.TimerHandle] = []

    # --- from any thread

    def terminate(self, _signal: int | None = None) -> None:
        """Celery's `ApplyResult.terminate`, called besides `terminate_job`."""
        self.cancel(CancelCause.SHUTDOWN if _celery.in_shutdown_signal() else CancelCause.REVOKED)

    def cancel(self, cause: CancelCause) -> bool:
        """Stop the job for this cause. False when it was stopped before: the first cause stays."""
        if not self.cancellation.request(cause):
            return False
        self._call_on_loop(self._deliver_cancel)
        return True

    def _call_on_loop(self, callback: Callable[..., None], *args: Any) -> None:
        try:
            self.host.loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:  # the loop is closed: the pool stopped, and every job with it
            logger.debug(
                "pool loop is closed", extra={"action": "pool_late_call", "task_id": self.call.task_id}
            )

    def accepted(self) -> None:
        """Tell Celery that the task runs now. From the thread that runs it."""
        self.host.callbacks.post(self.call.accepted, self.pid, time.monotonic())

    # --- on the loop

    def start(self) -> None:
        raise NotImplementedError

    def interrupt(self) -> None:
        """Make a running body notice its cancellation."""
        raise NotImplementedError

    def _deliver_cancel(self) -> None:
        self.disarm()
        if self.phase is Phase.WAITING:
            revoked = self.cancellation.cause is CancelCause.REVOKED
            self.end(self.call.failed, _celery.terminated(None)) if revoked else self.end(None, None)
        elif self.phase is Phase.BODY:
            self.interrupt()

    def arm(self) -> None:
        """Start the clocks of the time limits."""
        if self.cancellation.cancelled or self.phase is Phase.DONE:
            return
        loop = self.host.loop
        if self.call.soft_limit:
            self._timers.append(
                loop.call_later(self.call.soft_limit, self._on_soft_limit, self.call.soft_limit)
            )
        if self.call.hard_limit:
            self._timers.append(
                loop.call_later(self.call.hard_limit, self._on_hard_limit, self.call.hard_limit)
            )

    def disarm(self) -> None:
        while self._timers:
            self._timers.pop().cancel()

    def _on_soft_limit(self, limit: float) -> None:
        if self.phase is Phase.ENDING or not self.cancellation.inject(_celery.SoftTimeLimitExceeded(limit)):
            return
        self.host.callbacks.post(self.call.timed_out, True, limit)
        if self.phase is Phase.BODY:
            self.interrupt()

    def _on_hard_limit(self, limit: float) -> None:
        if self.phase is Phase.ENDING or not self.cancellation.request(CancelCause.HARD_TIME_LIMIT):
            return
        self.host.callbacks.post(self.call.timed_out, False, limit)
        self.announced = True
        self._deliver_cancel()

    def end(self, report: Callable[[Any], None] | None, outcome: Any) -> None:
        """The job is over: free its slot and have its outcome delivered in order."""
        self.disarm()
        self.phase = Phase.DONE
        self.host.callbacks.post(self._deliver, report, outcome)
        self.host.ended(self)

    # --- on the callback thread

    def _deliver(self, report: Callable[[Any], None] | None, outcome: Any) -> None:
        try:
            if report is not None and not self.announced:
                report(outcome)
        finally:
            self.host.forget(self)

    # --- in the greenlet or thread of the tracer

    def trace(self) -> tuple[Callable[[Any], None] | None, Any]:
        """Run Celery's tracer. Returns whom to report the end to, and what."""
        call = self.call
        try:
            return call.succeeded, call.target(*call.args, **call.kwargs)
        except asyncio.CancelledError:
            return self._cancelled_outcome()
        except Exception:  # noqa: BLE001 - the pool's task boundary; Celery logs and records it
            return call.failed, _celery.ExceptionInfo()
        except BaseException as exc:  # noqa: BLE001 - a signal handler's SystemExit must not end the worker
            return call.failed, _celery.lost(exc)

    def _cancelled_outcome(self) -> tuple[Callable[[Any], None] | None, Any]:
        cause = self.cancellation.cause
        if cause is not CancelCause.SHUTDOWN:
            # Revoked, with Celery having announced it or not (then this makes it do so); or timed out.
            return self.call.failed, _celery.terminated(None)
        if _celery.wants_redelivery(self.call):
            return self.call.failed, _celery.rejected_for_redelivery("the worker shut down")
        error = ShutdownError(
            "The worker shut down before the task ended; its message was acknowledged already."
        )
        return self.call.failed, _celery.failure(error)


class JobGreenlet(greenlet):
    """The greenlet a job's tracer runs in; also how code finds the job it runs for."""

    job: AsyncJob


def find_driver() -> AsyncJob | None:
    """The job whose greenlet calls. None in asyncio tasks a body started: those may not suspend it."""
    current = getcurrent()
    return current.job if isinstance(current, JobGreenlet) else None


class AsyncJob(Job):
    """A job on the loop. Is the `Driver` of its task."""

    _task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.phase = Phase.STARTING
        self.accepted()
        self.arm()
        name = f"{self.call.task_name}[{self.call.task_id}]"
        context = self.host.context.copy()
        self._task = self.host.loop.create_task(self._own(), name=name, context=context)

    async def _own(self) -> None:
        bind_cancellation(self.cancellation)
        result: list[tuple[Callable[[Any], None] | None, Any]] = []
        await _Relay(self, result)
        self.end(*result[0])
        self._task = None

    def interrupt(self) -> None:
        if self._task is not None:
            self._task.cancel(self.cancellation.cause)

    # --- Driver: in the greenlet

    def drive(self, body: Coroutine[Any, Any, Any]) -> Any:
        if self.cancellation.cancelled:
            body.close()
            raise asyncio.CancelledError(self.cancellation.cause)
        nested = self.phase is Phase.BODY
        self.phase = Phase.BODY
        try:
            value = self._drive(body)
        except asyncio.CancelledError:
            raise
        except _celery.Ignore as exc:  # it has shown its own state; a cancellation came while it did
            if not self.cancellation.final:
                raise
            raise asyncio.CancelledError(self.cancellation.cause) from exc
        except BaseException as exc:
            if not self.cancellation.final:
                raise
            logger.exception(
                "a cancelled task raised",
                extra={"action": "pool_cancelled_error", "task_id": self.call.task_id},
            )
            raise asyncio.CancelledError(self.cancellation.cause) from exc
        finally:
            if not nested:
                self.phase = Phase.ENDING
        if self.cancellation.final:
            # The end of this task is announced: the tracer must neither store a success nor send its links.
            raise asyncio.CancelledError(self.cancellation.cause)
        return value

    def _drive(self, body: Coroutine[Any, Any, Any]) -> Any:
        steps = drive_steps(body, self.cancellation)
        step: Callable[[], Any] = functools.partial(steps.send, None)
        while True:
            try:
                future = step()
            except StopIteration as stop:
                return stop.value
            try:
                value = _suspend(future)
            except BaseException as exc:  # noqa: BLE001 - passed on to the body, which decides
                step = functools.partial(steps.throw, exc)
            else:
                step = functools.partial(steps.send, value)

    def offload(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Make a blocking call in a thread. It is never abandoned: a cancellation waits for its end."""
        context = contextvars.copy_context()
        work = _celery.with_stacks(self.call.task, functools.partial(call, *args, **kwargs))
        future = self.host.offloads.submit(context.run, work)
        cancelled: BaseException | None = None
        while not future.done():
            waiter = self.host.loop.create_future()
            future.add_done_callback(functools.partial(_wake, self.host.loop, waiter))
            try:
                _suspend(next(iter(waiter.__await__())))
            except asyncio.CancelledError as exc:
                cancelled = exc
        if cancelled is not None and self.phase is Phase.BODY:
            raise self.cancellation.translate(cancelled)
        return future.result()

    def backend(self, task: AsyncTask) -> Any:
        return _celery.OffloadedBackend(task, self.offload)


class _Relay:
    """What the owning asyncio task awaits: hands out the futures the greenlet waits for, one by one."""

    def __init__(self, job: AsyncJob, result: list[Any]) -> None:
        self._job = job
        self._result = result

    def __await__(self) -> Generator[Any, Any, None]:
        tracer = JobGreenlet(lambda: self._result.append(self._job.trace()))
        tracer.job = self._job
        # The task's own context: what `task_prerun` handlers set is seen by the body and its child tasks.
        tracer.gr_context = getcurrent().gr_context
        future = tracer.switch()
        while not tracer.dead:
            try:
                value = yield future
            except BaseException as exc:  # noqa: BLE001 - belongs to the body
                future = tracer.throw(exc)
            else:
                future = tracer.switch(value)


def _suspend(future: Any) -> Any:
    """Wait for `future` in the owning asyncio task, leaving this greenlet."""
    parent = getcurrent().parent
    assert parent is not None
    return parent.switch(future)


def _wake(loop: asyncio.AbstractEventLoop, waiter: asyncio.Future[None], _done: Any) -> None:
    def wake() -> None:
        if not waiter.done():
            waiter.set_result(None)

    loop.call_soon_threadsafe(wake)


class ThreadJob(Job):
    """A job in a thread, for plain `def` tasks.

    A thread cannot be stopped from outside: its body may ask `cancel_cause()` and end itself.
    """

    def start(self) -> None:
        self.phase = Phase.STARTING
        context = self.host.context.copy()
        self.host.threads.submit(context.run, self._run)

    def interrupt(self) -> None:
        """Nothing to be done from outside; a revoked or timed-out task's result is dropped at its end."""

    def _run(self) -> None:
        bind_cancellation(self.cancellation)
        self.phase = Phase.BODY
        self.accepted()
        self._call_on_loop(self.arm)
        cancelled = self.cancellation.cancelled
        report, outcome = self._cancelled_outcome() if cancelled else self.trace()
        self._call_on_loop(self.end, report, outcome)


def make_job(call: _celery.Call, host: JobHost) -> Job:
    """Return the job for a call: on the loop for an `async def` task, else in a thread."""
    return (AsyncJob if call.is_async else ThreadJob)(call, host)
