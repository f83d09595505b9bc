"""Celery projects as users have them: a module with an app, run by `celery -A`. Source, and the worker process."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from support.processes.processes import Child
from support.waiting import wait_until

PROJECT = """
import os
from celery import Celery
from mainstem_tasks import engine
from mainstem_workers import install

app = Celery("proj", broker=os.environ["MAINSTEM_BROKER_URL"])
app.conf.update({settings})
install(app)


@app.task
def note(path, text):
    with open(path, "a") as file:
        file.write(text)


@engine("greet")
async def greet(run):
    for word in ("Hello,", " ", run.input["name"]):
        await run.text(word)
"""


class Project:
    """A project in a directory of its own, and its workers on a live system (`conftest.Live`)."""

    def __init__(self, system: Any, directory: Path, **settings: Any) -> None:
        self.system = system
        self.directory = directory
        directory.mkdir(exist_ok=True)
        (directory / "proj.py").write_text(PROJECT.replace("{settings}", repr(settings)))

    def worker(self, *options: str, name: str = "proj", ready: bool = True, **env: str) -> Child:
        """Start `celery -A proj worker`; on the asyncio pool unless the options name another."""
        pool = () if "--pool" in options else ("--pool", "custom", "-c", "100")
        child = Child(
            name,
            *("-m", "celery", "-A", "proj", "worker", "-l", "INFO", "-n", f"{name}@test"),
            *("--without-mingle", "--without-gossip", *pool, *options),
            env={
                "CELERY_CUSTOM_WORKER_POOL": "mainstem_workers.pool:TaskPool",
                **self.system.env,
                **env,
            },
            directory=self.directory,
        )
        self.system.stack.enter_context(child)
        if ready:
            wait_until(lambda: _is_ready(child), description=f"{name} to be ready", timeout_s=40)
        return child

    def send(self, task: str, *args: Any, **options: Any) -> str:
        """Send a task as any program that has only Celery does; returns its id."""
        from celery import Celery

        app = Celery(set_as_current=False, broker=self.system.env["MAINSTEM_BROKER_URL"])
        with contextlib.closing(app):
            return app.send_task(task, args, ignore_result=True, **options).id


def _is_ready(child: Child) -> bool:
    assert child.running, f"the worker ended:\n{child.log[-3000:]}"
    return "@test ready" in child.log
