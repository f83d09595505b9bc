"""Budgets of runs on a worker's real runtime: what is asked before each provider call, and what is left after."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest

from mainstem_api import AsyncRuns
from mainstem_shared import errors
from mainstem_shared.model.principals import DEFAULT_TENANT, LOCAL_USER
from mainstem_shared.model.runs import Run
from mainstem_shared.operations import spending
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from mainstem_tasks import RunContext, engine
from mainstem_tasks.execution import segments
from support.engines import spending_engines
from support.fakes.openai_server import Events, OpenAIServer, chunk, text_chunks, usage_chunk
from support.processes.in_process_worker import working
from support.waiting import wait_until_async

PRICES = json.dumps(
    {"models": [{"provider": "127.0.0.1", "model": "test-model", "input": 1000, "output": 2000}]}
)


@pytest.fixture
async def unbilled(store: Store) -> None:
    await store.command("SET", spending_engines.BOOKS, 0, "PX", 600_000)


async def ran(runs: AsyncRuns, settings: Settings, name: str, given: dict[str, Any], **start: Any) -> Run:
    async with working(settings) as here:
        run_id = (await runs.start("t", name, given, **start)).run_id
        await segments.execute(here, run_id, task_id="t")
    return await runs.get(run_id)


async def spent_today(store: Store) -> spending.DaySpending:
    (today,) = await spending.spent(store, tenant=DEFAULT_TENANT, user_id=LOCAL_USER)
    return today


@pytest.mark.usefixtures("unbilled")
async def test_a_run_ends_before_the_call_that_its_budget_has_no_room_for(
    runs: AsyncRuns, settings: Settings, store: Store
):
    """With its partial content, a reason and words; the books of the provider and ours agree."""
    run = await ran(runs, settings, "spender", {}, budget={"tokens": 250})
    assert (run.status, run.reason, run.text) == ("failed", "budget_reached", "0 1 2 ")
    assert run.error is not None
    assert "budget of the run" in run.error.message
    assert run.usage is not None
    assert (run.usage.total_tokens, len(run.usage.calls), run.usage.cost_usd) == (180, 3, None)
    assert int(await store.command("GET", spending_engines.BOOKS)) == 180
    today = await spent_today(store)
    assert (today.calls, today.tokens, today.reserved_tokens, today.unpriced_calls) == (3, 180, 0, 3)
    assert [model.model for model in today.models] == ["here/m"]
    assert await store.command("EXISTS", keys.run_spending(run.run_id)) == 0


@pytest.mark.usefixtures("unbilled")
async def test_a_daily_budget_holds_over_runs(runs: AsyncRuns, settings: Settings):
    """What one run of the user spent, the next one does not have."""
    limited = settings.model_copy(update={"user_budget_per_day": {"tokens": 250}})
    first = await ran(runs, limited, "spender", {"calls": 2})
    assert first.status == "succeeded"
    second = await ran(runs, limited, "spender", {})
    assert (second.reason, second.text) == ("budget_reached", "0 ")
    assert second.error is not None
    assert "budget of the user" in second.error.message


async def test_a_budget_survives_pauses(runs: AsyncRuns, settings: Settings):
    """Each continuation has what the segments before it left."""
    async with working(settings) as here:
        run_id = (await runs.start("t", "asking-spender", {}, budget={"tokens": 350})).run_id
        for n in range(3):
            assert await segments.execute(here, run_id, task_id="t") == "paused"
            action = (await runs.get(run_id)).action
            assert action is not None
            answers = [{"question_id": f"q{n}", "text": "yes"}]
            await runs.resume(run_id, action["action_id"], answers=answers)
        assert await segments.execute(here, run_id, task_id="t") == "budget_reached"
    run = await runs.get(run_id)
    assert run.usage is not None
    assert (run.usage.total_tokens, run.text) == (300, "0 1 2 3 3 ")


async def test_an_engine_may_end_by_itself(runs: AsyncRuns, settings: Settings):
    """It is told, with what was needed and what is left; what it does then is its business."""

    @engine("careful")
    async def careful(run: RunContext[dict[str, Any]]) -> None:
        try:
            async with run.provider_call(model="m", input_tokens=10_000, max_output_tokens=1):
                raise AssertionError
        except errors.BudgetReached as error:
            await run.text(f"{error.fields['whose']} {error.fields['left']}")

    run = await ran(runs, settings, "careful", {}, budget={"tokens": 100})
    assert (run.status, run.text) == ("succeeded", "run 100 tokens")


async def test_a_call_that_says_nothing_is_charged_as_reserved_and_one_not_made_is_not(
    runs: AsyncRuns, settings: Settings, store: Store
):
    @engine("silent-spender")
    async def silent(run: RunContext[dict[str, Any]]) -> None:
        async with run.provider_call(model="m", input_tokens=10, max_output_tokens=20):
            pass
        async with run.provider_call(model="m", input_tokens=100, max_output_tokens=200) as call:
            call.not_made()
        with contextlib.suppress(errors.ProviderError):
            async with run.provider_call(model="m", input_tokens=1000, max_output_tokens=2000):
                raise errors.ProviderError("no")

    await ran(runs, settings, "silent-spender", {})
    today = await spent_today(store)
    assert (today.calls, today.tokens, today.reserved_tokens) == (1, 30, 0)


async def test_usage_without_a_call_is_charged_too(runs: AsyncRuns, settings: Settings, store: Store):
    @engine("plain-usage")
    async def plain(run: RunContext[dict[str, Any]]) -> None:
        await asyncio.gather(*(run.usage(model="m", input_tokens=2) for _ in range(20)))

    await ran(runs, settings, "plain-usage", {})
    today = await spent_today(store)
    assert (today.calls, today.tokens) == (20, 40)


async def test_the_openai_engine_stays_inside_a_budget_in_dollars(
    runs: AsyncRuns, settings: Settings, store: Store, provider: OpenAIServer
):
    """Its request bounds the answer that its reservation paid for; afterwards the run has the cost."""
    provider.reply(Events(chunks=[*text_chunks("hi"), chunk(finish="stop"), usage_chunk(100, 20)]))
    here = settings.model_copy(
        update={"openai_base_url": provider.url, "openai_model": "test-model", "prices": PRICES,
                "reserved_output_tokens": 50}
    )  # fmt: skip
    ask = {"messages": [{"role": "user", "content": "hello"}]}
    run = await ran(runs, here, "openai", ask, budget={"usd": 1})
    assert (run.status, run.text) == ("succeeded", "hi")
    assert run.usage is not None
    assert (run.usage.cost_usd, run.usage.models[0].model) == ("0.14", "test-model")
    assert provider.requests[-1].body["max_tokens"] == 50
    assert (await spent_today(store)).cost_usd == spending.Decimal("0.14")
    poor = await ran(runs, here, "openai", ask, budget={"usd": 0.05})
    assert (poor.reason, len(provider.requests)) == ("budget_reached", 1)


async def test_a_budget_in_dollars_needs_a_price(runs: AsyncRuns, settings: Settings, provider: OpenAIServer):
    """Nobody can keep it otherwise: the call is not made, and the error says what to do."""
    here = settings.model_copy(update={"openai_base_url": provider.url, "openai_model": "unheard-of"})
    ask = {"messages": [{"role": "user", "content": "hello"}]}
    run = await ran(runs, here, "openai", ask, budget={"usd": 1})
    assert run.error is not None
    assert (run.status, run.error.code, provider.requests) == ("failed", "unknown_price", [])
    assert "MAINSTEM_PRICES" in run.error.message


@pytest.mark.usefixtures("unbilled")
async def test_an_aborted_call_is_charged_and_frees_its_reservation(
    runs: AsyncRuns, settings: Settings, store: Store
):
    async with working(settings) as here:
        run_id = (await runs.start("t", "spender", {"ms": 60_000}, budget={"tokens": 1000})).run_id
        task = asyncio.create_task(segments.execute(here, run_id, task_id="t"))

        async def billed() -> bool:
            return int(await store.command("GET", spending_engines.BOOKS)) > 0

        await wait_until_async(billed, description="the call to be made")
        await runs.abort(run_id)
        assert await task == "user_abort"
    today = await spent_today(store)
    assert (today.tokens, today.reserved_tokens, today.estimated_calls) == (100, 0, 1)


@pytest.mark.parametrize(
    "budget", [{}, {"usd": 0}, {"usd": "x"}, {"tokens": -1}, {"tokens": 1.5}, {"eur": 1}]
)
async def test_a_bad_budget_is_refused(runs: AsyncRuns, budget: dict[str, Any]):
    with pytest.raises(errors.InvalidRequest, match="budget"):
        await runs.start("t", "demo", {}, budget=budget)
