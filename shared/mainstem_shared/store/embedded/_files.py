"""Names the files of an embedded server's data directory, and builds its command line."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PASSWORD: Final = re.compile(r"requirepass ([\w-]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataDirectory:
    """The files of one data directory. `path` is absolute: server and clients may work elsewhere."""

    path: Path

    @classmethod
    def at(cls, path: Path) -> DataDirectory:
        """Name the directory without touching it."""
        return cls(path=path.resolve())

    @property
    def data(self) -> Path:
        """The server's own directory: the append-only file. It also tells one server from another."""
        return self.path / "valkey"

    @property
    def lock(self) -> Path:
        return self.path / "server.lock"

    @property
    def log(self) -> Path:
        return self.path / "valkey.log"

    @property
    def pid_file(self) -> Path:
        return self.path / "server.pid"

    @property
    def port_file(self) -> Path:
        return self.path / "server.port"

    def create(self) -> None:
        """Create the directories, readable by their owner only."""
        self.data.mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def config(self) -> Path:
        """What the server's command line must not show: the password."""
        return self.path / "server.conf"

    def password(self) -> str | None:
        """Return the server's password; None before its first start."""
        try:
            found = _PASSWORD.fullmatch(self.config.read_text().strip())
        except FileNotFoundError:
            return None
        return found[1] if found else None

    def keep_password(self) -> None:
        """Write a password down, once: loopback is open to every user of the machine, this file is not."""
        if self.password() is not None:
            return
        draft = self.config.with_suffix(f".conf.{os.getpid()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            os.fchmod(descriptor, 0o600)  # whatever an earlier draft was left with
            file.write(f"requirepass {secrets.token_urlsafe(32)}\n")
        draft.replace(self.config)

    def port(self) -> int | None:
        """Return the port of the last server, whether or not it runs."""
        port = _number(self.port_file)
        return port if port is not None and 0 < port < 65536 else None

    def pid(self) -> int | None:
        """Return the process id the last server wrote; it may be long gone and somebody else's now."""
        return _number(self.pid_file)

    def keep_port(self, port: int) -> None:
        """Write the port down before the server starts, so that a killed starter's server can be found."""
        draft = self.port_file.with_suffix(f".port.{os.getpid()}")
        draft.write_text(f"{port}\n")
        draft.replace(self.port_file)

    def command(self, binary: Path, port: int) -> list[str]:
        """Return the server's command line."""
        options = {
            "bind": "127.0.0.1",
            "port": str(port),
            "dir": str(self.data),
            "logfile": str(self.log),
            "pidfile": str(self.pid_file),
            "daemonize": "no",
            "set-proc-title": "no",  # the command line names the directory: how a silent server is recognised
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",  # an evicted key would be a lost run
        }
        return [
            str(binary),
            str(self.config),
            *(part for name, value in options.items() for part in (f"--{name}", value)),
        ]


def is_free(port: int) -> bool:
    """Tell whether a server could listen there now."""
    with socket.socket() as probe:
        # As the server does: connections of an earlier server that still linger do not occupy the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return True
    return False


def free_port() -> int:
    """Return a port nobody listens on right now; somebody may be quicker than you."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
