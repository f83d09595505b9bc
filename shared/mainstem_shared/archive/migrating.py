"""Brings the archive's tables up to date, with Alembic, for whoever opens it first."""

from __future__ import annotations

from importlib import resources
from typing import Any, Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine

VERSION_TABLE: Final = "mainstem_archive_version"
_LOCK: Final = 0x6D61696E  # "main": processes that start together upgrade one after the other


def _config() -> Config:
    config = Config()
    location = resources.files("mainstem_shared") / "archive" / "migrations"
    config.set_main_option("script_location", str(location).replace("%", "%%"))
    return config


def head() -> str:
    """Return the revision that this version of Mainstem works with."""
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def revision(connection: Connection) -> str | None:
    """Return the revision of the tables; None where there are none."""
    return MigrationContext.configure(
        connection, opts={"version_table": VERSION_TABLE}
    ).get_current_revision()


async def upgrade(engine: AsyncEngine) -> None:
    """Create the tables, or change them to what this version of Mainstem needs."""
    async with engine.connect() as connection:
        if await connection.run_sync(revision) == head():
            return
    async with engine.begin() as connection:
        await connection.run_sync(_upgrade)


def _upgrade(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    else:
        connection.execute(text("BEGIN IMMEDIATE"))
    config = _config()
    attributes: dict[str, Any] = config.attributes
    attributes["connection"] = connection
    command.upgrade(config, "head")
