"""Mainstem in Celery projects that were there before: `celery -A proj worker`, their tasks, their settings."""

from __future__ import annotations

import uuid

from celery import Celery

from mainstem_api import AsyncRuns
from mainstem_shared import errors
from mainstem_shared.model import ids
from mainstem_shared.settings import Settings
from support.clients.clients import client
from support.processes.projects import Project
from support.waiting import wait_until, wait_until_async

LATE = {"task_acks_late": True, "worker_prefetch_multiplier": 4, "task_time_limit": 300}


async def test_a_projects_own_tasks_and_engines_run_side_by_side(live, tmp_path):
    """One worker runs the project's task and a run of its engine; what its settings break is said at the start."""
    project = Project(live, tmp_path, **LATE, worker_disable_prefetch=False)
    worker = project.worker()
    assert "worker_disable_prefetch: This worker keeps runs waiting" in worker.log
    assert "time_limit" not in worker.log
    project.send("proj.note", str(tmp_path / "noted"), "done")
    wait_until((tmp_path / "noted").exists, description="the project's task to run")
    async with client(live) as runs:
        run = (await runs.start("thread", "greet", {"name": "you"})).run
        assert (await runs.wait(run.run_id, 20)).text == "Hello, you"


async def test_the_pool_may_stand_in_the_configuration(live, tmp_path):
    """With `worker_pool` set, plain `celery -A proj worker` needs neither option nor variable."""
    project = Project(live, tmp_path, worker_pool="mainstem_workers.pool:TaskPool")
    project.worker("--pool", "prefork", CELERY_CUSTOM_WORKER_POOL="")  # prefork is what no option means
    with Celery(set_as_current=False, broker=live.env["MAINSTEM_BROKER_URL"]) as app:
        [stats] = app.control.inspect(timeout=10, limit=1).stats().values()
    assert stats["pool"]["implementation"] == "mainstem_workers.pool.taskpool:TaskPool"


async def test_runs_have_a_queue_of_their_own(live, tmp_path):
    """With MAINSTEM_QUEUE only workers of that queue execute runs; others keep nothing for them, and submit still works."""
    queue = {"MAINSTEM_QUEUE": "llm"}
    project = Project(live, tmp_path)
    other = project.worker("--pool", "prefork", "-c", "1", "-Q", "celery", name="other", **queue)
    project.worker("-Q", "llm", name="runner", **queue)
    task_id = str(uuid.uuid4())
    kwargs = {"thread_id": "thread", "engine": "greet", "input": {"name": "you"}, "user_id": "u"}
    project.send("mainstem.submit", task_id=task_id, kwargs=kwargs)
    run_id = ids.run_id("default", "thread", uuid.UUID(task_id))
    settings = Settings(**live.settings().model_dump(include={"redis_url", "broker_url"}), queue="llm")

    async def known() -> bool:
        try:
            await runs.get(run_id)
        except errors.NotFound:
            return False
        return True

    async with AsyncRuns(settings) as runs:
        await wait_until_async(known, description="the run to be started", timeout_s=20)
        run = await runs.wait(run_id, 20)
    assert run.text == "Hello, you"
    assert "mainstem.generate" not in other.log.partition("@test ready")[2]
