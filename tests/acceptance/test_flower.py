"""Flower beside live workers: what operators read about runs, over its HTTP API and in its pages."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from clients import client
from mainstem_api.cli.processes import TASKS_COLUMNS
from processes import Child
from requiring import require
from servers import free_port
from waiting import wait_until, wait_until_async

ENDLESS = {"tokens": 100_000, "interval_ms": 5}
GENERATE = "mainstem.generate"


class Flower:
    """A Flower process and its HTTP API."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.http = httpx.Client(base_url=self.url, trust_env=False, timeout=20)

    def tasks(self, **query: Any) -> list[dict[str, Any]]:
        answer = self.http.get("/api/tasks", params={"limit": 100, **query})
        answer.raise_for_status()
        return list(answer.json().values())

    def task_of(self, run_id: str, state: str) -> dict[str, Any]:
        """Wait until Flower shows a run's task in this state."""

        def shown() -> dict[str, Any] | None:
            found = [task for task in self.tasks() if run_id in (task["kwargs"] or "")]
            return next((task for task in found if task["state"] == state), None)

        return wait_until(shown, description=f"{run_id} as {state}: {self.tasks()}", timeout_s=20)


@pytest.fixture
def flower(live) -> Iterator[Flower]:
    port = free_port()
    command = ("-m", "celery", f"--broker={live.env['MAINSTEM_BROKER_URL']}", "flower")
    env = {"FLOWER_UNAUTHENTICATED_API": "true", "FLOWER_TASKS_COLUMNS": TASKS_COLUMNS}
    options = ("--address=127.0.0.1", f"--port={port}")
    process = live.stack.enter_context(Child("flower", *command, *options, env=env, directory=live.directory))
    flower = Flower(port)

    def listens() -> bool:
        assert process.running, process.log
        try:
            # Its page answers before it listens for events: one sent in between would never show.
            with live.broker.client(1) as broker:
                hears = broker.pubsub_numpat() > 0
            return hears and flower.http.get("/healthcheck").status_code == 200
        except httpx.TransportError:
            return False

    with flower.http:
        wait_until(listens, description="Flower to listen", timeout_s=40)
        yield flower


async def test_runs_in_flower(live, flower, tmp_path):
    """Runs are found by run id, user and engine; queued ones show; states and runtimes are the run's."""
    async with client(live) as runs:
        queued = await runs.start("queued", "demo", {"tokens": 30, "interval_ms": 5}, user_id="ada")
        task = flower.task_of(queued.run_id, "PENDING")
        assert task["name"] == GENERATE
        assert "'user': 'ada'" in task["kwargs"]
        assert "'engine': 'demo'" in task["kwargs"]

        worker = live.worker()
        done = flower.task_of(queued.run_id, "SUCCESS")
        assert done["uuid"] == task["uuid"]
        assert done["runtime"] > 0.1
        assert "completed" in done["result"]

        failing = await runs.start("failing", "demo", {"tokens": 3, "interval_ms": 0, "fail_at": 1})
        failed = flower.task_of(failing.run_id, "FAILURE")
        assert "engine_error" in failed["exception"]

        aborting = await runs.start("aborting", "demo", ENDLESS)

        async def streams() -> bool:
            return bool((await runs.get(aborting.run_id)).content)

        await wait_until_async(streams, description="the run to stream", timeout_s=20)
        assert flower.task_of(aborting.run_id, "STARTED")["worker"] is not None
        await runs.abort(aborting.run_id, wait=10)
        aborted = flower.task_of(aborting.run_id, "ABORTED")
        assert aborted["runtime"] > 0

        revoked = await runs.start("revoked", "demo", ENDLESS)
        at_work = flower.task_of(revoked.run_id, "STARTED")
        flower.http.post(
            f"/api/task/revoke/{at_work['uuid']}", params={"terminate": "true"}
        ).raise_for_status()
        ended = await runs.wait(revoked.run_id, 20)
        assert (ended.status, ended.reason) == ("aborted", "user_abort")
        flower.task_of(revoked.run_id, "ABORTED")

        paused = await runs.start("paused", "demo", {"tokens": 5, "interval_ms": 0, "approve_at": [2]})
        assert flower.task_of(paused.run_id, "PAUSED")["runtime"] > 0

        assert [task["state"] for task in flower.tasks(state="ABORTED")] == ["ABORTED"] * 2
        assert [task["kwargs"] for task in flower.tasks(search="ada")] == [task["kwargs"]]
        assert {task["state"] for task in flower.tasks(search=paused.run_id)} == {"PAUSED"}
        assert "Traceback" not in worker.log.partition("engine failed")[0]
    take_picture(flower, tmp_path)


def take_picture(flower: Flower, directory: Path) -> None:
    """Open the task list in a browser. MAINSTEM_PICTURES names a directory to keep it in (docs/images)."""
    chromium = shutil.which("chromium")
    require(chromium, "chromium")
    picture = Path(os.environ.get("MAINSTEM_PICTURES") or directory).absolute() / "flower-tasks.png"
    subprocess.run(
        [
            str(chromium), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={directory / 'chromium'}", "--window-size=1500,640", "--hide-scrollbars",
            "--virtual-time-budget=8000", f"--screenshot={picture}", f"{flower.url}/tasks",
        ],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    assert picture.stat().st_size > 10_000
