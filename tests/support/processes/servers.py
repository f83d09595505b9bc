"""Processes under a test's control, and a real Valkey server as one: killed, frozen, restarted on the same data.

The server is independent of `mainstem_shared.store.embedded` except for finding the executable, so that failure tests do
not lean on what they test. A server never outlives the test run, however that ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from mainstem_shared.store.embedded import find_server_binary
from support.waiting import wait_until

_START_TRIES = 5


def free_port() -> int:
    """Return a port nobody listens on right now (somebody may take it before you do)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Guard:
    """Kills a process as soon as the test run is gone, even when that was killed itself.

    A shell blocks on a pipe that only the test run holds open; the kernel closes it, however the run ends.
    """

    def __init__(self, pid: int) -> None:
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", "trap '' INT TERM; read _; kill -9 $0 2>/dev/null", str(pid)],
            stdin=subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C at the terminal must not end the guard before its charge
        )

    def dismiss(self) -> None:
        """Call it as soon as the process is gone: its pid may be somebody else's soon."""
        self._shell.kill()
        self._shell.wait()
        assert self._shell.stdin is not None
        self._shell.stdin.close()


class Controlled:
    """One process that a test starts and ends, freezes and kills. Use it as a context manager, or `start` and `stop`.

    Who derives from it starts the process (`start`) and puts it under guard (`_watch`).
    """

    def __init__(self, log_path: Path) -> None:
        self.log_path = log_path
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: Guard | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def start(self) -> None:
        raise NotImplementedError

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the process is not running"
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def stop(self, timeout_s: float = 30) -> None:
        """End it whatever state it is in, gently at first. Safe to call twice."""
        if self._process is None:
            return
        self.thaw()
        self._process.terminate()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._reap()

    def end(self) -> None:
        """End it at once, with all that it has started: whoever wants to see how it stops calls `stop` or `signal`."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):  # it ended by itself, and somebody has looked
                os.killpg(self._process.pid, signal.SIGKILL)
            self._reap()

    def sigkill(self) -> None:
        """End it with no chance to do anything more, as the kernel's out-of-memory killer does."""
        self.process.kill()
        self._reap()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def freeze(self) -> None:
        """Stop the process where it stands: connections stay open, nothing answers."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        self._process, self._guard = process, Guard(process.pid)

    def _reap(self) -> None:
        assert self._guard is not None
        self.process.wait()
        self._guard.dismiss()
        self._process = self._guard = None


class ValkeyProcess(Controlled):
    """One server process. `port` and `directory` stay the same over restarts; the append-only file is on.

    It hands each write to the kernel before it answers, and leaves the disk to the kernel: a killed process loses
    nothing that it acknowledged. (Under `everysec` a write waits for up to two seconds while a slow disk syncs.)
    """

    binary: Path | None = None
    """Another program than the one that everybody else uses."""

    def __init__(self, directory: Path, *options: str, port: int | None = None) -> None:
        self.directory = directory
        self.options = options
        self.port = port
        super().__init__(directory / "valkey.log")

    def url(self, db: int = 0) -> str:
        assert self.port is not None, "start the server first"
        return f"redis://127.0.0.1:{self.port}/{db}"

    def client(self, db: int = 0) -> redis.Redis:
        """Return a new blocking client that never retries; close it (`with server.client() as client:`)."""
        return redis.Redis(
            port=self.port or 0, db=db, decode_responses=True, socket_timeout=5, retry=Retry(NoBackoff(), 0)
        )

    def start(self) -> None:
        """Start and wait until the server answers. Another port is tried only if none was fixed yet."""
        assert self._process is None, "the server already runs"
        self.directory.mkdir(parents=True, exist_ok=True)
        fixed = self.port
        for _ in range(_START_TRIES):
            self.port = fixed or free_port()
            self._launch()
            if wait_until(self._state, description=f"Valkey on port {self.port} to answer", timeout_s=20) == (
                "answers"
            ):
                return
            self._reap()
            if "already in use" not in self.log:
                break  # trying again helps only against somebody who was quicker with the port
        message = f"Valkey did not start:\n{self.log[-2000:]}"
        raise RuntimeError(message)

    def restart(self) -> None:
        """Start again on the same port and data, after a clean stop if the server still runs."""
        self.stop()
        self.start()

    @property
    def written(self) -> int:
        """How much the append-only file holds: what `go_back` goes back to."""
        return self._log_of_writes.stat().st_size

    @property
    def _log_of_writes(self) -> Path:
        (file,) = self.directory.glob("appendonlydir/*.incr.aof")
        return file

    def go_back(self, written: int) -> None:
        """Lose all writes since, and start again: a power cut, or a fail-over to a replica that lagged."""
        if self._process is not None:
            self.sigkill()
        with self._log_of_writes.open("r+b") as file:
            file.truncate(written)
        self.start()

    def _launch(self) -> None:
        self.log_path.unlink(missing_ok=True)
        process = subprocess.Popen(
            [
                str(self.binary or find_server_binary()),
                *("--port", str(self.port), "--bind", "127.0.0.1"),
                *("--dir", str(self.directory), "--logfile", str(self.log_path)),
                *("--appendonly", "yes", "--appendfsync", "no", "--save", ""),
                *("--maxmemory-policy", "noeviction"),
                *self.options,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            restore_signals=False,  # a file that may grow no more is an error to it, as on a full disk, not its end
        )
        self._watch(process)

    def _state(self) -> str:
        """Return `answers`, `exited`, or nothing while it is still starting."""
        if self.process.poll() is not None:
            return "exited"
        with contextlib.suppress(redis.RedisError), self.client() as client:
            if client.info("server")["process_id"] == self.pid:
                return "answers"
        return ""
