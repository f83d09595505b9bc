"""Turns at a provider on a real store, with two workers' runtimes: limits, closures, and what waits for them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mainstem_api import AsyncRuns
from mainstem_shared import errors, transitions
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations import provider_limits
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from mainstem_shared.transitions import Drawn, Pace
from mainstem_tasks import RunContext, engine
from mainstem_tasks.execution import segments
from support.fakes.openai_server import OpenAIServer, Refusal, answer
from support.processes.in_process_worker import working
from support.waiting import wait_until_async

MINUTE_MS = 60_000
ASK = {"messages": [{"role": "user", "content": "hello"}], "model": "m"}


class Clock:
    """A pace's clock that the test moves: scripts take the time as an argument."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ms = now_ms()
        monkeypatch.setattr("mainstem_shared.transitions.pace.now_ms", lambda: self.now_ms)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def times(store: Store, pace: Pace, number: int, *, tokens: int = 1) -> list[int]:
    """When so many calls that ask now may be made, in ms from now."""
    drawn = [await transitions.draw(store, pace, tokens=tokens) for _ in range(number)]
    return [one.wait_ms for one in drawn]


@pytest.mark.parametrize(
    ("limit", "tokens", "of_tokens"),
    [(1, 1, False), (7, 1, False), (60, 1, False), (1000, 10, True), (1000, 400, True), (1000, 5000, True)],
)
@pytest.mark.usefixtures("clock")
async def test_no_minute_has_more_than_the_limit(store: Store, limit: int, tokens: int, *, of_tokens: bool):
    """Of requests, of tokens, and of calls that are larger than a tenth of the minute or than all of it."""
    named = {"tokens": limit} if of_tokens else {"requests": limit}
    pace = Pace(key=keys.pace("p"), **named)
    amount = min(tokens, limit) if of_tokens else 1
    drawn = await times(store, pace, 3 * limit // amount + 2, tokens=tokens)
    assert drawn == sorted(drawn)
    assert drawn[0] == 0
    most = max(amount * sum(first <= at < first + MINUTE_MS - 1 for at in drawn) for first in drawn)
    assert most <= limit
    assert most >= limit // 2 or limit < 3, "and the limit is used"


async def test_what_was_not_used_for_long_is_not_saved_up(store: Store, clock: Clock):
    """After an idle hour a tenth of the minute may come at once, as in the beginning."""
    pace = Pace(key=keys.pace("p"), requests=60)
    first = await times(store, pace, 8)
    clock.now_ms += 60 * MINUTE_MS
    assert await times(store, pace, 8) == first
    assert first.count(0) == 6


async def test_an_abort_gives_its_time_back(store: Store, clock: Clock):
    """And tokens that a call did not use are drawn by the next."""
    pace = Pace(key=keys.pace("p"), requests=60, tokens=1000)
    for _ in range(20):
        drawn = await transitions.draw(store, pace, tokens=100)
        await transitions.correct(store, pace, known=drawn.closures, requests=-1, tokens=-100)
    assert await times(store, pace, 1, tokens=100) == [0]
    drawn = await transitions.draw(store, pace, tokens=10)
    assert drawn.wait_ms > 0
    await transitions.correct(store, pace, known=drawn.closures, tokens=990)  # it used a whole minute's
    assert (await transitions.draw(store, pace, tokens=10)).wait_ms > MINUTE_MS


async def test_a_closure_holds_for_all_and_reopens_slowly(store: Store, clock: Clock):
    """Each second begin twice as many calls as in the one before; who waited already gets another time."""
    pace = Pace(key=keys.pace("p"))
    early = await transitions.draw(store, pace, tokens=1)
    assert early.wait_ms == 0
    await transitions.shut(store, pace, for_ms=5000)
    drawn = [await transitions.draw(store, pace, tokens=1) for _ in range(255)]
    waits = [one.wait_ms for one in drawn]
    assert min(waits) == 5000
    begun = [sum(5000 + 1000 * n <= at < 6000 + 1000 * n for at in waits) for n in range(8)]
    assert begun == [1, 2, 4, 8, 16, 32, 64, 128]
    clock.now_ms += 5000
    assert (await transitions.draw(store, pace, tokens=1, known=drawn[0].closures)).wait_ms == 0
    await transitions.shut(store, pace, for_ms=3000)
    again: Drawn = await transitions.draw(store, pace, tokens=1, known=drawn[1].closures)
    assert again.wait_ms == 3000
    await transitions.shut(store, pace, for_ms=100)  # an earlier time, by a later answer
    assert (await transitions.draw(store, pace, tokens=1)).wait_ms > 3000


async def test_limits_go_on_after_a_closure_without_a_burst(store: Store, clock: Clock):
    """The minute's tenth is not there at the reopening: it was used before."""
    pace = Pace(key=keys.pace("p"), requests=600)
    await transitions.shut(store, pace, for_ms=1000)
    clock.now_ms += 20_000  # reopened long ago
    assert (await times(store, pace, 60)).count(0) == 60
    await transitions.shut(store, pace, for_ms=1000)
    each = MINUTE_MS / 541
    waits = await times(store, pace, 40)
    assert all(at >= 1000 + number * each - 1 for number, at in enumerate(waits))


async def test_a_lost_store_lets_waiting_calls_pass(store: Store, clock: Clock):
    """A fail-over that loses the closure lets nobody wait for ever: the next draw is of a new one."""
    pace = Pace(key=keys.pace("p"), requests=1)
    await times(store, pace, 3)
    await transitions.shut(store, pace, for_ms=50_000)
    waiting = await transitions.draw(store, pace, tokens=1)
    await store.command("DEL", pace.key)
    clock.now_ms += waiting.wait_ms
    assert (await transitions.draw(store, pace, tokens=1, known=waiting.closures)).wait_ms == 0


@pytest.mark.parametrize(
    ("limits", "provider", "named", "requests"),
    [
        (None, "openai", "openai/m", None),
        ({"openai": {"requests_per_minute": 5}}, "openai", "openai", 5),
        ({"openai": {"requests_per_minute": 5}}, "other", "other/m", None),
        (
            {"openai": {"requests_per_minute": 5}, "openai/m": {"requests_per_minute": 7}},
            "openai",
            "openai/m",
            7,
        ),
        ({"m": {"requests_per_minute": 3}, "*": {}}, "openai", "m", 3),
        ({"*": {"requests_per_minute": 2}}, "openai", "openai", 2),
        ({"*": {"requests_per_minute": 2}}, None, "", 2),
    ],
)
def test_the_most_exact_entry_applies(
    limits: dict[str, Any] | None, provider: str | None, named: str, requests: int | None
):
    pace = provider_limits.pace_of(Settings(provider_limits=limits), provider, "m")
    assert pace == Pace(key=keys.pace(named), requests=requests)


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"openai": 5}, "openai"),
        ({"openai": {"requests": 5}}, "openai.requests"),
        ({"openai": {"requests_per_minute": 0}}, "openai.requests_per_minute"),
        ({"openai": {"tokens_per_minute": "many"}}, "openai.tokens_per_minute"),
    ],
)
def test_limits_that_cannot_be_read_say_where(given: dict[str, Any], place: str):
    with pytest.raises(errors.Misconfigured, match=f"MAINSTEM_PROVIDER_LIMITS: {place}"):
        provider_limits.check(Settings(provider_limits=given))


@engine("limits.calls")
async def calls(run: RunContext[dict[str, Any]]) -> None:
    """Call a provider once; it wants to be left alone if the input says so."""
    async with run.provider_call(model="m", provider="here", input_tokens=10):
        if wait_s := run.input.get("busy_s"):
            raise errors.ProviderError("busy", status=429, retry_after_s=wait_s)
    await run.text("done")


async def test_one_workers_429_holds_for_the_other_and_an_abort_ends_the_wait(
    runs: AsyncRuns, settings: Settings, store: Store
):
    """The other worker's run waits, visibly; it is stopped at once, and one that may not wait so long fails."""
    async with working(settings) as one, working(settings) as other:
        first = await runs.start("a", "limits.calls", {"busy_s": 50})
        assert await segments.execute(one, first.run_id, task_id="t") == "provider_error"
        second = await runs.start("b", "limits.calls", {})
        executing = asyncio.create_task(segments.execute(other, second.run_id, task_id="t"))
        await wait_until_async(lambda: other.waiting_for_providers, description="the run waits")
        assert not one.waiting_for_providers
        await runs.abort(second.run_id)
        assert await executing == "user_abort"
        assert not other.waiting_for_providers
        await transitions.shut(store, Pace(key=keys.pace("here/m")), for_ms=3_600_000)
        third = await runs.start("c", "limits.calls", {})
        assert await segments.execute(other, third.run_id, task_id="t") == "provider_error"
    assert "left alone" in str((await runs.get(third.run_id)).error)


async def test_the_openai_engine_shuts_the_pace_and_waits_for_it(
    runs: AsyncRuns, settings: Settings, store: Store, provider: OpenAIServer
):
    """Its retry comes no earlier than the provider said; the key is of the provider and the model."""
    provider.reply(
        Refusal(status=429, body={"error": {"message": "later"}}, headers={"retry-after-ms": "300"})
    )
    provider.reply(answer("hi"))
    here = settings.model_copy(update={"openai_base_url": provider.url})
    async with working(here) as runtime:
        run = await runs.start("t", "openai", ASK)
        assert await segments.execute(runtime, run.run_id, task_id="t") == "completed"
    assert (await runs.get(run.run_id)).text == "hi"
    assert await store.command("HGET", keys.pace("127.0.0.1/m"), "closures") == b"1"


async def test_a_store_that_does_not_answer_stops_no_call(
    runs: AsyncRuns, settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    """The call is made without a turn."""

    async def unavailable(*_: Any, **__: Any) -> Drawn:
        raise errors.StoreUnavailable

    monkeypatch.setattr(transitions, "draw", unavailable)
    async with working(settings) as runtime:
        run = await runs.start("t", "limits.calls", {})
        assert await segments.execute(runtime, run.run_id, task_id="t") == "completed"
