"""The `CeleryPublisher` publishes, revokes and pings through Celery's broker, each within a bounded time.

A message is only a hint that a run waits: who publishes, twice or not at all, is the business of
`mainstem_shared.coordination.outbox`. Used by the web tier, by tasks and by sweepers; not by a worker's app.
"""

# Celery and kombu are partly untyped.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import os
import threading
import traceback
import uuid
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, TypeVar, cast

from celery import Celery
from kombu.connection import Connection
from kombu.exceptions import OperationalError
from kombu.messaging import Producer

from mainstem_shared import errors
from mainstem_shared.coordination.outbox import ParentTasks
from mainstem_shared.store import endpoints
from mainstem_tasks.celery_support import broker_failures

T = TypeVar("T")

GENERATE: Final = "mainstem.generate"
"""The task that executes one segment of a run."""
RUN_HEADER: Final = "mainstem_run_id"
"""The header of every message about a run: Celery's signals have it as `request.mainstem_run_id`."""
QUEUE: Final = "celery"
TIMEOUT_S: Final = 2.0
"""Longest wait for the broker: a start answers its caller within a breath, the outbox delivers later."""

# For one socket operation: a frozen broker costs a thread this much, and once more to reconnect.
_SOCKET_TIMEOUT_S: Final = 0.9
_PROBE: Final = "mainstem.ready"
_PROBE_S: Final = 1.0
_GOODBYE_S: Final = 0.1  # closing a connection must not wait for a broker that does not answer
_THREADS: Final = 4  # a publish takes half a millisecond; more threads would only wait for the interpreter
_ONE_RETRY: Final = {"max_retries": 1, "interval_start": 0, "interval_step": 0.05, "interval_max": 0.1}


class CeleryPublisher:
    """Publishes messages for runs. Safe to share between threads and loops, and to carry over a fork.

    Every call ends within TIMEOUT_S. Connections and threads are made on first use.
    """

    def __init__(
        self,
        broker_url: str,
        *,
        queue: str = QUEUE,
        engine_queues: Mapping[str, str] | None = None,
        transport_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Prepare it. `queue` is for runs of engines that `engine_queues` gives none of their own."""
        self.broker_url = broker_url
        self.queue = queue
        self._engine_queues = dict(engine_queues or {})
        self._transport_options = dict(transport_options or {})
        self._lock = threading.Lock()
        self._sender: _Sender | None = None
        _publishers.add(self)

    def publish(self, run_id: str, *, user_id: str, engine: str, parents: ParentTasks | None = None) -> str:
        """Publish a message that makes some worker claim the run; returns its task id, a new one each time.

        Raises:
            BrokerUnavailable: the broker did not take it in time. It may still arrive, which does no harm.
        """
        return self._wait(self._submit(self._send, run_id, user_id, engine, parents))

    async def apublish(
        self, run_id: str, *, user_id: str, engine: str, parents: ParentTasks | None = None
    ) -> str:
        """Do the same without blocking the loop."""
        return await self._await(self._submit(self._send, run_id, user_id, engine, parents))

    async def acall(
        self, task: str, *, event: dict[str, Any], task_id: str, queue: str | None, run_id: str
    ) -> None:
        """Publish a message for a task of the user's own, with `event` as its argument; repeats have one id.

        Raises:
            BrokerUnavailable: the broker did not take it in time. It may still arrive.
        """
        message = {
            "name": task,
            "kwargs": {"event": event},
            "task_id": task_id,
            "queue": queue or self.queue,
            "argsrepr": task_id,
            "kwargsrepr": repr({"type": event["type"]}),
            "headers": {RUN_HEADER: run_id},
        }
        await self._await(self._submit(_send_message, message))

    def revoke(self, task_id: str, *, terminate: bool = True) -> None:
        """Tell all workers to drop a task's message and, with `terminate`, to cancel the task if it runs.

        Nobody answers, and an unavailable worker never gets it: the durable intent must stand before.

        Raises:
            BrokerUnavailable: the broker did not take it in time.
        """
        self._wait(self._submit(_revoke, task_id, terminate))

    async def arevoke(self, task_id: str, *, terminate: bool = True) -> None:
        """Do the same without blocking the loop."""
        await self._await(self._submit(_revoke, task_id, terminate))

    def ping(self) -> None:
        """Prove that the broker takes messages: one is written that nobody gets.

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

    def _send(
        self, sender: _Sender, run_id: str, user_id: str, engine: str, parents: ParentTasks | None
    ) -> str:
        # A fresh id per message: workers drop, for hours, every message whose id was once revoked.
        task_id = str(uuid.uuid4())
        sender.app.send_task(
            GENERATE,
            producer=sender.producer,
            kwargs={"run_id": run_id},
            task_id=task_id,
            queue=self._engine_queues.get(engine, self.queue),
            argsrepr=run_id,  # what Flower shows and searches: in two columns, one would be cut off
            kwargsrepr=repr({"user": user_id, "engine": engine}),
            headers={RUN_HEADER: run_id},
            root_id=parents and parents.root,
            parent_id=parents and parents.parent,
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
        broker = endpoints.celery_broker(broker_url)
        self.app = Celery(set_as_current=False, broker=broker.url)
        self.app.conf.update(
            broker_connection_timeout=_SOCKET_TIMEOUT_S,
            broker_use_ssl=broker.use_ssl,
            broker_transport_options={
                **_ONE_RETRY,
                **_socket_options(broker_url),
                **_sentinel_options(broker.transport_options),
                **transport_options,
            },
            task_publish_retry_policy=_ONE_RETRY,
            task_send_sent_event=True,  # Flower shows queued runs
            task_ignore_result=True,
        )
        self.app.control.mailbox.producer_pool = None
        self._broker = self.app.connection_for_write()  # never opened: it knows its transport's failures
        self._threads = ThreadPoolExecutor(_THREADS, "mainstem-dispatch")
        # A connection per thread, not Celery's pool: kombu has one for the whole process, and its size
        # belongs to the application that we are a guest in.
        self._local = threading.local()
        self._connections: list[Connection] = []

    @property
    def producer(self) -> Producer:
        """The calling thread's producer."""
        if getattr(self._local, "producer", None) is None:
            connection = self.app.connection_for_write()
            self._connections.append(connection)
            self._local.producer = self.app.amqp.Producer(connection, auto_declare=False)
        return self._local.producer

    @property
    def connection(self) -> Connection:
        """The calling thread's connection."""
        return cast("Connection", self.producer.connection)

    def submit(self, operation: Callable[..., T], *args: Any) -> Future[T]:
        # The caller's context goes along: instrumentation puts its trace into the message's headers.
        return self._threads.submit(contextvars.copy_context().run, self._do, operation, *args)

    def _do(self, operation: Callable[..., T], *args: Any) -> T:
        try:
            return operation(self, *args)
        except Exception as error:  # whatever it was: the next call of this thread connects anew
            self._forget_connection()
            if _is_closed_channel(error):
                raise OperationalError("the broker's connection was lost") from error
            if isinstance(error, broker_failures.of(self._broker)):
                raise OperationalError(str(error)) from error
            raise

    def _forget_connection(self) -> None:
        producer, self._local.producer = getattr(self._local, "producer", None), None
        if producer is not None:
            connection = cast("Connection", producer.connection)
            self._connections.remove(connection)
            connection.collect(socket_timeout=_GOODBYE_S)

    def close(self) -> None:
        self._threads.shutdown(wait=True)  # calls nobody waits for any more are cancelled already
        for connection in self._connections:
            connection.collect(socket_timeout=_GOODBYE_S)
        self.app.close()


_FAILURES: Final = (OperationalError, OSError, TimeoutError, concurrent.futures.CancelledError)


def _is_closed_channel(error: Exception) -> bool:
    """Whether kombu fell over a channel that it had closed itself when its connection was lost."""
    if not isinstance(error, AttributeError) or error.obj is not None:
        return False
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals.get("__name__", "").startswith("kombu.")


def _socket_options(broker_url: str) -> dict[str, Any]:
    if broker_url.startswith(("amqp", "pyamqp")):
        return {
            "read_timeout": _SOCKET_TIMEOUT_S,
            "write_timeout": _SOCKET_TIMEOUT_S,
            "confirm_publish": True,  # "published" means that the broker has it
        }
    return {"socket_timeout": _SOCKET_TIMEOUT_S, "socket_connect_timeout": _SOCKET_TIMEOUT_S}


def _sentinel_options(options: dict[str, Any]) -> dict[str, Any]:
    """Bound the waits for Sentinels too: kombu passes its own bounds on to the servers only."""
    if "sentinel_kwargs" not in options:
        return options
    bounds = {"socket_timeout": _SOCKET_TIMEOUT_S / 3, "socket_connect_timeout": _SOCKET_TIMEOUT_S / 3}
    return {**options, "sentinel_kwargs": {**bounds, **options["sentinel_kwargs"]}}


def _revoke(sender: _Sender, task_id: str, terminate: bool) -> None:  # noqa: FBT001 - passed through an executor
    # No reply queue: mailboxes of dead askers would stay in the broker for ever.
    sender.app.control.revoke(task_id, terminate=terminate, reply=False, connection=sender.connection)


def _send_message(sender: _Sender, message: dict[str, Any]) -> None:
    sender.app.send_task(producer=sender.producer, **message)


def _ping(sender: _Sender) -> None:
    """Publish as a start does, to a queue that nobody has: an AMQP broker confirms, and drops it.

    All probes use one name: what a process leaves in Redis that dies in between, the next probe takes away.
    """
    sender.producer.publish({}, routing_key=_PROBE, exchange="", expiration=_PROBE_S)
    if sender.connection.transport.driver_type == "redis":  # where publishing makes the queue
        sender.producer.channel.queue_purge(_PROBE)


_publishers: weakref.WeakSet[CeleryPublisher] = weakref.WeakSet()
_parents: list[_Sender] = []
"""Kept for ever in a forked child: collecting them could write a goodbye into the parent's sockets."""


def _after_fork() -> None:
    for publisher in list(_publishers):
        publisher.after_fork()


os.register_at_fork(after_in_child=_after_fork)
