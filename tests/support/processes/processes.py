"""Starts workers and gateways as child processes, and kills, freezes or restarts them by pid."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from support.processes.servers import Controlled


class Child(Controlled):
    """One process of ours. Its output goes to `log_path`."""

    def __init__(self, name: str, *arguments: str, env: dict[str, str], directory: Path) -> None:
        self.name = name
        super().__init__(directory / f"{name}.log")
        self._arguments = arguments
        self._env = {**os.environ, "PYTHONUNBUFFERED": "1", **env}
        self._directory = directory

    @property
    def rss_mb(self) -> float:
        return psutil.Process(self.pid).memory_info().rss / 2**20

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        assert self._process is None
        with self.log_path.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *self._arguments],
                env=self._env,
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._watch(process)

    def terminate(self) -> None:
        self.signal(signal.SIGTERM)

    def wait(self, timeout_s: float) -> int:
        """Wait for the process's own end; returns its exit code."""
        code = self.process.wait(timeout_s)
        self._reap()
        return code


def worker(env: dict[str, str], directory: Path, name: str = "worker", *options: str) -> Child:
    """A worker process with Mainstem's own Celery app; not started yet."""
    arguments = ("-m", "mainstem_workers", "worker", "--loglevel", "INFO", "-n", f"{name}@test")
    return Child(name, *arguments, *options, env=env, directory=directory)


def gateway(env: dict[str, str], directory: Path, port: int, name: str = "gateway") -> Child:
    """A gateway process, as `mainstem gateway` runs it; not started yet."""
    program = "from mainstem_api.cli import main; main()"
    arguments = ("-c", program, "gateway", "--port", str(port))
    return Child(name, *arguments, env=env, directory=directory)
