"""Keep the messages of a run ready for those who read its thread."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, LargeBinary

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the column; rows without it are read as before."""
    op.add_column("mainstem_runs", Column("messages", LargeBinary))


def downgrade() -> None:
    """Drop it: everything in it can be built again."""
    op.drop_column("mainstem_runs", "messages")
