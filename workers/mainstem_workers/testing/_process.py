"""Local processes imitate Docker containers, as far as pytest-celery looks: no daemon is needed.

pytest-celery wraps whatever has docker-py's `Container` interface; its clusters, kills, restarts and waits
then work on processes as they do on containers.
"""

from __future__ import annotations

import contextlib
import os
import signal as signals
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any, Final, NamedTuple

START_TIMEOUT_S: Final = 40.0
STOP_TIMEOUT_S: Final = 30
"""Longer than the drain of a worker under test."""


class ExecResult(NamedTuple):
    """What docker-py's `exec_run` returns."""

    exit_code: int
    output: bytes


class ProcessContainer:
    """One process in a group of its own, with the attributes and methods of docker-py's `Container`.

    It is ready when it has logged `ready`; after a restart, when it has done so again.
    """

    def __init__(
        self, name: str, command: list[str], *, ready: str, directory: Path, env: dict[str, str] | None = None
    ) -> None:
        self.id = uuid.uuid4().hex
        self.name = name
        self.env = env or {}
        self._command = command
        self._ready = ready
        self._directory = directory
        self._log_path = directory / f"{name}-{self.id[:8]}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def status(self) -> str:
        return "running" if self._process is not None and self._process.poll() is None else "exited"

    @property
    def attrs(self) -> dict[str, Any]:
        """The part of `docker inspect` that is read: there is one network, and ports need no mapping."""
        return {
            "Config": {
                "Hostname": "127.0.0.1",
                "Env": [f"{name}={value}" for name, value in self.env.items()],
            },
            "HostConfig": {"PortBindings": {}},
            "NetworkSettings": {"Networks": {"loopback": {"IPAddress": "127.0.0.1"}}, "Ports": {}},
        }

    def start(self) -> None:
        """Start the process and wait until it is ready.

        Raises:
            RuntimeError: it ended, or was not ready in time; with the end of its log.
        """
        before = self._log_path.stat().st_size if self._log_path.exists() else 0
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - the fixtures' own command
                self._command,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **self.env},
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while self._ready.encode() not in self.logs()[before:]:
            if self.status != "running" or time.monotonic() > deadline:
                self.remove(force=True)
                raise RuntimeError(
                    f"{self.name} did not start:\n{self.logs()[-3000:].decode(errors='replace')}"
                )
            time.sleep(0.02)

    def reload(self) -> None:
        """Nothing: nothing is cached."""

    def logs(self, **_: Any) -> bytes:
        return self._log_path.read_bytes() if self._log_path.exists() else b""

    def kill(self, signal: str | int | None = None) -> None:
        """Send a signal, by default SIGKILL, to the process; that one to all it has started."""
        number = signals.Signals[signal] if isinstance(signal, str) else signals.Signals(signal or 9)
        if self._process is None or self._process.poll() is not None:
            return
        if number is signals.SIGKILL:
            self._kill_group()
            self._process.wait()
        else:
            self._process.send_signal(number)

    def stop(self, timeout: int = STOP_TIMEOUT_S) -> None:
        """End the process, gently at first."""
        if self._process is None:
            return
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)
        self._kill_group()
        self._process.wait()

    def restart(self, timeout: int = STOP_TIMEOUT_S) -> None:
        self.stop(timeout)
        self.start()

    def remove(self, *, force: bool = False, **_: Any) -> None:
        """End the process for good; `force` at once."""
        if force:
            self.kill()
        else:
            self.stop()

    def exec_run(self, command: str | list[str], **_: Any) -> ExecResult:
        """Run another command in the process's directory and environment."""
        done = subprocess.run(  # noqa: S603 - the test's own command
            command,
            shell=isinstance(command, str),
            env={**os.environ, **self.env},
            cwd=self._directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        return ExecResult(done.returncode, done.stdout)

    def _kill_group(self) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signals.SIGKILL)
