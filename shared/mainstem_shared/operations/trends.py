"""Keeps the fleet's figures by minute for some hours, for the charts of the operator's page.

Each process adds what it counted since its last sweep to the minute's hash, if it counted anything; the
elected sweeper adds the census. What a process that is killed counted after its last sweep is missing.
Figures of months, and alerts, are Prometheus' business: both read the same counters.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

from prometheus_client.core import Metric as Family

from mainstem_shared.metrics import catalogue as metrics
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations.census import Census
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store

MINUTE_MS: Final = 60_000
LONGEST: Final = 360
"""Minutes that are kept."""
_TTL_MS: Final = (LONGEST + 10) * MINUTE_MS
_MICROS: Final = 1_000_000
"""Costs are whole millionths of a dollar: the store adds integers exactly."""

_told: Counter[str] = Counter()
"""What this process has added to the store so far, whichever of its sweepers did."""
_telling: Final = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Minute:
    """The fleet's figures of one minute."""

    at_ms: int
    ended: dict[str, int] = field(default_factory=dict[str, int])
    """Runs that ended, by result: succeeded, failed, aborted."""
    runs: dict[str, int] | None = None
    """Unfinished runs by state, as of the minute's last census; None: there was none."""
    queue_oldest_s: float | None = None
    """For how long the oldest queued run had waited then."""
    queue_wait_p95_s: float | None = None
    first_token_p50_s: float | None = None
    first_token_p95_s: float | None = None
    tokens: int = 0
    """That providers reported: input and output."""
    cost_usd: float = 0.0


async def tell(store: Store, census: Census | None = None) -> None:
    """Add what this process counted since it last told, and the figures of a census that it took.

    A failure leaves it to the next call; a reply that was lost may count some of it twice.
    """
    counted = _counted()
    with _telling:
        new = counted - _told  # positive differences alone
        _told.update(new)
    key = keys.trend(now_ms() // MINUTE_MS)
    commands: list[tuple[Any, ...]] = [("HINCRBY", key, name, amount) for name, amount in new.items()]
    if census is not None:
        commands.append(("HSET", key, *_of_census(census)))
    if not commands:
        return
    try:
        await store.commands(*commands, ("PEXPIRE", key, _TTL_MS))
    except BaseException:
        with _telling:
            _told.subtract(new)
        raise


async def read(store: Store, *, minutes: int) -> list[Minute]:
    """Return the last minutes, the oldest first; the last one is not over."""
    last = now_ms() // MINUTE_MS
    wanted = range(last - minutes + 1, last + 1)
    found: list[Any] = await store.commands(
        *(("HGETALL", keys.trend(minute)) for minute in wanted), large=True
    )
    return [_minute(minute, _numbers(stored)) for minute, stored in zip(wanted, found, strict=True)]


# -- what is told


def _counted() -> Counter[str]:
    """Return what this process has counted in all, by the fields of a minute."""
    found: Counter[str] = Counter()
    for sample in _samples(metrics.RUNS_ENDED, "_total"):
        found[f"ended:{sample.labels['result']}"] += int(sample.value)
    for sample in _samples(metrics.TOKENS, "_total"):
        if sample.labels["kind"] in ("input", "output"):  # the other kinds are parts of these
            found["tokens"] += int(sample.value)
    found["cost"] = round(sum(sample.value for sample in _samples(metrics.COST, "_total")) * _MICROS)
    found.update(_buckets("wait", metrics.QUEUE_WAIT))
    found.update(_buckets("first", metrics.FIRST_TOKEN))
    return found


def _samples(metric: Any, suffix: str) -> Iterator[Any]:
    families: Iterable[Family] = metric.collect()
    for family in families:
        yield from (sample for sample in family.samples if sample.name.endswith(suffix))


def _buckets(name: str, histogram: Any) -> Counter[str]:
    """Return how many observations are in each bucket alone, over all labels; Prometheus' are cumulative."""
    upto: Counter[float] = Counter()
    for sample in _samples(histogram, "_bucket"):
        upto[float(sample.labels["le"])] += int(sample.value)
    bounds = sorted(upto)
    each = {bounds[0]: upto[bounds[0]]} if bounds else {}
    each |= {high: upto[high] - upto[low] for low, high in pairwise(bounds)}
    return Counter({f"{name}:{bound:g}": count for bound, count in each.items()})


def _of_census(census: Census) -> Iterator[str | int]:
    for state, count in census.runs.items():
        yield from (f"runs:{state}", count)
    oldest = 0 if census.queued_since_ms is None else max(0, now_ms() - census.queued_since_ms)
    yield from ("oldest_ms", oldest)


# -- what is read


def _numbers(stored: dict[bytes, bytes] | list[bytes]) -> dict[str, int]:
    """Return a hash's fields, whether the connection speaks RESP3 or RESP2."""
    if isinstance(stored, list):
        stored = dict(zip(stored[::2], stored[1::2], strict=True))
    return {name.decode(): int(value) for name, value in stored.items()}


def _minute(minute: int, stored: dict[str, int]) -> Minute:
    waits, firsts = _family(stored, "wait"), _family(stored, "first")
    oldest_ms = stored.get("oldest_ms")
    return Minute(
        at_ms=minute * MINUTE_MS,
        ended=_family(stored, "ended"),
        runs=_family(stored, "runs") or None,
        queue_oldest_s=None if oldest_ms is None else oldest_ms / 1000,
        queue_wait_p95_s=_quantile(waits, 0.95),
        first_token_p50_s=_quantile(firsts, 0.5),
        first_token_p95_s=_quantile(firsts, 0.95),
        tokens=stored.get("tokens", 0),
        cost_usd=stored.get("cost", 0) / _MICROS,
    )


def _family(stored: dict[str, int], name: str) -> dict[str, int]:
    begin = f"{name}:"
    return {field.removeprefix(begin): n for field, n in stored.items() if field.startswith(begin)}


def _quantile(buckets: dict[str, int], share: float) -> float | None:
    """Estimate a quantile as Prometheus does: evenly within a bucket; beyond the last bound, that bound."""
    wanted, seen, low = share * sum(buckets.values()), 0, 0.0
    if not wanted:
        return None
    for bound in metrics.SECONDS:
        count = buckets.get(f"{bound:g}", 0)
        if count and seen + count >= wanted:
            return low + (bound - low) * (wanted - seen) / count
        seen, low = seen + count, float(bound)
    return low
