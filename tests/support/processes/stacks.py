"""A whole stack as a user starts it, under a test's control: `mainstem up`, in a process group of its own."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from support.processes.servers import Guard
from support.waiting import wait_until

PROGRAM = Path(sys.executable).with_name("mainstem")


class StackProcess:
    """One `mainstem up` on `directory`, on free ports by default. It never outlives its context."""

    def __init__(self, directory: Path, *, command: tuple[str, ...] = (), **env: str) -> None:
        self.directory = directory
        self.log_path = directory / "stack.log"
        self._command = command or (sys.executable, str(PROGRAM), "up")
        ports = {"MAINSTEM_PORT": "0", "MAINSTEM_FLOWER_PORT": "0"}
        self._env = {**os.environ, **ports, "MAINSTEM_WORKERS": "1", **env}
        self._process: subprocess.Popen[bytes] | None = None
        self._seen: set[psutil.Process] = set()
        self._guards: dict[int, Guard] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()  # first: it would start again what ends
            self._process.wait()
        for process in self.alive():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for guard in self._guards.values():
            guard.dismiss()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    @property
    def data(self) -> Path:
        return self.directory / ".mainstem"

    def start(self) -> Self:
        """Start it and return at once. The log begins anew."""
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self.directory,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._guard(self._process.pid)  # its children follow it
        return self

    def wait_ready(self, timeout_s: float = 90) -> float:
        """Wait until it says that it is ready; return how long that took."""
        started = time.monotonic()

        def said() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, self.log
            return "Mainstem is ready." in self.log and "Valkey " in self.log

        wait_until(said, description="the stack to be ready", timeout_s=timeout_s)
        for server in self.find("valkey-server"):
            self._guard(server.pid)
        return time.monotonic() - started

    def wait_end(self, timeout_s: float = 20) -> int:
        assert self._process is not None
        return self._process.wait(timeout_s)

    def signal(self, number: signal.Signals, *, group: bool = False) -> None:
        self.alive()
        (os.killpg if group else os.kill)(self.pid, number)

    def url(self, name: str) -> str:
        """Return the address it printed for `Gateway`, `Flower` or `Valkey`; with the latter's password."""
        found = re.search(rf"^  {name} +(\S+)", self.log, re.MULTILINE)
        assert found is not None, self.log
        if name != "Valkey":
            return found[1]
        password = (self.data / "server.conf").read_text().split()[1]
        return found[1].replace("redis://", f"redis://:{password}@")

    def get(self, path: str) -> int | None:
        """Return the status with which the gateway answers, or None if it does not."""
        host, port = self.url("Gateway").removeprefix("http://").split(":")
        with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=60)) as connection:
            try:
                connection.request("GET", path)
                return connection.getresponse().status
            except (OSError, http.client.HTTPException):
                return None

    def alive(self) -> list[psutil.Process]:
        """Return every process of the stack that lives, found by group, descent and data directory."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError):  # it ended while we looked
                if self._belongs(process):
                    self._seen.add(process)
        return [process for process in self._seen if _lives(process)]

    def find(self, *words: str) -> list[psutil.Process]:
        """Return the living processes whose command line holds these words."""
        found = []
        for process in self.alive():
            with contextlib.suppress(psutil.Error):
                if " ".join(words) in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def _guard(self, pid: int) -> None:
        if pid not in self._guards:
            self._guards[pid] = Guard(pid)

    def _belongs(self, process: psutil.Process) -> bool:
        if self._process is not None and os.getpgid(process.pid) == self._process.pid:
            return True
        return any(
            word == str(self.data / "valkey") or word.startswith(str(self.data / "nodes"))
            for word in process.cmdline()
        )


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
