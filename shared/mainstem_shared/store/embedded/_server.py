"""Starts, adopts, finds and stops the one server of a data directory.

The lock decides: whoever holds `server.lock` may start a server, and hands the lock down to it. So a held
lock means that a server lives (or is just being started), and it is adopted; a free one means there is none.
"""

# redis-py's types are partly unknown.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from mainstem_shared.store.embedded._binary import find_server_binary
from mainstem_shared.store.embedded._errors import ServerNotRunningError, ServerStartError
from mainstem_shared.store.embedded._files import DataDirectory, free_port, is_free
from mainstem_shared.store.embedded._locks import FileLock, is_locked

log = logging.getLogger(__name__)

STORE_DB = 0
BROKER_DB = 1

START_TIMEOUT_S = 15.0
"""A server that says nothing for so long is replaced (adopting) or given up (starting)."""
LOAD_TIMEOUT_S = 600.0
"""A server that reads its append-only file says so, and may take its time."""
STOP_TIMEOUT_S = 5.0
"""Writing out the append-only file takes milliseconds; a server that needs longer hangs."""
_PORT_TRIES = 5
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class _Answer:
    pid: int
    loading: bool


class EmbeddedServer:
    """A running server. Get one from `start_or_adopt` or `locate`."""

    def __init__(
        self, directory: DataDirectory, *, port: int, pid: int, process: subprocess.Popen[bytes] | None = None
    ) -> None:
        self.data_dir = directory.path
        self.port = port
        self.pid = pid
        self._directory = directory
        self._process = process  # None: adopted

    @classmethod
    def start_or_adopt(cls, data_dir: Path) -> EmbeddedServer:
        """Return the directory's server, answering: the one that lives, else a new one on the same data.

        Any number of processes may call this at once; one server comes of it. Blocking.

        Raises:
            ServerBinaryNotFoundError: no server to start on this machine.
            ServerStartError: it exits or does not answer; the message says where its log is.

        """
        directory = DataDirectory.at(data_dir)
        directory.create()
        lock = FileLock(directory.lock)
        patience = _Patience()
        while not lock.try_acquire():
            directory.keep_password()  # for one that was started without
            if (adopted := cls._adopt(directory, patience)) is not None:
                return adopted
        try:
            return cls._start(directory, lock)
        finally:
            lock.close()

    @classmethod
    def locate(cls, data_dir: Path) -> EmbeddedServer:
        """Return the server that runs on the directory, touching nothing.

        Raises:
            ServerNotRunningError: there is none, or it does not answer.

        """
        directory = DataDirectory.at(data_dir)
        if is_locked(directory.lock) and (port := directory.port()) is not None:
            answer = _ask(directory, port)
            if answer is not None:
                return cls(directory, port=port, pid=answer.pid)
        raise ServerNotRunningError(data_dir=directory.path)

    @property
    def adopted(self) -> bool:
        """Whether somebody else started it."""
        return self._process is None

    def url(self, db: int = STORE_DB) -> str:
        """Return the address of one of its databases, with the password."""
        password = self._directory.password()
        return f"redis://{f':{password}@' if password else ''}127.0.0.1:{self.port}/{db}"

    @property
    def address(self) -> str:
        """The same without the password, to be shown."""
        return f"redis://127.0.0.1:{self.port}/{STORE_DB}"

    def is_alive(self) -> bool:
        """Tell whether the process still exists; it may be too busy or too frozen to answer."""
        if self._process is not None:
            return self._process.poll() is None
        return is_locked(self._directory.lock)

    def stop(self) -> None:
        """End the server, adopted or not, and return when it is gone. Safe to call again. Blocking."""
        answer = _ask(self._directory, self.port)
        if answer is not None:  # it may have been replaced since: end the one that serves this directory now
            self.pid = answer.pid
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not self._signal(number) or self._wait_gone():
                break
        if self._process is not None:
            self._process.wait(STOP_TIMEOUT_S)

    def _signal(self, number: signal.Signals) -> bool:
        """Signal the process if it is still the server; a process id alone may be somebody else's by now."""
        if not is_locked(self._directory.lock) or not _serves(self.pid, self._directory):
            return False
        log.info("Stopping the embedded server", extra={"action": "stop_server", "signal": number.name})
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
        return True

    def _wait_gone(self) -> bool:
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while is_locked(self._directory.lock):
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        return True

    @classmethod
    def _adopt(cls, directory: DataDirectory, patience: _Patience) -> EmbeddedServer | None:
        """Try once to adopt whoever holds the lock; None means try again."""
        port = directory.port()
        answer = None if port is None else _ask(directory, port)
        if port is not None and answer is not None and not answer.loading:
            log.info("Adopted the embedded server", extra={"action": "adopt_server", "pid": answer.pid})
            return cls(directory, port=port, pid=answer.pid)
        if patience.over(loading=answer is not None):
            _kill_silent(directory)
        time.sleep(_POLL_S)
        return None

    @classmethod
    def _start(cls, directory: DataDirectory, lock: FileLock) -> EmbeddedServer:
        directory.keep_password()
        kept = directory.port()
        port = kept if kept is not None and is_free(kept) else free_port()
        for _ in range(_PORT_TRIES):
            directory.keep_port(port)
            process = _launch(directory, port, lock)
            if _answers(directory, port, process):
                log.info("Started the embedded server", extra={"action": "start_server", "pid": process.pid})
                return cls(directory, port=port, pid=process.pid, process=process)
            if is_free(port):
                break  # nobody was quicker with the port, so another one would not help
            port = free_port()
        raise ServerStartError(data_dir=directory.path, cause="it exited at once", log=directory.log)


class _Patience:
    """How long to wait for a server: long while it says that it loads, short when it is silent."""

    def __init__(self) -> None:
        self._since = self._heard = time.monotonic()

    def over(self, *, loading: bool) -> bool:
        now = time.monotonic()
        if loading:
            self._heard = now
        if now - self._heard > START_TIMEOUT_S:
            self._heard = now  # once per silence
            return True
        return now - self._since > LOAD_TIMEOUT_S


def _launch(directory: DataDirectory, port: int, lock: FileLock) -> subprocess.Popen[bytes]:
    with directory.log.open("ab") as output:  # what it says before it opens its log itself
        return subprocess.Popen(  # noqa: S603 - our own command line
            directory.command(find_server_binary(), port),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=directory.path,
            pass_fds=(lock.descriptor,),
            start_new_session=True,  # it outlives a killed stack and never gets the terminal's Ctrl-C
        )


def _answers(directory: DataDirectory, port: int, process: subprocess.Popen[bytes]) -> bool:
    """Wait until our process serves the port; False when it has exited."""
    patience = _Patience()
    while process.poll() is None:
        answer = _ask(directory, port)
        if answer is not None and answer.pid == process.pid and not answer.loading:
            return True
        if patience.over(loading=answer is not None):
            process.kill()
            process.wait()
            raise ServerStartError(data_dir=directory.path, cause="it does not answer", log=directory.log)
        time.sleep(_POLL_S)
    return False


def _ask(directory: DataDirectory, port: int) -> _Answer | None:
    """Ask the server on `port` who it is; None when it is silent, or is another one."""
    password = directory.password()
    return _ask_with(password, directory, port) or (password and _ask_with(None, directory, port)) or None


def _ask_with(password: str | None, directory: DataDirectory, port: int) -> _Answer | None:
    client = redis.Redis(
        port=port,
        password=password,
        socket_timeout=1,
        socket_connect_timeout=1,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
    )
    try:
        served: Any = client.config_get("dir", "requirepass")
        if Path(served["dir"]) != directory.data:
            return None
        if not served["requirepass"] and (own := directory.password()):  # an earlier version set none
            client.config_set("requirepass", own)
        info: Any = client.info()
    except (redis.RedisError, OSError):
        return None
    finally:
        client.close()
    return _Answer(pid=int(info["process_id"]), loading=bool(info["loading"]))


def _kill_silent(directory: DataDirectory) -> None:
    """Replace a server that holds the lock and answers nothing: what it acknowledged is in its file."""
    pid = directory.pid()
    if pid is None or not _serves(pid, directory):
        raise ServerStartError(
            data_dir=directory.path,
            cause=f"{directory.lock} is held by an unknown process",
            log=directory.log,
        )
    log.warning("Replacing a server that does not answer", extra={"action": "replace_server", "pid": pid})
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _serves(pid: int, directory: DataDirectory) -> bool:
    """Tell from its command line whether the process is this directory's server."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except FileNotFoundError:  # gone, or a system without /proc
        command = _ask_ps(pid)
    return str(directory.data) in command


def _ask_ps(pid: int) -> str:
    with contextlib.suppress(FileNotFoundError):
        result = subprocess.run(  # noqa: S603 - nothing but a number comes from outside
            ["ps", "-ww", "-o", "command=", "-p", str(pid)],  # noqa: S607 - wherever the system has it
            capture_output=True,
            text=True,
            check=False,
        )
        return result.stdout
    return ""
