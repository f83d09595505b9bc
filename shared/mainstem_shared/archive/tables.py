"""The archive's tables. `migrations` creates and changes them; a test compares the two."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Index,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    text,
)

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
    Column("usage", JSON(none_as_null=True)),
    Column("spec", LargeBinary),
    Column("input", LargeBinary),
    Column("record", LargeBinary),
    Column("final_id", String(48)),
    Column("final", LargeBinary),
    Column("size", BigInteger),
    Column("archived_ms", BigInteger),
    Column("deleted_ms", BigInteger),
    Column("doomed", SmallInteger),
    Column("messages", LargeBinary),
    Index("mainstem_runs_by_user", "tenant", "user_id", "created_ms", "run_id"),
    Index("mainstem_runs_by_thread", "tenant", "thread_id", "created_ms", "run_id"),
    Index("mainstem_runs_by_age", "tenant", "created_ms", "run_id"),
    Index(
        "mainstem_runs_doomed",
        "deleted_ms",
        postgresql_where=text("doomed = 1"),
        sqlite_where=text("doomed = 1"),
    ),
)
"""A row per run. `deleted_ms` makes it a tombstone: nobody reads it any more, and nothing brings it back.

`doomed` is 1 while the store may still have keys of the deleted run, or the blob store a file: until then the
tombstone says whose it was; afterwards all but the id and the time is NULL. `archived_ms` is when the run
was read from the store, or changed here. `spec`, `input` and `final` are JSON as the store has it, in bytes:
it may hold what the types of databases refuse (a NUL, half of a surrogate pair). `record` has the rest.
`messages` is what the run adds to its thread (`model.ready_messages`), NULL if that has to be built.
"""

THREADS: Final = Table(
    "mainstem_threads",
    METADATA,
    Column("tenant", String(255), primary_key=True),
    Column("thread_id", String(255), primary_key=True),
    Column("title", LargeBinary),
    Column("labels", LargeBinary),
    Column("metadata", LargeBinary),
    Column("deleted_ms", BigInteger),
)
"""What people say about threads, as JSON in bytes. `deleted_ms`: whatever was said before then is gone."""
