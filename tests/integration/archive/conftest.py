"""An archive for every test here: SQLite, and PostgreSQL where a test asks for both (`each_database`)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from mainstem_shared import archive, transitions
from mainstem_shared.archive.database import Archive
from mainstem_shared.archive.rows import StoredRun
from mainstem_shared.operations.archiving import stored_of
from mainstem_shared.operations.performing import Operations
from mainstem_shared.operations.sweeping import Sweeper
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.models.finishing import Finishing
from support.processes.dying_process import Messages
from support.processes.gateways import GatewayThread
from support.processes.postgresql import PostgresProcess


@pytest.fixture
def postgresql_url(postgresql: PostgresProcess) -> str:
    """The address of an empty database."""
    with postgresql.connect() as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return postgresql.url


@pytest.fixture(params=["sqlite", "postgresql"])
def each_database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/archive.db"
    return request.getfixturevalue("postgresql_url")


@pytest.fixture
def archive_url(tmp_path: Path) -> str:
    """The archive's address: SQLite's, unless a module returns `each_database` here."""
    return f"sqlite:///{tmp_path}/archive.db"


@pytest.fixture
def settings(store_url: str, broker_url: str, archive_url: str, tmp_path: Path) -> Settings:
    """Runs are due to be archived at once, and leave the store at once."""
    return Settings(
        redis_url=store_url,
        broker_url=broker_url,
        sweep_s=3600,
        archive_url=archive_url,
        archive_hot_s=0,
        compact_after_s=0,
        blob_url=f"file://{tmp_path}/blobs",
    )


@pytest.fixture
async def store(store_url: str, settings: Settings) -> AsyncIterator[Store]:
    """The store, and its archive."""
    connected = Store(store_url, archive=archive.connect(settings))
    yield connected
    await connected.close()


@pytest.fixture
def kept(store: Store) -> Archive:
    """The archive itself."""
    assert store.archive is not None
    return store.archive


@pytest.fixture
def operations(store: Store, settings: Settings) -> Operations:
    """What a process changes runs with."""
    return Operations(store=store, settings=settings, publisher=Messages())


@pytest.fixture
async def sweeper(store: Store, operations: Operations) -> Sweeper:
    """A sweeper that a test calls; whoever writes runs by hand (`w1`) is alive to it."""
    await store.client.set(keys.lease("w1"), "worker", ex=120)
    return Sweeper(operations=operations, owner=lambda: "sweeper")


@pytest.fixture
def finished(operations: Operations) -> Finishing:
    """Makes runs that said three words and ended."""
    return Finishing(operations)


@pytest.fixture
async def stored(finished: Finishing) -> StoredRun:
    """What the store has of a finished run."""
    (found,) = await transitions.dump_many(finished.store, [await finished()])
    assert not isinstance(found, transitions.Gone)
    run = stored_of(found)
    assert run is not None
    return run


@pytest.fixture
async def archive_http(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway that has the archive."""
    kept = {name: getattr(settings, name) for name in ("archive_url", "blob_url", "archive_hot_s")}
    with GatewayThread(settings.redis_url, settings.broker_url, **kept) as running:
        async with running.client() as client:
            yield client
