"""A live system per test: store and broker on one server (or two), real worker processes, an API client."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from support.clients import npm_clients
from support.clients.commands import System
from support.paths import TESTS
from support.processes import topologies
from support.processes.fleets import Fleet
from support.processes.gateways import GatewayThread
from support.processes.processes import Child, worker
from support.processes.servers import ValkeyProcess
from support.waiting import wait_until


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which real clients the tests ran against."""
    if npm_clients.used:
        terminalreporter.write_line(f"stock clients: {npm_clients.versions()}")


class Live:
    """The addresses of a live system, and ways to start parts of it."""

    def __init__(self, store: ValkeyProcess | Fleet, broker: ValkeyProcess, directory: Path) -> None:
        self.store, self.broker, self.directory = store, broker, directory
        self.env = {"MAINSTEM_REDIS_URL": store.url(0), "MAINSTEM_BROKER_URL": broker.url(1)}
        self.stack = contextlib.ExitStack()
        self.children: list[Child] = []

    def settings(self) -> Settings:
        return Settings(redis_url=self.store.url(0), broker_url=self.broker.url(1))

    def worker(self, name: str = "worker", *, ready: bool = True, **env: str) -> Child:
        child = self.stack.enter_context(worker({**self.env, **env}, self.directory, name))
        self.children.append(child)
        if ready:
            wait_until(lambda: self.is_ready(child), description=f"{name} to be ready", timeout_s=30)
        return child

    def workers(self, *names: str, **env: str) -> list[Child]:
        """Start workers side by side, and wait for all of them."""
        children = [self.worker(name, ready=False, **env) for name in names]
        for child in children:
            wait_until(
                lambda c=child: self.is_ready(c), description=f"{child.name} to be ready", timeout_s=60
            )
        return children

    @staticmethod
    def is_ready(child: Child) -> bool:
        assert child.running, f"the worker ended:\n{child.log[-3000:]}"
        return "@test ready" in child.log

    def engines_announced(self) -> bool:
        with self.store.client() as client:
            return bool(client.hlen(keys.ENGINES))


@pytest.fixture(scope="session")
def live_system() -> type[Live]:
    """How a module makes a live system of its own servers."""
    return Live


@pytest.fixture
def live(empty_server: ValkeyProcess, tmp_path: Path) -> Iterator[Live]:
    """A live system on the shared server; no worker runs yet."""
    system = Live(empty_server, empty_server, tmp_path)
    with system.stack:
        yield system


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, valkey_binary: Path) -> Iterator[Live]:
    """A live system with one worker, for all tests of a module: each uses threads of its own."""
    directory = tmp_path_factory.mktemp("stage")
    with topologies.store(directory / "valkey") as server:
        system = Live(server, server, directory)
        with system.stack:
            here = str(TESTS)
            system.worker(
                "stage",
                MAINSTEM_ENGINES="support.engines.frontend_engines,support.engines.engines",
                PYTHONPATH=here,
            )
            yield system


@pytest.fixture
def thread(request: pytest.FixtureRequest) -> str:
    """A thread of this test's own on the stage."""
    return request.node.name


@pytest.fixture(scope="module")
def gateway(stage: Live) -> Iterator[GatewayThread]:
    """A gateway before the stage, for all tests of a module; what names no engine gets `demo`."""
    with GatewayThread(stage.store.url(0), stage.broker.url(1), default_engine="demo") as running:
        yield running


@pytest.fixture
def apart(private_valkey: ValkeyProcess, empty_server: ValkeyProcess, tmp_path: Path) -> Iterator[Live]:
    """A live system whose broker is a server of its own, to be frozen and killed (`apart.broker`)."""
    system = Live(empty_server, private_valkey, tmp_path)
    with system.stack:
        yield system


@pytest.fixture
def fragile(private_valkey: ValkeyProcess, empty_server: ValkeyProcess, tmp_path: Path) -> Iterator[Live]:
    """A live system whose store is a server of its own, to be frozen and killed (`fragile.store`)."""
    system = Live(private_valkey, empty_server, tmp_path)
    with system.stack:
        yield system


@pytest.fixture
def whole(private_valkey: ValkeyProcess, tmp_path: Path) -> Iterator[Live]:
    """A live system all of which can be restarted: store and broker are one server of this test's own."""
    system = Live(private_valkey, private_valkey, tmp_path)
    with system.stack:
        yield system


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, valkey_binary: Path) -> Iterator[System]:
    """For the command line: a gateway and a worker beside a server of their own."""
    directory = tmp_path_factory.mktemp("cli")
    with contextlib.ExitStack() as stack:
        valkey = stack.enter_context(topologies.store(directory / "valkey"))
        gateway = stack.enter_context(GatewayThread(valkey.url(0), valkey.url(1)))
        system = System(valkey, gateway)
        child = stack.enter_context(worker(system.env, directory))
        wait_until(lambda: "@test ready" in child.log, description="the worker to be ready", timeout_s=30)
        yield system
