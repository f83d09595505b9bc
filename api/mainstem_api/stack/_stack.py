"""The stack starts and supervises embedded server, workers, gateway and Flower.

Start: lock, ports, server, children. Stop: children all at once, then the server, so that the workers' last
words still find a store. Every child is one of the package's own commands and gets what it needs through the
environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import importlib.util
import json
import logging
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pydantic import SecretStr

from mainstem_api.stack._children import Child, Command, set_within
from mainstem_api.stack._make import Make
from mainstem_api.stack._output import Output
from mainstem_api.stack._ports import listen
from mainstem_api.stack._tether import TETHER_VARIABLE, Tether
from mainstem_shared.errors import MainstemError
from mainstem_shared.settings import Settings
from mainstem_shared.store.blocking import BlockingStore
from mainstem_shared.store.embedded import EmbeddedFleet, EmbeddedServerError, FileLock

log = logging.getLogger(__name__)

STOP_MARGIN_S = 4.0
"""What the children get on top of the drain. With the default of 10 s and the server's own stop this stays
below the 20 s in which the stack must be gone."""
PORT_PATIENCE_S = 12.0
"""The gateway and workers of a stack that was killed need up to a drain to go."""
CHECK_S = 5.0
"""How long an embedded server may take to say which store it belongs to."""
_LOCK_TRIES = 20
_LOCK_POLL_S = 0.05
_SERVER_POLL_S = 0.5
_MAKE_POLL_S = 0.5
_READY_POLL_S = 0.1
_SLOW_AFTER_S = 30.0


class AlreadyRunningError(MainstemError):
    """Another stack runs on this data directory."""

    code = "already_running"
    message = (
        "Mainstem already runs on {data_dir}{where}. Stop it, or set MAINSTEM_DATA_DIR to another directory."
    )


class Stack:
    """One run of `mainstem up`."""

    def __init__(self, settings: Settings, *, output: Output | None = None) -> None:
        self._settings = settings
        self._output = output or Output()
        self._stopping = asyncio.Event()
        self._children: list[Child] = []
        self._servers: EmbeddedFleet | None = None
        self._flower_port = 0
        self._after_kill = False
        self._data_dir = settings.data_dir.resolve()

    async def run(self) -> None:
        """Run until SIGTERM, SIGINT or SIGHUP, then end everything this started or adopted.

        Raises:
            AlreadyRunningError: another stack has the data directory.
            PortTakenError: somebody listens on the gateway's or Flower's port.
            EmbeddedServerError: there is no server to run on.
            Misconfigured: the data directory began with another number of servers.

        """
        self._catch_signals()
        self._data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = await self._lock()
        self._after_kill = self._state_file.exists()  # whoever stops in order removes it
        try:
            self._state_file.unlink(missing_ok=True)
            await self._run_locked()
        finally:
            self._state_file.unlink(missing_ok=True)
            lock.close()
            self._output.close()

    @property
    def is_stopping(self) -> bool:
        """Whether somebody asked it to end."""
        return self._stopping.is_set()

    @property
    def _state_file(self) -> Path:
        return self._data_dir / "stack.json"

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop, number.name)

    def _stop(self, why: str) -> None:
        # The same signal often comes twice: from the terminal to the whole group, and from `make` again.
        if not self._stopping.is_set():
            self._output.say(f"{why}: stopping …")
            self._stopping.set()

    async def _lock(self) -> FileLock:
        """Take `stack.lock`; it is close-on-exec, so no child keeps it after us."""
        lock = FileLock(self._data_dir / "stack.lock")
        for _ in range(_LOCK_TRIES):  # somebody may just be looking whether it is held
            if lock.try_acquire():
                return lock
            await asyncio.sleep(_LOCK_POLL_S)
        raise AlreadyRunningError(data_dir=self._data_dir, where=_where(self._state_file))

    async def _run_locked(self) -> None:
        settings = self._settings
        with await self._listen(settings.port, "MAINSTEM_PORT") as gateway_socket, Tether() as tether:
            with await self._listen(settings.flower_port, "MAINSTEM_FLOWER_PORT") as probe:
                self._flower_port = probe.getsockname()[1]  # Flower opens it itself
            try:
                if self._needs_server:
                    self._servers = await asyncio.to_thread(self._start_servers)
                await self._run_children(gateway_socket, tether)
            finally:
                if self._servers is not None:
                    await asyncio.to_thread(self._servers.stop)

    def _start_servers(self) -> EmbeddedFleet:
        nodes = self._settings.nodes if self._settings.redis_url is None else 1
        servers = EmbeddedFleet.start_or_adopt(self._data_dir, nodes=nodes)
        if self._settings.redis_url is None:
            try:
                with contextlib.closing(BlockingStore(servers.store_url, timeout_s=CHECK_S)) as store:
                    store.check()
            except BaseException:
                servers.stop()
                raise
        return servers

    async def _listen(self, port: int, variable: str) -> socket.socket:
        return await listen(
            self._settings.host,
            port,
            variable=variable,
            patience_s=PORT_PATIENCE_S if self._after_kill else 0,
            waiting=self._output.say,
        )

    @property
    def _needs_server(self) -> bool:
        return self._settings.redis_url is None or self._settings.broker_url is None

    async def _run_children(self, gateway_socket: socket.socket, tether: Tether) -> None:
        port: int = gateway_socket.getsockname()[1]

        def environment() -> Mapping[str, str]:
            return {**self._environment(port), TETHER_VARIABLE: str(tether.reading_end)}

        self._children = [
            Child(command, environment=environment, output=self._output)
            for command in self._commands(gateway_socket, tether)
        ]
        stop_timeout_s = self._settings.drain_s + STOP_MARGIN_S
        async with asyncio.TaskGroup() as tasks:
            for child in self._children:
                tasks.create_task(child.keep_running(self._stopping, stop_timeout_s=stop_timeout_s))
            tasks.create_task(self._announce(port))
            tasks.create_task(self._watch_server())
            tasks.create_task(self._watch_make())
            await self._stopping.wait()
            gateway_socket.close()  # refuse new connections instead of letting them wait for nobody

    def _commands(self, gateway_socket: socket.socket, tether: Tether) -> list[Command]:
        ourselves = program()
        tied = (tether.reading_end,)
        listening = gateway_socket.fileno()
        commands = [
            Command(
                name=f"worker{number}",
                arguments=[*ourselves, "worker", "--name", f"{self._node_name(number)}@%h"],
                descriptors=tied,
            )
            for number in range(1, self._settings.workers + 1)
        ]
        commands.append(
            Command(
                name="gateway",
                arguments=[*ourselves, "gateway", "--fd", str(listening)],
                descriptors=(*tied, listening),
            )
        )
        if importlib.util.find_spec("flower") is not None:
            commands.append(Command(name="flower", arguments=[*ourselves, "flower"], descriptors=tied))
        return commands

    def _node_name(self, number: int) -> str:
        """Name a worker the same after each restart; several stacks on one broker must not share names."""
        if self._settings.broker_url is None:
            return f"worker{number}"
        return f"worker{number}-{os.getpid()}"

    def _environment(self, port: int) -> dict[str, str]:
        return {
            **os.environ,
            **self._settings.environment(),
            "MAINSTEM_REDIS_URL": self._url(self._settings.redis_url, lambda servers: servers.store_url),
            "MAINSTEM_BROKER_URL": self._url(self._settings.broker_url, lambda servers: servers.broker_url),
            "MAINSTEM_DATA_DIR": str(self._data_dir),
            **self._archive(),
            "MAINSTEM_PORT": str(port),
            "MAINSTEM_FLOWER_PORT": str(self._flower_port),
            "MAINSTEM_FLOWER_URL": self._settings.flower_url or self._flower_url(),
            "PYTHONUNBUFFERED": "1",  # lines when they are written, not when a pipe's buffer is full
        }

    def _archive(self) -> dict[str, str]:
        """Keep finished runs beside the embedded server, if nothing else is said and libraries are there."""
        settings = self._settings
        libraries = ("alembic", "aiosqlite", "sqlalchemy")
        if settings.archive_url is None and settings.redis_url is None and all(map(_is_installed, libraries)):
            settings.embedded_archive.touch(mode=0o600)  # others see by it that there is an archive
        address = settings.archive_address
        return {} if address is None else {"MAINSTEM_ARCHIVE_URL": address}

    def _flower_url(self) -> str:
        found = importlib.util.find_spec("flower") is not None
        return f"http://{_reachable(self._settings.host)}:{self._flower_port}" if found else ""

    def _url(self, configured: SecretStr | None, embedded: Callable[[EmbeddedFleet], str]) -> str:
        if configured is not None:
            return configured.get_secret_value()
        assert self._servers is not None
        return embedded(self._servers)

    async def _announce(self, port: int) -> None:
        """Wait for the gateway to reach store and broker; then say where everything is."""
        slow_at = time.monotonic() + _SLOW_AFTER_S
        while not await asyncio.to_thread(_is_ready, self._settings.host, port):
            if time.monotonic() > slow_at:
                self._output.say("Still waiting for the gateway: see its lines above.")
                slow_at = time.monotonic() + _SLOW_AFTER_S
            if await set_within(self._stopping, _READY_POLL_S):
                return
        host = _reachable(self._settings.host)
        state = {
            "pid": os.getpid(),
            "gateway": f"http://{host}:{port}",
            "flower": f"http://{host}:{self._flower_port}",
        }
        draft = self._state_file.with_suffix(".draft")
        draft.write_text(json.dumps(state) + "\n")
        draft.replace(self._state_file)  # others read it as soon as it is there
        self._output.say("Mainstem is ready.")
        self._output.say(
            f"  Gateway  {state['gateway']}  (runs: {state['gateway']}/runs, API: {state['gateway']}/docs)"
        )
        self._output.say(f"  Flower   {state['flower']}")
        if self._servers is not None:
            self._output.say(f"  Valkey   {self._servers.addresses}  (data and password in {self._data_dir})")

    async def _watch_server(self) -> None:
        """Start the embedded server again when it dies; if it had to move, the children have to as well."""
        # Never cancelled: a start that is under way has to be waited for, or its server would outlive us.
        while self._servers is not None and not await set_within(self._stopping, _SERVER_POLL_S):
            if await asyncio.to_thread(self._servers.is_alive):
                continue
            self._output.say("The embedded server is gone: starting it again.")
            ports = self._servers.ports
            with contextlib.suppress(EmbeddedServerError):  # said in its log; tried again at the next turn
                self._servers = await asyncio.to_thread(self._servers.revive)
            if self._servers.ports != ports:
                for child in self._children:
                    child.signal(signal.SIGTERM)

    async def _watch_make(self) -> None:
        make = Make.parent()
        while make is not None and not await set_within(self._stopping, _MAKE_POLL_S):
            if make.has_given_up():
                self._stop("make was stopped")


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _where(state_file: Path) -> str:
    try:
        state = json.loads(state_file.read_text())
        return f" (process {state['pid']}, {state['gateway']})"
    except (OSError, ValueError, KeyError):
        return ""


def program() -> Sequence[str]:
    """Return how to call ourselves: the installed `mainstem` script, so that process lists are readable."""
    script = shutil.which("mainstem", path=str(Path(sys.executable).parent)) or sys.argv[0]
    return [sys.executable, script]


def _reachable(host: str) -> str:
    """Return the name under which this machine reaches a listening address."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"[{host}]" if ":" in host else host


def _is_ready(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(_reachable(host).strip("[]"), port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
