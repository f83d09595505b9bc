"""Note which deletions are under way, and keep what people say about threads."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, LargeBinary, SmallInteger, String, text

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the column and the table."""
    op.add_column("mainstem_runs", Column("doomed", SmallInteger))
    doomed = text("doomed = 1")
    op.create_index(
        "mainstem_runs_doomed",
        "mainstem_runs",
        ["deleted_ms"],
        postgresql_where=doomed,
        sqlite_where=doomed,
    )
    op.create_table(
        "mainstem_threads",
        Column("tenant", String(255), primary_key=True),
        Column("thread_id", String(255), primary_key=True),
        Column("title", LargeBinary),
        Column("labels", LargeBinary),
        Column("metadata", LargeBinary),
        Column("deleted_ms", BigInteger),
    )


def downgrade() -> None:
    """Drop them, with what people said about threads."""
    op.drop_table("mainstem_threads")
    op.drop_index("mainstem_runs_doomed", "mainstem_runs")
    op.drop_column("mainstem_runs", "doomed")
