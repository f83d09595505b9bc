"""Lines of a run say which run they are of: in our worker, in an application's own, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mainstem_api import Runs
from mainstem_shared.settings import Settings
from support.processes import processes, topologies
from support.processes.processes import Child
from support.processes.servers import ValkeyProcess
from support.waiting import wait_until

SECRET = "zebra-crossing"
ENGINE = """
import asyncio, logging
from mainstem_tasks import engine

@engine("chatty")
async def chatty(run):
    logging.getLogger("somebody.else").warning("a line of a library")
    await asyncio.to_thread(logging.getLogger("threaded").warning, "a line of a thread")
    await run.text(str(run.input["text"]))
    raise RuntimeError("it broke")
"""
OWN_APP = """
from celery import Celery
import mainstem_workers
import chatty_engine
app = Celery("theirs", broker={broker!r})
app.conf.task_default_queue = "celery"
mainstem_workers.install(app)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, valkey_binary: Path) -> Iterator[ValkeyProcess]:
    with topologies.store(tmp_path_factory.mktemp("logs") / "valkey") as server:
        yield server


def worker(kind: str, server: ValkeyProcess, directory: Path) -> Child:
    (directory / "chatty_engine.py").write_text(ENGINE)
    (directory / "theirs.py").write_text(OWN_APP.format(broker=server.url(1)))
    env = {
        "MAINSTEM_REDIS_URL": server.url(0),
        "MAINSTEM_BROKER_URL": server.url(1),
        "MAINSTEM_ENGINES": "chatty_engine",
        "PYTHONPATH": str(directory),
    }
    if kind == "own app":
        options = ("-m", "celery", "-A", "theirs", "worker", "--pool", "threads", "-c", "2", "-l", "INFO")
        return Child("own", *options, "-n", "own@test", env=env, directory=directory)
    extra = {"MAINSTEM_LOG_FORMAT": "json"} if kind == "json" else {}
    return processes.worker({**env, **extra}, directory, "ours")


@pytest.mark.parametrize("kind", ["ours", "own app", "json"])
def test_every_line_of_a_run_names_it(server: ValkeyProcess, tmp_path: Path, kind: str):
    """A library's line, a thread's, and the engine's traceback have run, thread, user, engine and segment."""
    with ExitStack() as stack:
        child = stack.enter_context(worker(kind, server, tmp_path))
        runs = stack.enter_context(Runs(Settings(redis_url=server.url(0), broker_url=server.url(1))))
        wait_until(lambda: "ready for runs" in child.log, description="the worker", timeout_s=30)
        run = runs.start(f"t-{kind[:2]}", engine="chatty", user_id="ann", input={"text": SECRET})
        wait_until(lambda: runs.get(run.run_id).status.is_terminal, description="the run's end")
        wait_until(lambda: "\n" in child.log.partition("it broke")[2], description="the whole traceback")
    fields = {"run_id": run.run_id, "thread_id": f"t-{kind[:2]}", "user_id": "ann", "engine": "chatty"}
    for message in ("a line of a library", "a line of a thread", "the engine failed"):
        (line,) = (one for one in child.log.splitlines() if message in one)
        if kind == "json":
            told = json.loads(line)
            assert {name: told.get(name) for name in fields} == fields
            assert told["segment"] == 1
            assert told["level"] in {"WARNING", "ERROR"}
        else:
            assert all(f"{name}={value}" in line for name, value in fields.items()), line
            assert "segment=1" in line
    assert SECRET not in child.log
