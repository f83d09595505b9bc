"""`mainstem[testing]` as a user has it: a test suite of their own, run by pytest in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

ENGINES = """
from mainstem_tasks import engine

@engine("greet")
async def greet(run):
    await run.text("Hello, " + run.input["name"])
"""
CONFTEST = """
import pytest

pytest_plugins = ["mainstem_workers.testing"]

@pytest.fixture(scope="session")
def mainstem_env():
    return {"MAINSTEM_ENGINES": "my_engines"}
"""
TESTS = '''
def test_my_engine(mainstem):
    assert mainstem.run("greet", {"name": "you"}).text == "Hello, you"


def test_my_engine_survives_a_restart_of_its_worker(celery_setup):
    """pytest-celery's own setup, nodes and waits, on processes."""
    from celery import Celery

    worker, broker = celery_setup.worker, celery_setup.broker
    assert celery_setup.ready(control=True, docker=True)
    worker.wait_for_log("ready for runs")
    worker.restart(force=True)
    assert worker.logs().count(" ready.") == 2
    assert celery_setup.app.control.ping(timeout=5, limit=1)
    worker.kill()
    assert worker.container.status == "exited"
    broker.restart()
    worker.restart()
    assert worker.container.exec_run(["sh", "-c", "echo $MAINSTEM_ENGINES"]) == (0, b"my_engines\\n")
    kwargs = {"thread_id": "t", "engine": "greet", "input": {"name": "you"}, "user_id": "u"}
    celery_setup.app.send_task("mainstem.submit", kwargs=kwargs, ignore_result=True)
    worker.wait_for_log("Task mainstem.generate", timeout=20)
'''


def engine_runs() -> bool:
    """Whether a Docker engine answers, and has the image that `docker compose build` makes."""
    if shutil.which("docker") is None:
        return False
    look = ["docker", "image", "inspect", "mainstem:latest"]
    return subprocess.run(look, capture_output=True, timeout=20, check=False).returncode == 0


@pytest.mark.parametrize("nodes", ["processes", "containers"])
def test_a_users_own_suite(tmp_path, nodes):
    """One line in a conftest gives a real worker and Valkey; pytest-celery's nodes are killed and restarted."""
    if nodes == "containers" and not engine_runs():
        pytest.skip("optional: needs a Docker engine with the image mainstem:latest")
    (tmp_path / "my_engines.py").write_text(ENGINES)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_my_engines.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -p no:valkey\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."],
        cwd=tmp_path,
        env={**os.environ, "MAINSTEM_TESTING": nodes},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "2 passed" in done.stdout
