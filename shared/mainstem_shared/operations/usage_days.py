"""Reads what a user or a tenant spent by day: from the store, or from the archive if the store has nothing.

The store counts a call on the day it was made, and forgets days (`spending.KEPT_MS`). The archive counts a
run on the day of its end. So a day comes from one of them as a whole: nothing is counted twice.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from mainstem_shared.archive import usage_sums
from mainstem_shared.model import runs
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations import spending
from mainstem_shared.operations.spending import DAY_MS, KEPT_MS, OTHER, DaySpending, ModelSpending
from mainstem_shared.store.client import Store

if TYPE_CHECKING:
    from mainstem_shared.archive.database import Archive
    from mainstem_shared.archive.usage_sums import Sum


async def by_day(store: Store, *, tenant: str, user_id: str | None, days: int = 1) -> list[DaySpending]:
    """Return what a user (None: all of the tenant) spent on each of the last days, newest first.

    Raises:
        StoreUnavailable: the store does not answer.
        ArchiveUnavailable: some of the days are in the archive alone, which does not answer.
    """
    kept = min(days, KEPT_MS // DAY_MS)
    found = await spending.spent(store, tenant=tenant, user_id=user_id, days=kept)
    now = runs.at_ms(now_ms())
    older = [f"{now - timedelta(days=back):%Y-%m-%d}" for back in range(kept, days)]
    if store.archive is None:
        return [*found, *map(_nothing, older)]
    gone = [*await _unknown(store, found[1:]), *older]  # what is spent today is in no archive alone
    archived = await _archived(store.archive, gone, tenant=tenant, user_id=user_id) if gone else {}
    known = {day.day: day for day in found} | archived
    return [known.get(day) or _nothing(day) for day in (*(day.day for day in found), *older)]


async def _unknown(store: Store, found: Sequence[DaySpending]) -> list[str]:
    """Return the days that the store has nothing of: no account of anybody's. It was emptied since."""
    empty = [day.day for day in found if not (day.calls or day.tokens or day.reserved_tokens)]
    of_all = await asyncio.gather(*(spending.spent_by_all(store, day=day) for day in empty))
    return [day.day for day in of_all if not day.calls]


async def _archived(
    archive: Archive, days: Sequence[str], *, tenant: str, user_id: str | None
) -> dict[str, DaySpending]:
    """Return what the archive has of these days, which are in no order."""
    begins = [int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()) * 1000 for day in days]
    sums = await usage_sums.by_day(
        archive, tenant=tenant, user_id=user_id, since_ms=min(begins), until_ms=max(begins) + DAY_MS
    )
    wanted = set(days)
    grouped = itertools.groupby((one for one in sums if one.day in wanted), key=lambda one: one.day)
    return {day: _day(day, list(some)) for day, some in grouped}


def _day(day: str, sums: Sequence[Sum]) -> DaySpending:
    by_model: dict[str, list[Sum]] = {}
    for one in sums:
        by_model.setdefault(f"{one.provider or OTHER}/{one.model or OTHER}", []).append(one)
    return DaySpending(
        day=day,
        calls=_total(sums, "calls"),
        tokens=_total(sums, "total_tokens"),
        input_tokens=_total(sums, "input_tokens"),
        output_tokens=_total(sums, "output_tokens"),
        cost_usd=_cost(sums),
        reserved_usd=Decimal(0),
        reserved_tokens=0,
        unpriced_calls=sum(one.unpriced for one in sums),
        estimated_calls=0,
        models=tuple(
            ModelSpending(
                model=model,
                calls=_total(some, "calls"),
                tokens=_total(some, "total_tokens"),
                cost_usd=_cost(some),
                unpriced_calls=sum(one.unpriced for one in some),
            )
            for model, some in sorted(by_model.items())
        ),
    )


def _total(sums: Iterable[Sum], name: str) -> int:
    return sum(one.tokens[name] for one in sums)


def _cost(sums: Iterable[Sum]) -> Decimal:
    return sum((one.cost_usd for one in sums), Decimal(0))


def _nothing(day: str) -> DaySpending:
    return _day(day, ())
