"""Flower beside a live worker: what operators read about runs, over its HTTP API and in its pages.

One Flower, started as `mainstem flower` with a password, and one worker for all tests of this module.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from celery import Celery

from mainstem_api import Runs
from mainstem_shared.settings import Settings
from support.processes import topologies
from support.processes.processes import Child, worker
from support.processes.servers import ValkeyProcess, free_port
from support.requiring import require
from support.waiting import wait_until

ENDLESS = {"tokens": 100_000, "interval_ms": 5}
GENERATE = "mainstem.generate"
USER, PASSWORD = "admin", "secret"
NODE = "worker@test"


class Watched:
    """A system under Flower's eyes: its worker, a client, a plain Celery app, and Flower's HTTP API."""

    def __init__(self, valkey: ValkeyProcess, directory: Path) -> None:
        self.directory = directory
        self.address = f"127.0.0.1:{free_port()}"
        self.env = {"MAINSTEM_REDIS_URL": valkey.url(0), "MAINSTEM_BROKER_URL": valkey.url(1)}
        self.valkey = valkey
        self.worker = worker(self.env, directory)
        self.runs = Runs(Settings(redis_url=valkey.url(0), broker_url=valkey.url(1)))
        self.app = Celery(set_as_current=False, broker=valkey.url(1))
        self.http = httpx.Client(
            base_url=f"http://{self.address}", trust_env=False, timeout=20, auth=(USER, PASSWORD)
        )

    def flower(self) -> Child:
        program = "from mainstem_api.cli import main; main()"
        env = {**self.env, "FLOWER_BASIC_AUTH": f"{USER}:{PASSWORD}"}
        port = self.address.partition(":")[2]
        return Child("flower", "-c", program, "flower", "--port", port, env=env, directory=self.directory)

    def listens(self) -> bool:
        try:
            # Its page answers before it listens for events: one sent in between would never show.
            with self.valkey.client(1) as broker:
                hears = broker.pubsub_numpat() > 0
            return hears and self.http.get("/healthcheck").status_code == 200
        except httpx.TransportError:
            return False

    def start(self, thread: str, demo_input: dict[str, Any], **options: Any) -> str:
        return self.runs.start(thread, "demo", demo_input, **options).run_id

    def streaming(self, thread: str, *, words: int = 1, **options: Any) -> str:
        """Start an endless run and wait until it has said so many words."""
        run_id = self.start(thread, ENDLESS, **options)
        wait_until(
            lambda: len(self.runs.get(run_id).text.split()) >= words,
            description="the run to stream",
            timeout_s=30,
        )
        return run_id

    def tasks(self, **query: Any) -> list[dict[str, Any]]:
        answer = self.http.get("/api/tasks", params={"limit": 100, **query})
        answer.raise_for_status()
        return list(answer.json().values())

    def task_of(self, run_id: str, state: str) -> dict[str, Any]:
        """Wait until Flower shows a run's task in this state."""

        def shown() -> dict[str, Any] | None:
            found = [task for task in self.tasks() if run_id in (task["args"] or "")]
            return next((task for task in found if task["state"] == state), None)

        return wait_until(shown, description=f"{run_id} as {state}: {self.tasks()}", timeout_s=30)

    def deaf(self, *, deaf: bool) -> None:
        """Have the worker take no messages for runs, or take them again."""
        change = self.app.control.cancel_consumer if deaf else self.app.control.add_consumer
        assert change("celery", destination=[NODE], reply=True, timeout=10)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, valkey_binary: Path) -> Iterator[Watched]:
    directory = tmp_path_factory.mktemp("watched")
    with topologies.store(directory / "valkey") as valkey:
        system = Watched(valkey, directory)
        with system.http, system.runs, system.app, system.flower() as flower:
            wait_until(lambda: system.listens() or not flower.running, description="Flower", timeout_s=60)
            assert flower.running, flower.log
            with system.worker as child:
                wait_until(lambda: "@test ready" in child.log, description="the worker", timeout_s=60)
                yield system


def test_runs_are_found(watched):
    """By run id, user and engine, alone or together; each shows them in its arguments."""
    run_id = watched.start("found", {"tokens": 30, "interval_ms": 5}, user_id="ada")
    task = watched.task_of(run_id, "SUCCESS")
    assert task["name"] == GENERATE
    assert run_id in task["args"]
    assert "'user': 'ada'" in task["kwargs"]
    assert "'engine': 'demo'" in task["kwargs"]
    assert task["runtime"] > 0.1
    assert "completed" in task["result"]
    for query in ("ada", run_id, "kwargs:user=ada", f"kwargs:engine=demo {run_id}", "state:SUCCESS ada"):
        assert [found["uuid"] for found in watched.tasks(search=query)] == [task["uuid"]], query
    assert not watched.tasks(search="kwargs:user=bob")


def test_queued_runs_show(watched):
    """Before a worker has taken them, as PENDING; one that is aborted meanwhile never looks successful."""
    watched.deaf(deaf=True)
    run_id = watched.start("queued", {"tokens": 1})
    task = watched.task_of(run_id, "PENDING")
    aborted = watched.start("queued, aborted", {"tokens": 1})
    watched.task_of(aborted, "PENDING")
    watched.runs.abort(aborted, wait=10)
    watched.deaf(deaf=False)
    assert watched.task_of(run_id, "SUCCESS")["uuid"] == task["uuid"]
    watched.task_of(aborted, "REVOKED")


def test_failures_show(watched):
    """A run that failed is a FAILURE, and says why."""
    run_id = watched.start("failing", {"tokens": 3, "interval_ms": 0, "fail_at": 1})
    assert "engine_error" in watched.task_of(run_id, "FAILURE")["exception"]


def test_aborted_runs_show(watched):
    """As ABORTED, with the engine's runtime: aborted by us, or with Flower's own Terminate."""
    run_id = watched.streaming("aborting")
    assert watched.task_of(run_id, "STARTED")["worker"] == NODE
    watched.runs.abort(run_id, wait=10)
    assert watched.task_of(run_id, "ABORTED")["runtime"] > 0

    run_id = watched.streaming("terminated")
    task = watched.task_of(run_id, "STARTED")
    watched.http.post(f"/api/task/revoke/{task['uuid']}", params={"terminate": "true"}).raise_for_status()
    ended = watched.runs.wait(run_id, 20)
    assert (ended.status, ended.reason) == ("aborted", "user_abort")
    watched.task_of(run_id, "ABORTED")
    assert {task["state"] for task in watched.tasks(state="ABORTED")} == {"ABORTED"}


def test_an_abort_that_no_worker_heard_of(watched):
    """A message that comes to a worker after its run was aborted is ABORTED too, not a success."""
    watched.deaf(deaf=True)
    run_id = watched.start("unheard", {"tokens": 1})
    task = watched.task_of(run_id, "PENDING")
    with watched.valkey.client(1) as broker:
        [message] = [raw for raw in broker.lrange("celery", 0, -1) if task["uuid"] in raw]
        watched.runs.abort(run_id, wait=10)
        # As the outbox does for a message that seems lost: under a task id that nobody has revoked.
        broker.rpush("celery", message.replace(task["uuid"], str(uuid.uuid4())))
    watched.deaf(deaf=False)
    watched.task_of(run_id, "ABORTED")


def test_pauses_show_and_continuations_link_to_their_start(watched):
    """A paused run is PAUSED; each continuation has the first task as its root, the one before as its parent."""
    run_id = watched.start("paused", {"tokens": 5, "interval_ms": 0, "approve_at": [1, 3]})
    first = watched.task_of(run_id, "PAUSED")
    assert first["runtime"] > 0
    assert (first["root_id"], first["parent_id"]) == (first["uuid"], None)

    approve(watched.runs, run_id)
    second = wait_until(
        lambda: next((task for task in watched.tasks(search="state:PAUSED") if task["parent_id"]), None),
        description="the continuation",
        timeout_s=30,
    )
    assert (second["root_id"], second["parent_id"]) == (first["uuid"], first["uuid"])
    approve(watched.runs, run_id)
    third = watched.task_of(run_id, "SUCCESS")
    assert (third["root_id"], third["parent_id"]) == (first["uuid"], second["uuid"])
    assert {task["uuid"] for task in watched.tasks(search=run_id)} == {
        task["uuid"] for task in (first, second, third)
    }


def approve(runs: Runs, run_id: str) -> None:
    action = wait_until(lambda: runs.get(run_id).action, description="an action", timeout_s=30)
    decisions = [{"call_id": call["call_id"], "type": "approve"} for call in action["calls"]]
    runs.resume(run_id, action["action_id"], decisions=decisions)


def test_what_plain_celery_submits_links_to_its_submit(watched):
    """The run's task has `mainstem.submit`'s as its root and parent."""
    kwargs = {"thread_id": "plain", "engine": "demo", "input": {"tokens": 1}, "user_id": "grace"}
    submitted = watched.app.send_task("mainstem.submit", kwargs=kwargs, ignore_result=True)
    done = wait_until(
        lambda: watched.tasks(search="kwargs:user=grace state:SUCCESS"), description="the run", timeout_s=30
    )
    assert [(task["root_id"], task["parent_id"]) for task in done] == [(submitted.id, submitted.id)]


def test_only_the_health_check_needs_no_password(watched):
    """Flower by itself leaves /metrics open to everybody; started by us it asks."""
    statuses = {
        path: httpx.get(f"http://{watched.address}{path}", trust_env=False, timeout=20).status_code
        for path in ("/metrics", "/api/tasks", "/tasks", "/healthcheck")
    }
    assert statuses == {"/metrics": 401, "/api/tasks": 401, "/tasks": 401, "/healthcheck": 200}
    assert "flower_events_total" in watched.http.get("/metrics").text


def test_pictures(watched, tmp_path):
    """The task list, and the pages of a paused and of an aborted run, open in a browser."""
    chromium = shutil.which("chromium")
    require(chromium, "chromium")
    paused = watched.start(
        "pictured, paused", {"tokens": 60, "interval_ms": 10, "approve_at": [50]}, user_id="ada"
    )
    paused = watched.task_of(paused, "PAUSED")
    aborted = watched.streaming("pictured, aborted", words=100, user_id="grace")
    watched.runs.abort(aborted, wait=10)
    aborted = watched.task_of(aborted, "ABORTED")
    watched.deaf(deaf=True)
    watched.task_of(watched.start("waiting", {"tokens": 1}, user_id="bob"), "PENDING")
    take_picture(watched, tmp_path, "flower-tasks", "tasks", "1900,1030")
    take_picture(watched, tmp_path, "flower-paused", f"task/{paused['uuid']}", "1200,1330")
    take_picture(watched, tmp_path, "flower-aborted", f"task/{aborted['uuid']}", "1200,1330")
    watched.deaf(deaf=False)


def take_picture(watched: Watched, directory: Path, name: str, path: str, size: str) -> None:
    """Open a page in a browser. MAINSTEM_PICTURES names a directory to keep the picture in (docs/images)."""
    picture = Path(os.environ.get("MAINSTEM_PICTURES") or directory).absolute() / f"{name}.png"
    subprocess.run(
        [
            "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={directory / 'chromium'}", f"--window-size={size}", "--hide-scrollbars",
            "--virtual-time-budget=8000", f"--screenshot={picture}",
            f"http://{USER}:{PASSWORD}@{watched.address}/{path}",
        ],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    assert picture.stat().st_size > 10_000
