"""Upgrades the archive's tables with Alembic when a process opens the archive.

Tables of a later version of Mainstem are used as they are: its revisions only add what this one leaves alone,
and processes that were at work when the tables were upgraded go on in the same way.
"""

from __future__ import annotations

import logging
from importlib import resources
from typing import Any, Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine

from mainstem_shared import errors

logger = logging.getLogger(__name__)

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


def _is_known(revision_id: str) -> bool:
    revisions = ScriptDirectory.from_config(_config()).walk_revisions()
    return any(script.revision == revision_id for script in revisions)


async def upgrade(engine: AsyncEngine) -> None:
    """Create the tables, or change them to what this version of Mainstem needs."""
    try:
        async with engine.connect() as connection:
            found = await connection.run_sync(revision)
    except CommandError as error:  # its table of versions names several
        raise errors.ArchiveUnavailable from error
    if found == head():
        return
    if found is not None and not _is_known(found):
        noted = {"action": "archive_newer", "revision": found, "known": head()}
        logger.warning("the archive's tables are of a later version of Mainstem", extra=noted)
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
