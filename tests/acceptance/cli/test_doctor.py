"""`mainstem doctor -A` on users' applications: what their pool and their settings cannot promise."""

from __future__ import annotations

import os
import subprocess
import sys

from support.processes.projects import Project


def doctor(project: Project, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from mainstem_api.cli import main; main()", "doctor", *options]
    return subprocess.run(
        command,
        cwd=project.directory,
        env={**os.environ, **project.system.env, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_an_application_is_inspected(live, tmp_path):
    """What breaks promises to runs is a warning, what its own tasks do not have is a note; neither is a failure."""
    settings = {
        "worker_disable_prefetch": False,
        "task_acks_late": True,
        "result_backend": "redis://localhost:1",
    }
    project = Project(live, tmp_path, **settings)
    told = doctor(project, "-A", "proj", "--pool", "threads")
    assert told.returncode == 0, told.stderr
    assert "Application proj" in told.stdout
    assert "! worker_disable_prefetch: This worker keeps runs waiting" in told.stdout
    assert "! --pool threads: It runs as many runs as it has threads." in told.stdout
    assert (
        "· visibility_timeout: Your own late-acknowledged tasks start again after 3600 s of running."
        in told.stdout
    )
    assert "· task_track_started: " in told.stdout


def test_applications_that_execute_no_runs_are_named(live, tmp_path):
    """One without `install`, one that does not exist, and a pool without an event loop are failures."""
    project = Project(live, tmp_path)
    (tmp_path / "bare.py").write_text("from celery import Celery\napp = Celery()\n")
    for options, words in (
        (("-A", "bare"), "call mainstem_workers.install(app)"),
        (("-A", "nowhere"), "No module named 'nowhere'"),
        (("-A", "proj", "-P", "gevent"), "need an event loop"),
    ):
        told = doctor(project, *options)
        assert told.returncode == 1, told.stdout
        assert words in told.stdout
        assert "Traceback" not in told.stderr
