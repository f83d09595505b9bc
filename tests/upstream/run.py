"""Celery's own tests, from its source distribution, on our pool: `make celery-tests`. Optional: it downloads them.

What of them applies to a pool, and what does not and why, is listed in docs/celery-tests.md; the lists here are the
same ones.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from importlib import metadata
from pathlib import Path

from support.processes.servers import ValkeyProcess

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
HELPERS = ("pytest-order==1.5.0", "pytest-click==1.1.0", "pytest-subtests==0.15.0", "freezegun==1.5.5")
"""What the tests import beside what is installed for ours; their own dependencies are there already, but two."""
NEEDED_BY_HELPERS = ("python-dateutil>=2.9", "six>=1.17")

UNIT = (
    "t/unit/tasks",
    "t/unit/test_canvas.py",
    "t/unit/app/test_trace.py",
    "t/unit/worker/test_request.py",
    "t/unit/worker/test_strategy.py",
    "t/unit/worker/test_revoke.py",
)
"""Tracer, request, context, canvas: what a task needs of the thread, or greenlet, that it runs in."""
INTEGRATION = (
    "t/integration/test_tasks.py",
    "t/integration/test_canvas.py",
    "t/integration/test_group_chains.py",
    "t/integration/test_inspect.py",
)
"""A worker, a broker, a result backend."""
NOT_OURS = {
    "test_canvas.py::test_chain::test_chord_soft_timeout_recuperation": "plain `def` tasks run in threads here, "
    "which a soft limit cannot interrupt: it fails on Celery's threads as well",
    "test_inspect.py::test_Inspect::test_stats": "it expects the processes of prefork among a pool's statistics",
    **dict.fromkeys(
        (
            "test_tasks.py::test_tasks::test_revoked_by_headers_complex_canvas",
            "test_tasks.py::test_trace_log_arguments",
            "test_canvas.py::test_chord::test_chord_on_error",
            "test_canvas.py::test_chord::test_disabling_flag_allow_error_cb_on_chord_header",
        ),
        "fails on Celery's own prefork with these versions, with Valkey as broker and backend",
    ),
}
"""Tests of these files that say nothing about our pool, and why."""


def main() -> int:
    directory = ROOT / "build" / f"celery-{metadata.version('celery')}"
    fetch(directory)
    unit = pytest(directory, *UNIT, jobs=True)
    with tempfile.TemporaryDirectory() as data, ValkeyProcess(Path(data)) as valkey:
        servers = {
            "TEST_BROKER": valkey.url(0),
            "TEST_BACKEND": valkey.url(1),
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": str(valkey.port),
        }
        integration = pytest(directory, *INTEGRATION, *sys.argv[1:], jobs=False, **servers)
    return unit or integration


def fetch(directory: Path) -> None:
    """Download the source distribution of the Celery that is installed, and take the tests out of it."""
    if (directory / "site").exists():
        return
    directory.mkdir(parents=True, exist_ok=True)
    version = metadata.version("celery")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    source = (*pip, "download", "--no-deps", "--no-binary", "celery", f"celery=={version}")
    subprocess.run([*source, "--dest", str(directory)], check=True)
    with tarfile.open(directory / f"celery-{version}.tar.gz") as archive:
        # Not the package itself: the one that is installed is to be tested.
        wanted = [
            member
            for member in archive.getmembers()
            if member.name.startswith(f"celery-{version}/t/")
            or member.name == f"celery-{version}/pyproject.toml"
        ]
        for member in wanted:
            member.name = member.name.partition("/")[2]
        archive.extractall(directory, wanted, filter="data")
    site = ("--target", str(directory / "site"))
    subprocess.run([*pip, "install", "--no-deps", *site, *HELPERS, *NEEDED_BY_HELPERS], check=True)


def pytest(directory: Path, *arguments: str, jobs: bool, **env: str) -> int:
    command = [
        *(sys.executable, "-m", "pytest", "--quiet", "-p", "on_our_pool", "-p", "no:valkey"),
        *("-p", "no:cacheprovider", "--timeout", "180", "--disable-warnings", "-rfE"),
        *(part for name in NOT_OURS for part in ("--deselect", f"t/integration/{name}")),
        *arguments,
    ]
    paths = os.pathsep.join(str(path) for path in (HERE, directory / "site"))
    environment = {**os.environ, "PYTHONPATH": paths, "UPSTREAM_JOBS": str(int(jobs)), **env}
    return subprocess.run(command, cwd=directory, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
