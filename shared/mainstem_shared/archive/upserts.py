"""Builds the statement that inserts many finished runs at once, for SQLite and for PostgreSQL.

PostgreSQL gets a whole slice as one array per column: one statement, parsed, planned and answered once. COPY
was no faster where both were tried (`docs/decisions/0200-*`), and would need a table of its own to replace
rows from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Final

from sqlalchemy import ColumnElement, Executable, and_, or_, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.ext.asyncio import AsyncConnection

from mainstem_shared.archive.tables import RUNS

SLICE_BYTES: Final = 16 * 1024 * 1024
"""Content of one statement: an array of PostgreSQL holds a gigabyte, and this process needs a copy of it."""
_KEPT: Final = ("run_id", "deleted_ms", "doomed")
_PLACE: Final = re.compile(r"%\((\w+)\)s")
_NAMES: Final = tuple(column.name for column in RUNS.c if column.name != "doomed")


def slices(runs: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows in groups whose content is of SLICE_BYTES at most, or which have a single row.

    Of rows with the same id the last one counts: a statement replaces a row only once.
    """
    group, size = list[dict[str, Any]](), 0
    for row in {row["run_id"]: row for row in runs}.values():
        if group and size + row["size"] > SLICE_BYTES:
            yield group
            group, size = [], 0
        group.append(row)
        size += row["size"]
    if group:
        yield group


async def put(connection: AsyncConnection, runs: Sequence[dict[str, Any]]) -> int:
    """Insert rows unless a later version is there; returns how many were inserted, -1 if that is unknown."""
    connection = await connection.execution_options(preserve_rowcount=True)
    if connection.dialect.name == "sqlite":
        return (await connection.execute(_of_rows(), list(runs))).rowcount
    columns = {name: [row[name] for row in runs] for name in _NAMES}
    columns["usage"] = [None if usage is None else json.dumps(usage) for usage in columns["usage"]]
    return (await connection.exec_driver_sql(_of_columns(), columns)).rowcount


@cache
def _of_rows() -> Executable:
    insert = sqlite.insert(RUNS)
    return insert.on_conflict_do_update(
        index_elements=[RUNS.c.run_id], set_=_replacement(insert.excluded), where=_is_older(insert.excluded)
    )


@cache
def _of_columns() -> str:
    dialect = PGDialect_psycopg()
    arrays = ", ".join(f"CAST(:{name} AS {RUNS.c[name].type.compile(dialect)}[])" for name in _NAMES)
    columns = [RUNS.c[name] for name in _NAMES]
    given = text(f"SELECT * FROM unnest({arrays})").columns(*columns)  # noqa: S608 - names of our own columns
    insert = postgresql.insert(RUNS).from_select(_NAMES, given)
    statement = insert.on_conflict_do_update(
        index_elements=[RUNS.c.run_id], set_=_replacement(insert.excluded), where=_is_older(insert.excluded)
    )
    # `b`: the driver sends arrays in binary, which saves it from quoting every text and every byte.
    return _PLACE.sub(r"%(\1)b", str(statement.compile(dialect=dialect)))


def _replacement(new: Any) -> dict[str, Any]:
    return {name: new[name] for name in _NAMES if name not in _KEPT}


def _is_older(new: Any) -> ColumnElement[bool]:
    """Return the condition under which what is there gives way: no tombstone, and not read later."""
    is_newer = or_(
        RUNS.c.epoch < new.epoch,
        and_(RUNS.c.epoch == new.epoch, RUNS.c.archived_ms <= new.archived_ms),
    )
    return and_(RUNS.c.deleted_ms.is_(None), is_newer)
