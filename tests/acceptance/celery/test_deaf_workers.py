"""No deaf workers: whatever happens to the broker's connections, a worker consumes again by itself, or ends."""

from __future__ import annotations

import time

import pytest
from celery import Celery

from support.clients.clients import client, finished
from support.engines.demowords import demo_text
from support.processes.projects import Project
from support.waiting import wait_until

HEALTH_CHECK_S = 1


def kill(broker, kind: str) -> None:
    with broker.client() as connection:
        connection.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")


def pings(url: str) -> bool:
    """Whether the worker hears Celery's remote control, which needs its pub/sub connection."""
    with Celery(set_as_current=False, broker=url) as app, app.connection_for_write() as connection:
        app.control.mailbox.producer_pool = None  # kombu's pool may hold connections from before the accident
        return bool(app.control.ping(timeout=2, limit=1, connection=connection))


def restart(broker) -> None:
    broker.restart()


def crash(broker) -> None:
    broker.sigkill()
    broker.start()


def kill_pubsub(broker) -> None:
    kill(broker, "pubsub")


def kill_all(broker) -> None:
    kill(broker, "pubsub")
    kill(broker, "normal")


def idle(broker) -> None:
    """Leave the worker alone for longer than its connections' health-check interval."""
    begun = time.monotonic()
    wait_until(lambda: time.monotonic() - begun > 3 * HEALTH_CHECK_S, description="health checks to be due")


ACCIDENTS = (restart, crash, kill_pubsub, kill_all, idle)


@pytest.mark.parametrize("pool", ["custom", "prefork"])
async def test_a_worker_consumes_again(apart, tmp_path, pool):
    """After each accident runs are executed and remote control is heard, by the same worker process."""
    options = {"health_check_interval": HEALTH_CHECK_S}
    worker = Project(apart, tmp_path, broker_transport_options=options).worker("--pool", pool, "-c", "2")
    url = apart.env["MAINSTEM_BROKER_URL"]
    async with client(apart) as runs:
        for number, accident in enumerate(ACCIDENTS):
            accident(apart.broker)
            run = await finished(runs, f"thread {number}", {"tokens": 5, "interval_ms": 1}, timeout_s=40)
            assert run.text == demo_text(5), accident.__name__
            wait_until(lambda: pings(url), description=f"control after {accident.__name__}", timeout_s=20)
            assert worker.running, worker.log[-3000:]


LATE = """
import time

@app.task(acks_late=True)
def nap(path, seconds):
    open(path, "a").close()
    time.sleep(seconds)
"""


@pytest.mark.parametrize("pool", ["custom", "threads"])
async def test_a_message_not_yet_acknowledged_ends_no_worker(apart, tmp_path, pool):
    """Giving it back and acknowledging it fail on the lost connection, which Celery alone would take for fatal."""
    project = Project(apart, tmp_path)
    with (tmp_path / "proj.py").open("a") as module:
        module.write(LATE)
    worker = project.worker("--pool", pool, "-c", "2")
    began = tmp_path / "began"
    project.send("proj.nap", str(began), 2)
    wait_until(began.exists, description="the task to begin", timeout_s=20)
    apart.broker.sigkill()
    wait_until(
        lambda: "Trying to re-establish the connection" in worker.log or not worker.running,
        description="the worker to notice",
        timeout_s=20,
    )
    apart.broker.start()
    async with client(apart) as runs:
        run = await finished(runs, "thread", {"tokens": 5, "interval_ms": 1}, timeout_s=40)
    assert run.text == demo_text(5)
    assert worker.running, worker.log[-3000:]
