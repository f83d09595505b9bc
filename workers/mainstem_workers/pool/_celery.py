"""The one module of the pool that touches Celery's, kombu's and billiard's internals.

Pinned to Celery 5.7; each function here has a conformance test, which is the first thing to read when
a new Celery breaks one. Everything else in this package knows only what is exported here.
"""

# Celery and kombu are partly untyped.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

# ruff: noqa: SLF001 - reaching into privates is what this module is for

from __future__ import annotations

import contextlib
import logging
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import celery.utils.log as celery_log
from billiard.einfo import ExceptionInfo
from celery import signals
from celery._state import _task_stack
from celery.concurrency.base import BasePool
from celery.exceptions import (
    Ignore,
    ImproperlyConfigured,
    Reject,
    SoftTimeLimitExceeded,
    Terminated,
    WorkerLostError,
)
from celery.utils import threads as celery_threads
from celery.worker import state as worker_state
from kombu.asynchronous import get_event_loop

from mainstem_tasks.celery_support import broker_failures
from mainstem_tasks.celery_support.async_task import AsyncTask

try:
    import greenlet
except ImportError as missing:  # pragma: no cover - the worker extra brings it
    raise ImproperlyConfigured(
        "Mainstem's asyncio pool needs greenlet: install mainstem[worker]."
    ) from missing

__all__ = [
    "BasePool",
    "Call",
    "ExceptionInfo",
    "Ignore",
    "SoftTimeLimitExceeded",
    "failure",
    "in_shutdown_signal",
    "rejected_for_redelivery",
    "require_greenlet",
    "terminated",
]

logger = logging.getLogger(__name__)


def require_greenlet() -> None:
    """Refuse to start where Celery's stacks are not greenlet-local: `self.request` would be wrong."""
    if celery_threads.get_ident is not greenlet.getcurrent:
        raise ImproperlyConfigured(
            "Celery's task stacks are per thread: it was imported before greenlet was installed."
        )
    if celery_threads.LocalStack is not celery_threads._LocalStack:
        raise ImproperlyConfigured("Unset USE_FAST_LOCALS: with it Celery's task stacks are per thread.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What Celery asks a pool to execute: `BasePool.apply_async`'s arguments, with our names."""

    target: Callable[..., tuple[int, Any, float]]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    accepted: Callable[[int, float], None]
    succeeded: Callable[[tuple[int, Any, float]], None]
    failed: Callable[[ExceptionInfo], None]
    timed_out: Callable[[bool, float], None]
    soft_limit: float | None
    hard_limit: float | None
    task: Any
    task_id: str

    @property
    def task_name(self) -> str:
        return str(getattr(self.task, "name", "unknown"))

    @property
    def is_async(self) -> bool:
        return bool(getattr(self.task, "is_async", False))

    @property
    def request(self) -> Any:
        """The worker's `Request`, when Celery made the call (it passes bound methods)."""
        return getattr(self.accepted, "__self__", None)


def _ignore(*_args: Any, **_kwargs: Any) -> None:
    """Stand in for a callback Celery did not pass."""


def call_from(app: Any, target: Any, args: Any, kwargs: Any, options: dict[str, Any]) -> Call:
    """Read the arguments of `on_apply`. The tracer's first two positional ones are task name and task id."""
    args = tuple(args or ())
    name, task_id = (args[0], str(args[1])) if len(args) > 1 else (None, "")
    return Call(
        target=target,
        args=args,
        kwargs=dict(kwargs or {}),
        accepted=options.get("accept_callback") or _ignore,
        succeeded=options.get("callback") or _ignore,
        failed=options.get("error_callback") or _ignore,
        timed_out=options.get("timeout_callback") or _ignore,
        soft_limit=options.get("soft_timeout"),
        hard_limit=options.get("timeout"),
        task=app.tasks.get(name) if isinstance(name, str) else None,
        task_id=task_id,
    )


def failure(exc: BaseException) -> ExceptionInfo:
    """`exc` as Celery's failure callback wants it."""
    try:
        raise exc  # noqa: TRY301 - ExceptionInfo reads the exception being handled
    except BaseException:  # noqa: BLE001 - raised one line above
        return ExceptionInfo()


def terminated(signal: int | None) -> ExceptionInfo:
    """The failure that `Request.on_failure` announces as revoked, unless it already did."""
    return failure(Terminated(signal))


def rejected_for_redelivery(reason: str) -> ExceptionInfo:
    """The failure that puts an unacknowledged message back."""
    return failure(Reject(reason, requeue=True))


def lost(exc: BaseException) -> ExceptionInfo:
    """Return the failure of a task whose tracer broke, as if its worker had been lost."""
    return failure(WorkerLostError(repr(exc)))


def wants_redelivery(call: Call) -> bool:
    """Whether the message is still unacknowledged (`acks_late`), so that another worker can have it."""
    return bool(getattr(call.task, "acks_late", False)) and not getattr(call.request, "acknowledged", True)


def is_revoked(call: Call) -> bool:
    """Whether it was revoked, or expired, while it waited for a slot here (Celery looked before it came)."""
    request = call.request
    return request is not None and bool(request.maybe_expire() or call.task_id in worker_state.revoked)


def announce_revoked(call: Call) -> None:
    """Drop a waiting request as Celery does before it executes one."""
    call.request.revoked()


def in_shutdown_signal() -> bool:
    """Whether we are called out of a shutdown's signal handler: Celery's cold shutdown cancels from there."""
    return bool(celery_log._in_sighandler)


def is_cold_shutdown() -> bool:
    """Whether the worker was told to stop at once."""
    flag: object = worker_state.should_terminate
    return flag is not None and flag is not False  # an exit code, which may be 0


def run_pending_callbacks() -> None:
    """Run what waits for the worker's event loop (acks, event flushes) while that loop stands still.

    Only from the main thread, while the pool drains: the consumer has left the loop by then.
    """
    hub = get_event_loop()
    if hub is None:
        return
    for callback in hub._pop_ready():
        try:
            callback()
        except Exception:  # the connection may be gone; the drain goes on
            logger.warning(
                "worker callback failed during the drain", exc_info=True, extra={"action": "pool_pump"}
            )


class _SnapshotWeakSet(weakref.WeakSet[Any]):
    """A WeakSet that may change while another thread iterates over it."""

    def __iter__(self) -> Iterator[Any]:
        for reference in tuple(self.data):  # type: ignore[attr-defined]  # one bytecode: atomic
            item = reference()
            if item is not None:
                yield item


def make_request_sets_iterable() -> None:
    """Let `inspect active` iterate while the callback thread adds and removes requests.

    Celery expects these sets to change on the thread that iterates. Their methods are bound into other
    modules' defaults, so the objects must stay.
    """
    for requests in (worker_state.active_requests, worker_state.reserved_requests):
        requests.__class__ = _SnapshotWeakSet


def send_process_init() -> None:
    """Send the signal that prefork sends in a new child."""
    signals.worker_process_init.send(sender=None)


def send_process_shutdown(pid: int) -> None:
    """Send the signal that prefork sends when a child ends."""
    signals.worker_process_shutdown.send(sender=None, pid=pid, exitcode=0)


def before_cold_cancel(worker: Any, hook: Callable[[], None]) -> None:
    """Have `hook()` called when a cold shutdown is about to cancel what runs.

    Celery terminates the processes of running tasks first and sends `worker_shutting_down` afterwards.
    """
    consumer = worker.consumer
    cancel = consumer.cancel_active_requests

    def cancel_active_requests() -> None:
        hook()
        with contextlib.suppress(NotImplementedError):  # threads: that is no reason to crash
            cancel()

    consumer.cancel_active_requests = cancel_active_requests


_FIRST_PAUSE_S = 0.3  # Celery calls more than five restarts a second critical
_LONGEST_PAUSE_S = 2.0
_CALM_S = 10.0
"""A failure so long after the last one begins a new row of them."""


def outlive_broker_errors(worker: Any) -> None:
    """Have the consumer take each error reply of its broker for a lost connection, with pauses between tries.

    Celery ends a worker on what its transport calls channel errors: a demoted Redis' READONLY, a full one's
    OOM, missing rights, a RabbitMQ queue that was declared otherwise. They are set right while runs go on.
    """
    consumer = worker.consumer
    consumer.connection_errors = (
        *consumer.connection_errors,
        *consumer.channel_errors,
        *broker_failures.of(consumer.conninfo),
    )
    pause = _Pause()
    for name in ("on_connection_error_before_connected", "on_connection_error_after_connected"):
        setattr(consumer, name, _pausing(getattr(consumer, name), pause))


class _Pause:
    """Waits between failures of the broker, longer each time, and not once the worker is to stop."""

    def __init__(self) -> None:
        self._delay_s = _FIRST_PAUSE_S
        self._failed = -_CALM_S

    def __call__(self) -> None:
        begun = time.monotonic()
        if begun - self._failed > _CALM_S:
            self._delay_s = _FIRST_PAUSE_S
        while time.monotonic() - begun < self._delay_s and not _is_stopping():
            time.sleep(0.05)
        self._delay_s = min(2 * self._delay_s, _LONGEST_PAUSE_S)
        self._failed = time.monotonic()


def _is_stopping() -> bool:
    flags: tuple[object, ...] = (worker_state.should_stop, worker_state.should_terminate)
    return any(flag is not None and flag is not False for flag in flags)  # an exit code may be 0


def _pausing(on_error: Callable[[Exception], None], pause: _Pause) -> Callable[[Exception], None]:
    def on_connection_error(error: Exception) -> None:
        on_error(error)
        pause()

    return on_connection_error


def keep_broker_address(worker: Any) -> None:
    """Have what is still to be said on a lost broker connection be said on a new one, or fail as lost.

    A late acknowledgement, or giving back what was not acknowledged: on Redis kombu 5.7 asks a connection
    that it has let go of for its address, and Celery takes the AttributeError for fatal.
    """
    consumer = worker.consumer
    reconnect = consumer.on_connection_error_after_connected

    def on_connection_error_after_connected(error: Exception) -> None:
        transport = getattr(consumer.connection, "_transport", None)
        for channel in getattr(transport, "channels", None) or ():
            if hasattr(channel, "_connparams"):  # Redis'; others raise what they should
                channel._connparams = _remembering(transport, channel._connparams)
        reconnect(error)

    consumer.on_connection_error_after_connected = on_connection_error_after_connected


def _remembering(transport: Any, connparams: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    client = transport.client

    def with_client(*args: Any, **kwargs: Any) -> dict[str, Any]:
        now, transport.client = transport.client, client
        try:
            return connparams(*args, **kwargs)
        finally:
            transport.client = now

    return with_client


# --- the tracer's own blocking calls

#: Backend methods that the tracer calls and that talk to a server.
_BLOCKING_BACKEND_CALLS = frozenset(
    {"store_result", "mark_as_started", "mark_as_done", "mark_as_failure", "mark_as_retry", "mark_as_revoked"}
)


class OffloadedBackend:
    """A result backend whose blocking calls run in a thread, on that thread's own backend instance."""

    def __init__(self, task: AsyncTask, offload: Callable[..., Any]) -> None:
        self._task = task
        self._offload = offload

    def __getattr__(self, name: str) -> Any:
        if name not in _BLOCKING_BACKEND_CALLS:
            return getattr(self._task.blocking_backend, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if _needs_no_server(name, args, kwargs):
                return getattr(self._task.blocking_backend, name)(*args, **kwargs)
            return self._offload(lambda: getattr(self._task.blocking_backend, name)(*args, **kwargs))

        return call


def _needs_no_server(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether this is the success of a task that ignores its result: a thread hop per run saved."""
    if name != "mark_as_done" or len(args) != 4 or kwargs:
        return False
    _task_id, _result, request, store_result = args
    return not store_result and not getattr(request, "chord", None)


def with_stacks(task: Any, call: Callable[[], Any]) -> Callable[[], Any]:
    """`call` with the current task's stacks, for another thread: `send_task` reads the parent from them."""
    request = task.request

    def run() -> Any:
        _task_stack.push(task)
        task.request_stack.push(request)
        try:
            return call()
        finally:
            task.request_stack.pop()
            _task_stack.pop()

    return run


def offload_callbacks(app: Any, find_driver: Callable[[], Any]) -> Callable[[], None]:
    """Have the tracer publish links and chains off the loop. Returns the function that undoes it."""
    amqp = app.amqp
    publish = amqp._retry_publish

    def retry_publish(*args: Any, **kwargs: Any) -> Any:
        driver = find_driver()
        return publish(*args, **kwargs) if driver is None else driver.offload(publish, *args, **kwargs)

    amqp._retry_publish = retry_publish

    def undo() -> None:
        amqp.__dict__.pop("_retry_publish", None)

    return undo
