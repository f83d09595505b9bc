"""A store and what stands around it, for every test here; and what each must leave behind: keys that end by themselves.

A module that needs one of these otherwise defines it anew, under the same name.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from mainstem_api import AsyncRuns
from mainstem_shared.eventlog.reading.tailer import Tailer
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from mainstem_tasks.sdk import registry
from support.fakes.openai_server import OpenAIServer
from support.processes.gateways import GatewayThread

_INDEXES = (
    *(index for bucket in (*keys.INDEXES, keys.FIRST_INDEXES) for index in bucket),
    keys.WORKERS,
    keys.ENGINES,
)
PERMANENT = {*_INDEXES, *keys.CALLBACKS, keys.STREAM_SECRET, keys.SHARD}
"""Indexes whose entries are dropped one by one, one secret, and the mark of a static shard."""


@pytest.fixture(autouse=True)
def nothing_of_version_one() -> Iterator[None]:
    """What a test's process learnt of threads of version 1 is no other test's."""
    yield
    keys.FIRST_VERSION.clear()


@pytest.fixture(autouse=True)
def no_key_lives_for_ever(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test on the shared store, every key has a TTL or is on the permanent list."""
    server = request.getfixturevalue("empty_server") if "store_url" in request.fixturenames else None
    yield
    if server is None:
        return
    with server.client() as client:
        immortal = [
            key for key in client.scan_iter(count=1000) if key not in PERMANENT and client.ttl(key) == -1
        ]
    assert immortal == []


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[Store]:
    """A client of the empty store."""
    connected = Store(store_url)
    yield connected
    await connected.close()


@pytest.fixture
def settings(store_url: str, broker_url: str) -> Settings:
    """The empty store and broker, and no sweep that a test has not asked for."""
    return Settings(redis_url=store_url, broker_url=broker_url, sweep_s=3600)


@pytest.fixture
async def runs(settings: Settings) -> AsyncIterator[AsyncRuns]:
    """The application's client."""
    async with AsyncRuns(settings) as client:
        yield client


@pytest.fixture
async def tailer(store: Store) -> AsyncIterator[Tailer]:
    """A gateway's reader of logs, without the gateway."""
    async with Tailer(store) as made:
        yield made


@pytest.fixture
def gateway(store_url: str, broker_url: str) -> Iterator[GatewayThread]:
    """A gateway whose heartbeats a test can wait for."""
    with GatewayThread(store_url, broker_url, heartbeat_s=0.3) as running:
        yield running


@pytest.fixture
async def http(gateway: GatewayThread) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the gateway."""
    async with gateway.client() as client:
        yield client


@pytest.fixture
async def closing_clients() -> AsyncIterator[None]:
    """The connections that engines made in a test's loop are closed with it, as a worker does when it stops."""
    yield
    await registry.aclose()


@pytest.fixture(scope="module")
def openai_server() -> Iterator[OpenAIServer]:
    """A server that speaks OpenAI's protocol by a test's script."""
    with OpenAIServer() as server:
        yield server


@pytest.fixture
def provider(openai_server: OpenAIServer, closing_clients: None) -> OpenAIServer:
    """The scripted server, with nothing scripted yet."""
    openai_server.clear()
    return openai_server
