"""RabbitMQ as the broker, Valkey as the store: runs, aborts, pauses and the outbox work as on one Valkey.

Optional, because it needs Debian's rabbitmq-server: `make rabbitmq`. One server and one worker for all tests.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from amqp import PreconditionFailed
from celery import Celery
from kombu import Connection

from mainstem_api import Runs
from mainstem_shared import errors
from mainstem_shared.model import ids
from mainstem_shared.settings import Settings
from support.engines.demowords import demo_text
from support.processes.processes import Child, worker
from support.processes.rabbitmq import RabbitProcess, required
from support.processes.servers import ValkeyProcess
from support.waiting import wait_until

ENDLESS = {"tokens": 100_000, "interval_ms": 5}
QUICK = {"MAINSTEM_LEASE_S": "2", "MAINSTEM_SWEEP_S": "1"}
PATIENCE_S = 60


class System:
    """Store, broker, a client and the workers that a test starts."""

    def __init__(self, store: ValkeyProcess, broker: RabbitProcess, directory: Path) -> None:
        self.broker = broker
        self.settings = Settings(redis_url=store.url(0), broker_url=broker.url, lease_s=2, sweep_s=1)
        self.env = {"MAINSTEM_REDIS_URL": store.url(0), "MAINSTEM_BROKER_URL": broker.url, **QUICK}
        self.directory = directory
        self.stack = contextlib.ExitStack()
        self.runs = self.stack.enter_context(Runs(self.settings))
        self.app = self.stack.enter_context(Celery(set_as_current=False, broker=broker.url))

    def worker(self, name: str, *options: str) -> Child:
        child = self.stack.enter_context(worker(self.env, self.directory, name, *options))
        wait_until(
            lambda: "@test ready" in child.log or not child.running, description=name, timeout_s=PATIENCE_S
        )
        assert child.running, child.log
        return child

    def finished(self, run_id: str) -> str:
        run = self.runs.wait(run_id, PATIENCE_S)
        assert run.status == "succeeded", run
        return run.text

    def streaming(self, thread: str) -> str:
        run_id = self.runs.start(thread, "demo", ENDLESS).run_id
        wait_until(lambda: self.runs.get(run_id).text, description="the run to stream", timeout_s=PATIENCE_S)
        return run_id


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, valkey_binary: Path) -> Iterator[System]:
    required()
    directory = tmp_path_factory.mktemp("rabbitmq")
    with RabbitProcess(directory / "broker") as broker, ValkeyProcess(directory / "store") as store:
        system = System(store, broker, directory)
        with system.stack:
            system.worker("first")
            yield system


def test_runs_are_executed_side_by_side(system):
    """A hundred runs stream at once on one worker, each to its end."""
    started = [
        system.runs.start(f"thread {number}", "demo", {"tokens": 20, "interval_ms": 10}).run_id
        for number in range(100)
    ]
    assert {system.finished(run_id) for run_id in started} == {demo_text(20)}


def test_a_running_run_is_aborted(system):
    """By its id, and with Celery's own terminate; what was written is kept."""
    run_id = system.streaming("aborted")
    answer = system.runs.abort(run_id, wait=20)
    assert (answer.outcome, answer.run.reason) == ("aborted", "user_abort")
    assert demo_text(ENDLESS["tokens"]).startswith(answer.run.text)

    run_id = system.streaming("terminated")
    [active] = system.app.control.inspect(["first@test"], timeout=20, limit=1).active()["first@test"]
    system.app.control.revoke(active["id"], terminate=True)
    ended = system.runs.wait(run_id, PATIENCE_S)
    assert (ended.status, ended.reason) == ("aborted", "user_abort")


def test_a_paused_run_goes_on(system):
    """A run waits for a human without a task, and ends in a task of its own after the decision."""
    run_id = system.runs.start("paused", "demo", {"tokens": 5, "interval_ms": 0, "approve_at": [2]}).run_id
    action = wait_until(
        lambda: system.runs.get(run_id).action, description="the action", timeout_s=PATIENCE_S
    )
    decisions = [{"call_id": call["call_id"], "type": "approve"} for call in action["calls"]]
    system.runs.resume(run_id, action["action_id"], decisions=decisions)
    assert system.finished(run_id) == demo_text(5)


def test_plain_celery_submits(system):
    """`send_task("mainstem.submit")` from a program that has only Celery."""
    task_id = uuid.uuid4()
    kwargs = {"thread_id": "plain", "engine": "demo", "input": {"tokens": 3}, "user_id": "u"}
    system.app.send_task("mainstem.submit", kwargs=kwargs, task_id=str(task_id), ignore_result=True)
    run_id = ids.run_id("default", "plain", task_id)

    def known() -> bool:
        with contextlib.suppress(errors.NotFound):
            return bool(system.runs.get(run_id))
        return False

    wait_until(known, description="the run", timeout_s=PATIENCE_S)
    assert system.finished(run_id) == demo_text(3)


def test_a_dead_workers_run_is_recovered(system):
    """Its message was acknowledged; the lease tells that it is dead."""
    doomed = system.worker("doomed")
    # The first worker takes no more messages, so that this one has the run.
    system.app.control.cancel_consumer("celery", destination=["first@test"], reply=True, timeout=20)
    run_id = system.streaming("doomed")
    system.app.control.add_consumer("celery", destination=["first@test"], reply=True, timeout=20)
    doomed.sigkill()
    ended = system.runs.wait(run_id, PATIENCE_S)
    assert (ended.status, ended.reason) == ("failed", "worker_lost")
    assert ended.text


def test_the_outbox_delivers_what_the_broker_did_not_take(system):
    """With the broker away a start is accepted and a stream goes on; when it is back, the run runs: same worker."""
    streaming = system.streaming("through the outage")
    system.broker.stop()
    words = len(system.runs.get(streaming).text)
    waiting = system.runs.start("accepted", "demo", {"tokens": 3}).run_id
    assert system.runs.get(waiting).status == "queued"
    wait_until(
        lambda: len(system.runs.get(streaming).text) > words, description="the stream to go on", timeout_s=30
    )
    system.broker.start()
    assert system.finished(waiting) == demo_text(3)
    assert system.runs.abort(streaming, wait=20).outcome == "aborted"


REFUSALS = ("declared otherwise", "held by another connection", "without rights", "without its virtual host")


@contextlib.contextmanager
def refusing(system: System, kind: str, queue: str) -> Iterator[None]:
    """Have RabbitMQ refuse to take or give messages of `queue`: in the block, not after it."""
    match kind:
        case "declared otherwise":
            with declared(system, queue, arguments={"x-max-length": 5}):
                yield
        case "held by another connection":
            with declared(system, queue, exclusive=True):
                yield
        case "without rights":
            system.broker.control("set_permissions", "guest", "^$", "^$", "^$")
            yield
        case _:
            system.broker.control("delete_vhost", "/")
            yield
            system.broker.control("add_vhost", "/")
    system.broker.control("set_permissions", "guest", ".*", ".*", ".*")


@contextlib.contextmanager
def declared(system: System, queue: str, **options: Any) -> Iterator[None]:
    """A queue as somebody else has declared it."""
    with Connection(system.broker.url) as connection, connection.channel() as channel:
        channel.queue_declare(queue, durable=True, auto_delete=False, **options)
        yield
        channel.queue_delete(queue)


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_broker_that_refuses_delays_runs(system, kind):
    """PRECONDITION_FAILED, RESOURCE_LOCKED, ACCESS_REFUSED, NOT_FOUND: starts are accepted; the worker gets over it."""
    queue = f"refused {kind}"
    env = {**system.env, "MAINSTEM_QUEUE": queue}
    settings = system.settings.model_copy(update={"queue": queue})
    with Runs(settings) as runs, contextlib.ExitStack() as stack:
        with refusing(system, kind, queue):
            begun = runs.start(kind, "demo", {"tokens": 5, "interval_ms": 1}).run_id
            child = stack.enter_context(worker(env, system.directory, kind.replace(" ", "-"), "-Q", queue))
            wait_until(lambda: "ready for runs" in child.log, description=kind, timeout_s=PATIENCE_S)
            assert runs.get(begun).status == "queued"
            again = runs.start(f"{kind} again", "demo", {"tokens": 5, "interval_ms": 1}).run_id
            wait_until(
                lambda: child.log.count("Trying to re") > 1 or not child.running,
                description="the worker to try again",
                timeout_s=PATIENCE_S,
            )
            assert child.running, child.log[-3000:]
        for run_id in (begun, again):
            assert runs.wait(run_id, PATIENCE_S).text == demo_text(5)
        assert child.running


@pytest.mark.parametrize("kind", ["quorum", "declared"])
def test_the_runs_queue_may_be_replicated_or_somebody_elses(system, kind):
    """A quorum queue is declared as one; one that was declared with arguments of its own is taken as it is."""
    name = f"runs-{kind}"
    arguments = {"x-queue-type": "quorum"} | ({} if kind == "quorum" else {"x-max-length": 1000})
    if kind == "declared":
        _declare(system, name, arguments)
    child = system.stack.enter_context(
        worker(
            {**system.env, "MAINSTEM_QUEUE": name, "MAINSTEM_QUEUE_TYPE": kind},
            system.directory,
            f"of-{kind}",
        )
    )
    wait_until(lambda: "@test ready" in child.log, description="the worker", timeout_s=PATIENCE_S)
    with Runs(system.settings.model_copy(update={"queue": name})) as runs:
        started = runs.start(f"on {kind}", "demo", {"tokens": 20, "interval_ms": 1})
        run = runs.wait(started.run_id, PATIENCE_S)
    assert (run.status, run.text) == ("succeeded", demo_text(20))
    _declare(system, name, arguments)
    with pytest.raises(PreconditionFailed):
        _declare(system, name, {"x-queue-type": "classic"})
    child.stop()


def _declare(system: System, name: str, arguments: dict[str, Any]) -> None:
    with Connection(system.broker.url) as connection, connection.channel() as channel:
        channel.queue_declare(name, durable=True, auto_delete=False, arguments=arguments)
