"""Real workers on the asyncio pool: a broker of their own, a second server for what tasks note down."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, states
from celery.backends.redis import RedisBackend

from support.processes.servers import Guard, ValkeyProcess
from support.waiting import wait_until

HERE = Path(__file__).parent


class Sent:
    """A task sent to a worker. Polls its result: Celery's own subscribes to a server that may go away."""

    def __init__(self, worker: PoolWorker, task_id: str) -> None:
        self.id = task_id
        self._worker = worker

    def __str__(self) -> str:
        return self.id

    @property
    def meta(self) -> dict[str, Any]:
        backend = self._worker.results
        backend._cache.clear()
        return backend.get_task_meta(self.id)

    @property
    def state(self) -> str:
        return self.meta["status"]

    @property
    def result(self) -> Any:
        return self.meta["result"]

    def get(self, timeout: float = 60) -> Any:
        """The result, or the error, once there is one."""
        what = f"the result of {self.id}"
        wait_until(lambda: self.state in states.READY_STATES, description=what, timeout_s=timeout)
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result

    def revoke(self, **options: Any) -> None:
        # Only to its own worker: since Celery 5.7 another one, which does not know the task and finds no result yet,
        # writes REVOKED as its result.
        self._worker.app.control.revoke(self.id, destination=[self._worker.name], **options)


class PoolWorker:
    """A worker process running `poolapp`, and a client for it. Ends with the test, however that ends."""

    def __init__(self, broker: ValkeyProcess, journal: ValkeyProcess, directory: Path, name: str) -> None:
        self.name = f"{name}@test"
        self.broker = broker
        self.log_path = directory / f"{name}.log"
        self.env = {
            **os.environ,
            "CELERY_CUSTOM_WORKER_POOL": "mainstem_workers.pool:TaskPool",
            "POOLAPP_URL": broker.url(0),
            "POOLAPP_JOURNAL_URL": journal.url(0),
            "POOLAPP_QUEUE": name,
            "PYTHONPATH": str(HERE),
        }
        self.app = Celery("client", broker=broker.url(0), set_as_current=False)
        self.app.conf.task_default_queue = name
        self.results = RedisBackend(app=self.app, url=broker.url(0))
        self.journal_client = journal.client()
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: Guard | None = None

    def start(self, *options: str, **env: str) -> None:
        command = [sys.executable, "-m", "celery", "-A", "poolapp", "worker", "-n", self.name, "-l", "INFO"]
        command += ["--without-mingle", "--without-gossip"]  # a second less to start
        if "--pool" not in options:
            command += ["--pool", "custom"]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *options], env={**self.env, **env}, stdout=log, stderr=log, start_new_session=True
            )
        self._guard = Guard(self._process.pid)
        wait_until(
            lambda: " ready." in self.log or self.exited, description="the worker to be ready", timeout_s=60
        )
        assert not self.exited, self.log

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    @property
    def exited(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, timeout: float = 30) -> int:
        assert self._process is not None
        return self._process.wait(timeout)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._guard is not None:
            self._guard.dismiss()
        self._process = self._guard = None

    def close(self) -> None:
        self.stop()
        self.journal_client.close()
        self.results.client.close()
        self.app.close()

    # --- what tests do with it

    def send(self, task: str, *args: Any, **options: Any) -> Sent:
        return Sent(self, self.app.send_task(f"poolapp.{task}", args, **options).id)

    def sent(self, task_id: object) -> Sent:
        return Sent(self, str(task_id))

    def get(self, task: str, *args: Any, **options: Any) -> Any:
        return self.send(task, *args, **options).get(timeout=60)

    def signature(self, task: str, *args: Any, **options: Any) -> Any:
        return self.app.signature(f"poolapp.{task}", args, **options)

    def journal(self, key: object) -> list[str]:
        return self.journal_client.lrange(f"journal:{key}", 0, -1)

    def signals(self, key: object) -> list[str]:
        return self.journal_client.lrange(f"signals:{key}", 0, -1)

    def noted(self, key: object, *words: str, timeout_s: float = 10) -> list[str]:
        """Wait until the task has noted at least these words."""
        return wait_until(
            lambda: (found := self.journal(key)) if set(words) <= set(self.journal(key)) else None,
            description=f"{words} in the journal of {key}",
            timeout_s=timeout_s,
        )

    def inspect(self, what: str) -> Any:
        inspector = self.app.control.inspect([self.name], timeout=10, limit=1)
        return getattr(inspector, what)()[self.name]

    def fill_up(self, count: int) -> tuple[Sent, list[Sent]]:
        """Occupy a worker's only slot while `count` delayed tasks it has fetched already come to wait for it."""
        waiting = [self.send("nap", 0, countdown=1.5) for _ in range(count)]
        wait_until(lambda: len(self.inspect("scheduled")) == count, description="the tasks to be fetched")
        running = self.send("nap", 60)
        self.noted(running, "started")
        wait_until(
            lambda: self.inspect("stats")["pool"]["waiting"] == count, description="them to wait in the pool"
        )
        return running, waiting

    def hooks(self) -> list[str]:
        """What the worker's shutdown hooks have noted, in their order."""
        return self.journal(f"worker {self.app.conf.task_default_queue}")

    def unacknowledged(self) -> int:
        """How many messages of its queue are held unacknowledged."""
        with self.broker.client() as client:
            held = [json.loads(message) for message in client.hvals("unacked")]
        return [routing_key for _, _, routing_key in held].count(self.app.conf.task_default_queue)

    def queue_length(self) -> int:
        with self.broker.client() as client:
            return client.llen(self.app.conf.task_default_queue)


class EventLog:
    """Collects a broker's task events in a thread."""

    def __init__(self, app: Celery) -> None:
        self._events: list[dict[str, Any]] = []
        self._ready = threading.Event()
        self._connection = app.connection_for_read()
        self._receiver = app.events.Receiver(self._connection, handlers={"*": self._events.append})
        self._receiver.on_consume_ready = lambda *_args, **_kwargs: self._ready.set()
        self._thread = threading.Thread(target=self._run, name="event-log")
        self._thread.start()
        assert self._ready.wait(10)

    def _run(self) -> None:
        with self._connection:
            self._receiver.capture(wakeup=False)

    def stop(self) -> None:
        self._receiver.should_stop = True
        self._thread.join(10)

    def of(self, task_id: object) -> list[dict[str, Any]]:
        return [event for event in list(self._events) if event.get("uuid") == str(task_id)]

    def types(self, task_id: object) -> list[str]:
        """What was sent about a task, without what happened before it ran."""
        return [
            event["type"] for event in self.of(task_id) if event["type"] not in {"task-sent", "task-received"}
        ]

    def wait_for(self, task_id: object, kind: str) -> dict[str, Any]:
        return wait_until(
            lambda: next((event for event in self.of(task_id) if event["type"] == kind), None),
            description=f"the event {kind} of {task_id}",
        )


@pytest.fixture(scope="session")
def pool_broker(tmp_path_factory: pytest.TempPathFactory, valkey_binary: Path) -> Iterator[ValkeyProcess]:
    with ValkeyProcess(tmp_path_factory.mktemp("pool-broker")) as server:
        yield server


@pytest.fixture(scope="session")
def pool_journal(tmp_path_factory: pytest.TempPathFactory, valkey_binary: Path) -> Iterator[ValkeyProcess]:
    with ValkeyProcess(tmp_path_factory.mktemp("pool-journal")) as server:
        yield server


@pytest.fixture(scope="session")
def new_worker(
    pool_broker: ValkeyProcess, pool_journal: ValkeyProcess, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], PoolWorker]:
    """Make a worker, not started yet; whoever makes it closes it."""
    return lambda name: PoolWorker(pool_broker, pool_journal, tmp_path_factory.mktemp(name), name)


@pytest.fixture(scope="session")
def shared_worker(new_worker: Callable[[str], PoolWorker]) -> Iterator[PoolWorker]:
    """One worker with 1,000 slots and events on, for all tests that leave it running."""
    with contextlib.closing(new_worker("shared")) as worker:
        worker.start("-c", "1000", "-E")
        yield worker


@pytest.fixture(scope="session")
def events(shared_worker: PoolWorker) -> Iterator[EventLog]:
    log = EventLog(shared_worker.app)
    yield log
    log.stop()


@pytest.fixture(scope="module")
def make_workers(
    pool_broker: ValkeyProcess, pool_journal: ValkeyProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., PoolWorker]]:
    """Start workers, each on a queue of its own; from any thread."""
    started: list[PoolWorker] = []
    directory = tmp_path_factory.mktemp("own-workers")

    def make(*options: str, broker: ValkeyProcess | None = None, **env: str) -> PoolWorker:
        name = f"own-{uuid.uuid4().hex[:8]}"
        worker = PoolWorker(broker or pool_broker, pool_journal, directory, name)
        started.append(worker)
        worker.start(*options, **env)
        return worker

    yield make
    for worker in started:
        worker.close()


@pytest.fixture
def make_worker(make_workers: Callable[..., PoolWorker]) -> Iterator[Callable[..., PoolWorker]]:
    """Start a worker of this test's own, which ends with it."""
    with contextlib.ExitStack() as stack:
        yield lambda *options, **more: stack.enter_context(contextlib.closing(make_workers(*options, **more)))
