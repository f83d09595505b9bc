"""Publishing runs to Celery's broker: the messages, their task ids, and a bound on every wait for the broker.

A message is only a hint that a run waits: who publishes, twice or not at all, is `mainstem_shared.outbox`'s
business. Used by the web tier, by tasks and by sweepers; the worker's own Celery app is not involved.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import os
import threading
import uuid
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, TypeVar

from celery import Celery
from kombu.exceptions import OperationalError

from mainstem_shared import errors

T = TypeVar("T")

GENERATE: Final = "mainstem.generate"
"""The task that executes one segment of a run."""
QUEUE: Final = "celery"
TIMEOUT_S: Final = 2.0
"""Longest wait for the broker: a start answers its caller within a breath, the outbox delivers later."""

# For one socket operation: a frozen broker costs a thread this much, and once more to reconnect.
_SOCKET_TIMEOUT_S: Final = 0.9
_THREADS: Final = 4  # a publish takes half a millisecond; more threads would only wait for the interpreter
_ONE_RETRY: Final = {"max_retries": 1, "interval_start": 0, "interval_step": 0.05, "interval_max": 0.1}


class Dispatcher:
    """Publishes messages for runs. Safe to share between threads and loops, and to carry over a fork.

    Every call ends within TIMEOUT_S. Connections and threads are made on first use.
    """

    def __init__(
        self, broker_url: str, *, queue: str = QUEUE, transport_options: Mapping[str, Any] | None = None
    ) -> None:
        self.broker_url = broker_url
        self.queue = queue
        self._transport_options = dict(transport_options or {})
        self._lock = threading.Lock()
        self._sender: _Sender | None = None
        _dispatchers.add(self)

    def publish(self, run_id: str, *, user_id: str, engine: str) -> str:
        """Publish a message that makes some worker claim the run; returns its task id, a new one each time.

        Raises:
            BrokerUnavailable: the broker did not take it in time. It may still arrive, which does no harm.
        """
        return self._wait(self._submit(self._send, run_id, user_id, engine))

    async def apublish(self, run_id: str, *, user_id: str, engine: str) -> str:
        """Do the same without blocking the loop."""
        return await self._await(self._submit(self._send, run_id, user_id, engine))

    def revoke(self, task_id: str, *, terminate: bool = True) -> None:
        """Tell all workers to drop a task's message and, with `terminate`, to cancel the task if it runs.

        Nobody answers, and a worker that is away never hears of it: the durable intent must stand before.

        Raises:
            BrokerUnavailable: the broker did not take it in time.
        """
        self._wait(self._submit(_revoke, task_id, terminate))

    async def arevoke(self, task_id: str, *, terminate: bool = True) -> None:
        """Do the same without blocking the loop."""
        await self._await(self._submit(_revoke, task_id, terminate))

    def ping(self) -> None:
        """Prove that the broker answers, over a connection of its own.

        Raises:
            BrokerUnavailable: it does not, in time.
        """
        self._wait(self._submit(_ping))

    async def aping(self) -> None:
        """Do the same without blocking the loop."""
        await self._await(self._submit(_ping))

    def close(self) -> None:
        """Close connections and threads. A later call opens new ones."""
        with self._lock:
            sender, self._sender = self._sender, None
        if sender is not None:
            sender.close()

    async def aclose(self) -> None:
        """Do the same without blocking the loop."""
        await asyncio.to_thread(self.close)

    def _send(self, app: Celery, run_id: str, user_id: str, engine: str) -> str:
        # A fresh id per message: workers drop, for hours, every message whose id was once revoked.
        task_id = str(uuid.uuid4())
        shown = {"run_id": run_id, "user": user_id, "engine": engine}
        app.send_task(
            GENERATE,
            kwargs={"run_id": run_id},
            task_id=task_id,
            queue=self.queue,
            argsrepr="()",
            kwargsrepr=repr(shown),  # what Flower shows and searches
            ignore_result=True,
        )
        return task_id

    def _submit(self, operation: Callable[..., T], *args: Any) -> Future[T]:
        with self._lock:
            if self._sender is None:
                self._sender = _Sender(self.broker_url, self._transport_options)
            return self._sender.submit(operation, *args)

    def _wait(self, future: Future[T]) -> T:
        try:
            return future.result(TIMEOUT_S)
        except _FAILURES as error:
            future.cancel()
            raise errors.BrokerUnavailable from error

    async def _await(self, future: Future[T]) -> T:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await asyncio.wrap_future(future)  # cancelled, it cancels what no thread has begun
        except _FAILURES as error:
            raise errors.BrokerUnavailable from error

    def after_fork(self) -> None:
        """Start afresh in a forked child: the parent's threads are not there, its sockets are not ours."""
        self._lock = threading.Lock()
        if self._sender is not None:
            _parents.append(self._sender)
            self._sender = None


class _Sender:
    """A Celery app with its connections, and the few threads that may wait for the broker."""

    def __init__(self, broker_url: str, transport_options: Mapping[str, Any]) -> None:
        self.app = Celery(set_as_current=False, broker=broker_url)
        self.app.conf.update(
            broker_connection_timeout=_SOCKET_TIMEOUT_S,
            broker_pool_limit=_THREADS,
            broker_transport_options={**_ONE_RETRY, **_socket_options(broker_url), **transport_options},
            task_publish_retry_policy=_ONE_RETRY,
            task_send_sent_event=True,  # Flower shows queued runs
            task_ignore_result=True,
        )
        self._threads = ThreadPoolExecutor(_THREADS, "mainstem-dispatch")

    def submit(self, operation: Callable[..., T], *args: Any) -> Future[T]:
        # The caller's context goes along: instrumentation puts its trace into the message's headers.
        return self._threads.submit(contextvars.copy_context().run, operation, self.app, *args)

    def close(self) -> None:
        self._threads.shutdown(wait=True)  # calls nobody waits for any more are cancelled already
        self.app.close()


_FAILURES: Final = (OperationalError, OSError, TimeoutError, concurrent.futures.CancelledError)


def _socket_options(broker_url: str) -> dict[str, Any]:
    if broker_url.startswith(("amqp", "pyamqp")):
        return {
            "read_timeout": _SOCKET_TIMEOUT_S,
            "write_timeout": _SOCKET_TIMEOUT_S,
            "confirm_publish": True,  # "published" means that the broker has it
        }
    return {"socket_timeout": _SOCKET_TIMEOUT_S, "socket_connect_timeout": _SOCKET_TIMEOUT_S}


def _revoke(app: Celery, task_id: str, terminate: bool) -> None:  # noqa: FBT001 - passed through an executor
    # No reply queue: mailboxes of dead askers would stay in the broker for ever.
    app.control.revoke(task_id, terminate=terminate, reply=False)


def _ping(app: Celery) -> None:
    with app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0)


_dispatchers: weakref.WeakSet[Dispatcher] = weakref.WeakSet()
_parents: list[_Sender] = []
"""Kept for ever in a forked child: collecting them could write a goodbye into the parent's sockets."""


def _after_fork() -> None:
    for dispatcher in list(_dispatchers):
        dispatcher.after_fork()


os.register_at_fork(after_in_child=_after_fork)
