"""Alembic's environment: it works on the connection that `migrating` gives it."""

from __future__ import annotations

from alembic import context

from mainstem_shared.archive.migrating import VERSION_TABLE
from mainstem_shared.archive.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table=VERSION_TABLE,
    transactional_ddl=False,  # the caller's transaction has it all
)
context.run_migrations()
