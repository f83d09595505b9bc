"""Create the table of runs."""

from __future__ import annotations

from alembic import op
from sqlalchemy import JSON, BigInteger, Column, LargeBinary, String

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the table and its indexes."""
    op.create_table(
        "mainstem_runs",
        Column("run_id", String(80), primary_key=True),
        Column("tenant", String(255)),
        Column("user_id", String(255)),
        Column("thread_id", String(255)),
        Column("engine", String(128)),
        Column("status", String(16)),
        Column("reason", String(32)),
        Column("created_ms", BigInteger),
        Column("finished_ms", BigInteger),
        Column("epoch", BigInteger),
        Column("usage", JSON),
        Column("spec", LargeBinary),
        Column("input", LargeBinary),
        Column("record", LargeBinary),
        Column("final_id", String(48)),
        Column("final", LargeBinary),
        Column("size", BigInteger),
        Column("archived_ms", BigInteger),
        Column("deleted_ms", BigInteger),
    )
    order = ["created_ms", "run_id"]
    op.create_index("mainstem_runs_by_user", "mainstem_runs", ["tenant", "user_id", *order])
    op.create_index("mainstem_runs_by_thread", "mainstem_runs", ["tenant", "thread_id", *order])
    op.create_index("mainstem_runs_by_age", "mainstem_runs", ["tenant", *order])


def downgrade() -> None:
    """Drop the table, with everything in it."""
    op.drop_table("mainstem_runs")
