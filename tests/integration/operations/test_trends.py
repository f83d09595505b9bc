"""The fleet's figures by minute: what processes counted, once each, and the quantiles that charts show."""

from __future__ import annotations

import pytest

from mainstem_shared import errors
from mainstem_shared.metrics import catalogue as metrics
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations import trends
from mainstem_shared.operations.census import Census
from mainstem_shared.store.client import Store


async def total(store: Store) -> trends.Minute:
    """Add up the last two minutes: a test may see one begin."""
    before, last = await trends.read(store, minutes=2)
    shown = last if last.runs is not None or last.ended else before
    ended = {
        name: before.ended.get(name, 0) + last.ended.get(name, 0) for name in {*before.ended, *last.ended}
    }
    return trends.Minute(
        at_ms=shown.at_ms, ended=ended, runs=shown.runs, queue_oldest_s=shown.queue_oldest_s,
        first_token_p50_s=shown.first_token_p50_s, first_token_p95_s=shown.first_token_p95_s,
        tokens=before.tokens + last.tokens, cost_usd=before.cost_usd + last.cost_usd,
    )  # fmt: skip


async def test_what_was_counted_is_told_once(store: Store) -> None:
    """Runs by result, tokens but for their parts, costs, and first tokens; a second sweep adds nothing."""
    await trends.tell(store)  # what other tests counted in this process
    await store.client.flushdb()
    metrics.RUNS_ENDED.labels("demo", "succeeded", "completed").inc(3)
    metrics.RUNS_ENDED.labels("demo", "failed", "engine_error").inc()
    for kind, count in (("input", 70), ("output", 30), ("cached_input", 50)):
        metrics.TOKENS.labels("m", kind).inc(count)
    metrics.COST.labels("m").inc(0.0125)
    for seconds in (0.2, 0.2, 0.2, 4.0):
        metrics.FIRST_TOKEN.labels("demo").observe(seconds)
    census = Census(at_ms=now_ms(), runs={"running": 2, "queued": 1}, queued_since_ms=now_ms() - 90_000)
    await trends.tell(store, census)
    await trends.tell(store)
    seen = await total(store)
    assert seen.ended == {"succeeded": 3, "failed": 1}
    assert (seen.tokens, seen.cost_usd) == (100, 0.0125)
    assert seen.runs == {"running": 2, "queued": 1}
    assert seen.queue_oldest_s == pytest.approx(90, abs=5)
    assert seen.first_token_p50_s is not None
    assert 0.1 < seen.first_token_p50_s <= 0.25
    assert seen.first_token_p95_s is not None
    assert 2.5 < seen.first_token_p95_s <= 5


async def test_what_could_not_be_told_is_told_later(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    await trends.tell(store)
    await store.client.flushdb()
    metrics.RUNS_ENDED.labels("demo", "aborted", "user_abort").inc(2)

    async def unavailable(*_: object, **__: object) -> None:
        raise errors.StoreUnavailable

    with monkeypatch.context() as broken:
        broken.setattr(store, "commands", unavailable)
        with pytest.raises(errors.StoreUnavailable):
            await trends.tell(store)
    await trends.tell(store)
    assert (await total(store)).ended == {"aborted": 2}


async def test_a_process_that_counted_nothing_asks_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle fleet of hundreds must not send a command per sweep each."""
    await trends.tell(store)
    asked: list[object] = []
    monkeypatch.setattr(store, "commands", lambda *commands, **_: asked.append(commands))
    await trends.tell(store)
    assert asked == []
