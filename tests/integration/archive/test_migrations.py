"""The archive's tables are what the migrations make, also of an earlier revision with rows in it."""

from __future__ import annotations

from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text

from mainstem_shared import errors, transitions
from mainstem_shared.archive import migrating
from mainstem_shared.archive.connection import _engine, _parse
from mainstem_shared.archive.database import Archive
from mainstem_shared.archive.rows import row_of
from mainstem_shared.archive.tables import METADATA
from mainstem_shared.model.verification import Dump
from mainstem_shared.operations.archiving import stored_of
from mainstem_shared.store.client import Store
from support.models.finishing import Finishing


@pytest.fixture
def archive_url(each_database: str) -> str:
    """The archive's address: every test runs on both databases."""
    return each_database


def differences(connection: Connection) -> list[Any]:
    context = MigrationContext.configure(connection, opts={"version_table": migrating.VERSION_TABLE})
    return list(compare_metadata(context, METADATA))


async def test_migrations_make_the_tables(archive_url: str) -> None:
    """From the first revision, with a row, to the newest: the row is read, and nothing else is to be changed."""
    engine = _engine(_parse(archive_url))
    async with engine.begin() as connection:

        def first(sync: Connection) -> None:
            config = migrating._config()
            config.attributes["connection"] = sync
            command.upgrade(config, "0001")

        await connection.run_sync(first)
        await connection.execute(text("INSERT INTO mainstem_runs (run_id, tenant) VALUES ('a_b', 't')"))
    archive = Archive(archive_url)
    try:
        assert await archive.known(["a_b"]) == {"a_b"}
    finally:
        await archive.close()
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await engine.dispose()


async def test_tables_of_a_later_version_are_used(archive_url: str, finished: Finishing) -> None:
    """A process that starts after a later version has added to the tables archives and reads as before."""
    archive = Archive(archive_url)
    async with (await archive.open()).begin() as connection:
        await connection.execute(text("ALTER TABLE mainstem_runs ADD COLUMN later VARCHAR(8)"))
        await connection.execute(text("UPDATE mainstem_archive_version SET version_num = '9999'"))
    await archive.close()
    run_id = await finished()
    stored = stored_of(await dumped(finished.store, run_id))
    assert stored is not None
    try:
        assert await archive.put([row_of(stored)]) == set()
        assert (await archive.get(run_id)) == stored
    finally:
        await archive.close()


async def dumped(store: Store, run_id: str) -> Dump:
    (found,) = await transitions.dump_many(store, [run_id])
    assert not isinstance(found, transitions.Gone)
    return found


async def test_tables_of_two_versions_at_once_are_no_archive(archive_url: str) -> None:
    """Nobody knows what they are: the archive is unavailable, which every caller knows how to bear."""
    archive = Archive(archive_url)
    async with (await archive.open()).begin() as connection:
        await connection.execute(text("INSERT INTO mainstem_archive_version VALUES ('9999')"))
    await archive.close()
    try:
        with pytest.raises(errors.ArchiveUnavailable):
            await archive.count()
    finally:
        await archive.close()
