"""A real PostgreSQL under a test's control: started, killed and started again on the same data.

The server refuses to run as root: as root it runs as `nobody`, with data in a directory of its own.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

import psycopg

from support.processes.servers import Controlled, free_port
from support.waiting import wait_until


def find_binaries() -> Path | None:
    """Return the folder of `initdb` and `postgres`; Debian keeps them off the PATH."""
    found = shutil.which("postgres")
    if found and (Path(found).parent / "initdb").exists():
        return Path(found).parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: path.parts[-3])
    return versions[-1].parent if versions else None


class PostgresProcess(Controlled):
    """One server. `port` and data stay the same over restarts."""

    def __init__(self, binaries: Path, *, fsync: bool = False) -> None:
        self.binaries = binaries
        self.fsync = fsync  # a process that is killed loses nothing without; a machine would
        self.user = "nobody" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
        self.directory = Path(tempfile.mkdtemp(prefix="mainstem-pg-"))
        if os.getuid() == 0:
            shutil.chown(self.directory, self.user)
        self.data = self.directory / "data"
        self.port = free_port()
        super().__init__(self.directory / "log")

    @property
    def url(self) -> str:
        return f"postgresql://{self.user}@127.0.0.1:{self.port}/postgres"

    def connect(self) -> psycopg.Connection:
        """Return a new blocking connection that commits each statement; close it."""
        return psycopg.connect(self.url, autocommit=True, connect_timeout=5)

    def _as_user(self, *command: str) -> subprocess.Popen[bytes]:
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self.user if os.getuid() == 0 else None,
                group=pwd.getpwnam(self.user).pw_gid if os.getuid() == 0 else None,
                extra_groups=[] if os.getuid() == 0 else None,
                start_new_session=True,
                env={"PATH": f"{self.binaries}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8"},
            )

    def start(self) -> None:
        """Make the data directory if there is none, start, and wait until the server answers."""
        if not self.data.exists():
            made = self._as_user(
                f"{self.binaries}/initdb",
                "--auth=trust",
                "--no-sync",
                "--encoding=UTF8",
                "-D",
                str(self.data),
            )
            assert made.wait(60) == 0, self.log
        settings = ("listen_addresses=127.0.0.1", f"unix_socket_directories={self.directory}")
        settings = (*settings, f"fsync={'on' if self.fsync else 'off'}")
        options = [word for setting in settings for word in ("-c", setting)]
        self._watch(
            self._as_user(f"{self.binaries}/postgres", "-D", str(self.data), "-p", str(self.port), *options)
        )
        wait_until(self._answers, description="PostgreSQL to answer", timeout_s=30)

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log[-2000:]
        with contextlib.suppress(psycopg.Error), self.connect() as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
        return False

    def sigkill(self) -> None:
        """Kill the server and all its processes; shared memory that stays is the next start's to clean."""
        os.killpg(self.pid, 9)
        self._reap()

    def end(self) -> None:
        """End it at once, and remove its data."""
        super().end()
        shutil.rmtree(self.directory, ignore_errors=True)
