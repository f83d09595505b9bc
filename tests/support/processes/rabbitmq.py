"""A real RabbitMQ under a test's control, where Debian's `rabbitmq-server` is installed. Optional: see `required`.

The server's own start script is called, with everything it keeps in a directory of the test's, and a port mapper of
its own (Erlang would leave its daemon behind).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from support.processes.servers import Guard, free_port
from support.waiting import wait_until

# Debian's program on PATH changes to a system user first; this is what it starts.
SCRIPT = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
READY = "Server startup complete"


def required() -> None:
    """Go on only where the server is. `make rabbitmq` sets MAINSTEM_RABBITMQ: then its absence is a failure."""
    if SCRIPT.exists() and shutil.which("epmd"):
        return
    reason = "needs Debian's rabbitmq-server"
    if os.environ.get("MAINSTEM_RABBITMQ"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(f"{reason} (optional)")


class RabbitProcess:
    """One server on a port and data that stay the same over restarts."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self._mapper_port, self._distribution_port = free_port(), free_port()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._guards: list[Guard] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    @property
    def log(self) -> str:
        path = self.directory / "rabbitmq.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "rabbitmq.log").unlink(missing_ok=True)
        self._launch("epmd", "-port", str(self._mapper_port), "-address", "127.0.0.1")
        server = self._launch(str(SCRIPT))
        wait_until(
            lambda: READY in self.log or server.poll() is not None,
            description="RabbitMQ to be ready",
            timeout_s=90,
        )
        assert server.poll() is None, self.log[-3000:]

    def stop(self) -> None:
        """End it, and all that it has started. Safe to call twice."""
        for process in reversed(self._processes):  # the mapper last
            self._signal(process, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            self._signal(process, signal.SIGKILL)
            process.wait()
        for guard in self._guards:
            guard.dismiss()
        self._processes.clear()
        self._guards.clear()

    def control(self, *arguments: str) -> None:
        """Call `rabbitmqctl`: rights, virtual hosts."""
        program = SCRIPT.with_name("rabbitmqctl")
        command = [str(program), "--node", self._environment()["RABBITMQ_NODENAME"], *arguments]
        subprocess.run(
            command, env={**os.environ, **self._environment()}, check=True, capture_output=True, timeout=60
        )

    def _launch(self, *command: str) -> subprocess.Popen[bytes]:
        with (self.directory / "rabbitmq.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                env={**os.environ, **self._environment()},
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes.append(process)
        self._guards.append(Guard(-process.pid))  # the group: the script is not the server
        return process

    def _environment(self) -> dict[str, str]:
        here = self.directory
        return {
            "HOME": str(here),  # the cookie by which Erlang's programs know each other
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_MNESIA_BASE": str(here / "data"),
            "RABBITMQ_LOG_BASE": str(here / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(here / "pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(here / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(here / "none"),
            "RABBITMQ_CONF_ENV_FILE": str(here / "none"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-start_epmd false",
            "ERL_EPMD_PORT": str(self._mapper_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }

    @staticmethod
    def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
