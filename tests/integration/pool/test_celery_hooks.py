"""One conformance test for each of Celery's internals the pool leans on. Read these first when Celery changes."""

from __future__ import annotations

import inspect
import threading
import weakref
from types import SimpleNamespace

import celery.apps.worker
import pytest
from billiard.einfo import ExceptionInfo
from celery import Celery, _state, signals
from celery.app import amqp as celery_amqp
from celery.app import trace
from celery.app.task import Task
from celery.backends.base import Backend
from celery.concurrency import base as celery_base
from celery.exceptions import ImproperlyConfigured, Reject, Terminated, WorkerLostError
from celery.utils import log as celery_log
from celery.utils import threads as celery_threads
from celery.worker import request as celery_request
from celery.worker import state as worker_state
from celery.worker.consumer import tasks as consumer_tasks
from kombu.asynchronous import get_event_loop, hub, set_event_loop

from mainstem_tasks.celery_support.async_task import AsyncTask
from mainstem_workers.pool import TaskPool, _celery


def test_celery_version():
    """The internals below are those of Celery 5.7."""
    assert celery.__version__.startswith("5.7.")


def test_stacks_are_greenlet_local(monkeypatch):
    """Celery keys its stacks by greenlet; where it does not, the pool refuses to start and says why."""
    _celery.require_greenlet()
    monkeypatch.setattr(celery_threads, "LocalStack", celery_threads._FastLocalStack)
    with pytest.raises(ImproperlyConfigured, match="USE_FAST_LOCALS"):
        _celery.require_greenlet()
    monkeypatch.setattr(celery_threads, "get_ident", threading.get_ident)
    with pytest.raises(ImproperlyConfigured, match="greenlet"):
        _celery.require_greenlet()


def test_request_passes_what_a_call_is_read_from():
    """`Request.execute_using_pool` passes tracer arguments and callbacks under the names `call_from` reads."""
    source = inspect.getsource(celery_request.create_request_cls)
    for name in (
        "accept_callback=self.on_accepted",
        "timeout_callback=self.on_timeout",
        "callback=self.on_success",
    ):
        assert name in source
    for name in ("error_callback=self.on_failure", "soft_timeout=", "timeout=", "args=(self.type, task_id,"):
        assert name in source
    assert list(inspect.signature(trace.fast_trace_task).parameters)[:2] == ["task", "uuid"]


def test_pool_interface():
    """The base pool has the methods we override, and calls `on_apply` with what it was given."""
    for name in ("on_start", "on_stop", "on_close", "on_terminate", "flush", "terminate_job", "_get_info"):
        assert hasattr(celery_base.BasePool, name)
    assert "self.on_apply(target, args, kwargs," in inspect.getsource(celery_base.BasePool.apply_async)


def test_terminate_reaches_pool_and_result():
    """A revoke calls `terminate_job` first, announces, then calls `terminate` of what `apply_async` returned."""
    source = inspect.getsource(celery_request.Request.terminate)
    order = [
        "pool.terminate_job(self.worker_pid, signal)",
        "self._announce_revoked(",
        "obj.terminate(signal)",
    ]
    assert sorted(order, key=source.index) == order


def test_failures_have_the_types_celery_tells_apart():
    """The failures we report are told apart by `Request.on_failure`."""
    terminated, redelivery = _celery.terminated(15), _celery.rejected_for_redelivery("shut down")
    assert isinstance(terminated, ExceptionInfo)
    assert isinstance(_unwrapped(terminated), Terminated)
    assert isinstance(_unwrapped(redelivery), Reject)
    assert _unwrapped(redelivery).requeue is True
    assert isinstance(_unwrapped(_celery.lost(SystemExit(1))), WorkerLostError)


def _unwrapped(info: ExceptionInfo) -> BaseException:
    return getattr(info.exception, "exc", info.exception)


def test_shutdown_signal_is_recognised():
    """A cold shutdown cancels from inside `in_sighandler`, which is how its cancels get the cause SHUTDOWN."""
    assert not _celery.in_shutdown_signal()
    with celery_log.in_sighandler():
        assert _celery.in_shutdown_signal()
    source = inspect.getsource(celery.apps.worker._shutdown_handler)
    assert source.index("with in_sighandler():") < source.index("callback(worker)")


def test_cold_shutdown_flag(monkeypatch):
    """`state.should_terminate` tells a cold shutdown; an exit code of 0 counts as one."""
    assert not _celery.is_cold_shutdown()
    monkeypatch.setattr(worker_state, "should_terminate", 0)
    assert _celery.is_cold_shutdown()


def test_revoked_ids():
    """Revoked ids are in `state.revoked`, expired requests say so, for calls that come from a request."""
    worker_state.revoked.add("revoked-id")
    assert callable(celery_request.Request.maybe_expire)
    fresh, expired = (SimpleNamespace(maybe_expire=lambda answer=answer: answer) for answer in (None, True))
    try:
        assert _celery.is_revoked(SimpleNamespace(request=fresh, task_id="revoked-id"))
        assert _celery.is_revoked(SimpleNamespace(request=expired, task_id="other"))
        assert not _celery.is_revoked(SimpleNamespace(request=None, task_id="revoked-id"))
        assert not _celery.is_revoked(SimpleNamespace(request=fresh, task_id="other"))
    finally:
        worker_state.revoked.discard("revoked-id")


def test_pending_callbacks_of_the_hub_run():
    """What other threads hand to the worker's loop can be run while that loop stands still."""
    previous = get_event_loop()
    loop = set_event_loop(hub.Hub())
    ran = []
    try:
        loop.call_soon(ran.append, 1)
        loop.call_soon(lambda: 1 / 0)
        _celery.run_pending_callbacks()
        assert ran == [1]
    finally:
        loop.close()
        set_event_loop(previous)


def test_request_sets_may_change_while_iterated():
    """After the pool started, `inspect active` may iterate while the callback thread changes the set."""
    _celery.make_request_sets_iterable()

    class Item:
        pass

    items = [Item() for _ in range(3)]
    worker_state.active_requests.update(items)
    try:
        for item in worker_state.active_requests:
            worker_state.active_requests.discard(item)
        assert len(worker_state.active_requests) == 0
        assert isinstance(worker_state.active_requests, weakref.WeakSet)
    finally:
        worker_state.active_requests.clear()


def test_prefetch_counts_reserved_requests_against_the_limit():
    """`worker_disable_prefetch` compares the reserved requests to `pool.num_processes`."""
    source = inspect.getsource(consumer_tasks.Tasks.start)
    assert "c.pool.num_processes" in source
    assert "len(state.reserved_requests) >= limit" in source
    assert TaskPool(limit=7).num_processes == 7


def test_tracer_calls_the_backend_through_the_task():
    """The tracer looks its backend up at the task each time: there `AsyncTask` puts the off-loading one."""
    source = inspect.getsource(trace.build_tracer) + inspect.getsource(trace.TraceInfo)
    for name in ("mark_as_done", "mark_as_failure", "mark_as_retry", "store_result"):
        assert f"task.backend.{name}(" in source
        assert callable(getattr(Backend, name))
    assert (
        "task.backend.mark_as_done(\n                            uuid, retval, task_request, publish_result,"
        in source
    )


def test_tracer_publishes_callbacks_through_one_method():
    """Links and chains are published by `amqp._retry_publish`, which the pool replaces on the instance and restores."""
    assert "app.amqp._retry_publish(" in inspect.getsource(trace.build_tracer)
    app = Celery(set_as_current=False)
    calls = []
    driver = SimpleNamespace(offload=lambda call, *args: calls.append((call, args)) or call(*args))
    undo = _celery.offload_callbacks(app, lambda: driver)
    assert app.amqp._retry_publish(lambda value: value, 5) == 5
    assert calls[0][1][1:] == (5,)
    undo()
    assert "_retry_publish" not in app.amqp.__dict__
    assert callable(celery_amqp.AMQP._retry_publish)


def test_off_loaded_calls_see_the_tasks_stacks():
    """In another thread `current_task` and `task.request` are those of the task that off-loaded the call."""
    app = Celery(set_as_current=False, task_cls=AsyncTask)

    @app.task(name="conformance.stacks")
    async def task() -> None: ...

    task.push_request(id="the-id")
    try:
        seen = []
        work = _celery.with_stacks(
            task, lambda: seen.append((_state.get_current_worker_task().name, task.request.id))
        )
        thread = threading.Thread(target=work)
        task.request.called_directly = False
        thread.start()
        thread.join(5)
        assert seen == [("conformance.stacks", "the-id")]
    finally:
        task.pop_request()


def test_run_can_be_bridged_when_the_class_is_made():
    """`app.task` makes a class with `run` in its namespace, so `__init_subclass__` can bridge async bodies."""
    app = Celery(set_as_current=False, task_cls=AsyncTask)

    @app.task(name="conformance.run", bind=True)
    async def task(self, number: int) -> int:
        return number + 1

    assert task.is_async
    assert not inspect.iscoroutinefunction(task.run)
    assert isinstance(task, Task)
    assert str(inspect.signature(task.run)) == "(number: 'int') -> 'int'"
    assert task.apply(args=(1,)).get() == 2


def test_process_signals():
    """The signals of process start and end exist and take what we send."""
    seen = []

    def on_init(**kwargs):
        seen.append("init")

    def on_shutdown(pid, exitcode, **kwargs):
        seen.append((pid, exitcode))

    signals.worker_process_init.connect(on_init)
    signals.worker_process_shutdown.connect(on_shutdown)
    try:
        _celery.send_process_init()
        _celery.send_process_shutdown(7)
    finally:
        signals.worker_process_init.disconnect(on_init)
        signals.worker_process_shutdown.disconnect(on_shutdown)
    assert seen == ["init", (7, 0)]
