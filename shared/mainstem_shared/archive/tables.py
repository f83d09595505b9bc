"""The archive's tables. `migrations` creates and changes them; a test compares the two."""

from __future__ import annotations

from typing import Final

from sqlalchemy import JSON, BigInteger, Column, Index, LargeBinary, MetaData, String, Table

METADATA: Final = MetaData()

RUNS: Final = Table(
    "mainstem_runs",
    METADATA,
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
    Index("mainstem_runs_by_user", "tenant", "user_id", "created_ms", "run_id"),
    Index("mainstem_runs_by_thread", "tenant", "thread_id", "created_ms", "run_id"),
    Index("mainstem_runs_by_age", "tenant", "created_ms", "run_id"),
)
"""A row per run. `deleted_ms` makes it a tombstone: all but the id is NULL, and nothing brings it back.

`spec`, `input` and `final` are JSON as the store has it, in bytes: it may hold what the types of databases
refuse (a NUL, half of a surrogate pair). `record` has the rest of the record.
"""
