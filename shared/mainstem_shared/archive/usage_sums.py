"""Sums up, in the database, what archived runs used, by day, user and model.

A run counts on the day (UTC) of its end. Rows from before there were sums by model count under the model ''.
Deleted runs count no more: they leave nothing behind, also no figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from mainstem_shared.model import usage

if TYPE_CHECKING:
    from mainstem_shared.archive.connection import Connection

_COUNTED: Final = ("calls", *(name for name in usage.UsageRow._fields if name.endswith("_tokens")))
_WHERE: Final = (
    "tenant = :tenant AND finished_ms >= :since AND finished_ms < :until AND deleted_ms IS NULL"
    " AND (CAST(:user_id AS VARCHAR(255)) IS NULL OR user_id = :user_id)"
)
_NANOS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """What a user's runs that ended on a day used of a model.

    Attributes:
        day: UTC, as `2026-11-28`.
        tokens: by kind, with `calls`.
        cost_usd: of the runs whose cost is known.
        unpriced: runs whose cost is not.
    """

    day: str
    user_id: str
    provider: str
    model: str
    runs: int
    tokens: dict[str, int]
    cost_usd: Decimal
    unpriced: int


async def by_day(
    database: Connection, *, tenant: str, since_ms: int, until_ms: int, user_id: str | None = None
) -> list[Sum]:
    """Return the sums of a tenant's runs, or of one of its users', that ended in that time, in order.

    Raises:
        ArchiveUnavailable: nobody knows.
    """
    from sqlalchemy import (
        text,
    )  # here: whoever can ask for sums imports this module, with an archive or without

    query = text(_of_sqlite() if database.is_sqlite else _of_postgresql())
    given = {"tenant": tenant, "since": since_ms, "until": until_ms, "user_id": user_id}
    return [_sum(row) for row in await database.read(query.bindparams(**given))]


def _sum(row: Any) -> Sum:
    return Sum(
        day=row["day"],
        user_id=row["user_id"],
        provider=row["provider"],
        model=row["model"],
        runs=row["runs"],
        tokens={name: int(row[name]) for name in _COUNTED},
        cost_usd=Decimal(int(row["nanos"])) / _NANOS,
        unpriced=row["unpriced"],
    )


def _of_postgresql() -> str:
    def member(name: str) -> str:
        return f"m.value ->> '{name}'"

    counts = ", ".join(f"sum(COALESCE(CAST({member(name)} AS numeric), 0)) AS {name}" for name in _COUNTED)
    return (
        "SELECT to_char(to_timestamp(finished_ms / 1000) AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS day, user_id,"  # noqa: S608 - names of our own
        f" COALESCE({member('provider')}, '') AS provider, COALESCE({member('model')}, '') AS model,"
        f" count(DISTINCT run_id) AS runs, {counts},"
        f" round(COALESCE(sum(CAST({member('cost_usd')} AS numeric)), 0) * {_NANOS}) AS nanos,"
        f" count(*) FILTER (WHERE {member('cost_usd')} IS NULL) AS unpriced"
        " FROM mainstem_runs, json_array_elements(COALESCE(usage -> 'models', json_build_array(usage))) AS m"
        f" WHERE {_WHERE} AND json_typeof(usage) = 'object' GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"
    )


def _of_sqlite() -> str:
    def member(name: str) -> str:
        return f"json_extract(m.value, '$.{name}')"

    counts = ", ".join(f"sum(COALESCE({member(name)}, 0)) AS {name}" for name in _COUNTED)
    # SQLite has no decimals: each run's cost is rounded to a billionth of a dollar.
    nanos = f"CAST(round(CAST({member('cost_usd')} AS REAL) * {_NANOS}) AS INTEGER)"
    return (
        "SELECT strftime('%Y-%m-%d', finished_ms / 1000, 'unixepoch') AS day, user_id,"  # noqa: S608 - names of our own
        f" COALESCE({member('provider')}, '') AS provider, COALESCE({member('model')}, '') AS model,"
        f" count(DISTINCT run_id) AS runs, {counts}, COALESCE(sum({nanos}), 0) AS nanos,"
        f" sum({member('cost_usd')} IS NULL) AS unpriced"
        " FROM mainstem_runs,"
        " json_each(COALESCE(json_extract(usage, '$.models'), json_array(json(usage)))) AS m"
        f" WHERE {_WHERE} AND json_type(usage) = 'object' GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"
    )
