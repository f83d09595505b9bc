"""Mainstem's own processes under a test's control: workers and gateways, killed, frozen, restarted by pid."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from servers import Guard


class Child:
    """One process of ours. Its output goes to `log_path`; it never outlives the test run."""

    def __init__(self, name: str, *arguments: str, env: dict[str, str], directory: Path) -> None:
        self.name = name
        self.log_path = directory / f"{name}.log"
        self._arguments = arguments
        self._env = {**os.environ, "PYTHONUNBUFFERED": "1", **env}
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: Guard | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    @property
    def rss_mb(self) -> float:
        return psutil.Process(self.pid).memory_info().rss / 2**20

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        assert self._process is None
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *self._arguments],
                env=self._env,
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._guard = Guard(self._process.pid)

    def terminate(self) -> None:
        self.signal(signal.SIGTERM)

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, timeout_s: float) -> int:
        """Wait for the process's own end; returns its exit code."""
        assert self._process is not None
        code = self._process.wait(timeout_s)
        self._forget()
        return code

    def stop(self, timeout_s: float = 30) -> None:
        """End it, gently at first. Safe to call twice."""
        if self._process is None:
            return
        self.signal(signal.SIGCONT)
        self._process.terminate()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._forget()

    def sigkill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._forget()

    def freeze(self) -> None:
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def _forget(self) -> None:
        assert self._guard is not None
        self._guard.dismiss()
        self._process = self._guard = None


def worker(env: dict[str, str], directory: Path, name: str = "worker", *options: str) -> Child:
    """A worker process with Mainstem's own Celery app; not started yet."""
    arguments = ("-m", "mainstem_workers", "worker", "--loglevel", "INFO", "-n", f"{name}@test")
    return Child(name, *arguments, *options, env=env, directory=directory)


def gateway(env: dict[str, str], directory: Path, port: int, name: str = "gateway") -> Child:
    """A gateway process, as `mainstem gateway` runs it; not started yet."""
    program = "from mainstem_api.cli import main; main()"
    arguments = ("-c", program, "gateway", "--port", str(port))
    return Child(name, *arguments, env=env, directory=directory)
