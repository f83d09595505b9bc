"""Budgets in the store: what is reserved and settled, at most once, in all accounts or in none."""

from __future__ import annotations

import asyncio
import uuid
from decimal import Decimal

import pytest

from mainstem_shared import errors, transitions
from mainstem_shared.model import ids, jsontext
from mainstem_shared.model.runs import Budget, Spec
from mainstem_shared.operations import spending
from mainstem_shared.operations.spending import Cost, Spending
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.models.specs import spec

DAY = "2026-01-02"
RUN = ids.run_id("t", "t", uuid.UUID(int=1))


def of(store: Store, settings: Settings, *, run: int = 1, budget: Budget | None = None) -> Spending:
    about = spec(ids.run_id("t", f"t{run}", uuid.UUID(int=run)), tenant="t")
    return Spending(store, settings, about.model_copy(update={"budget": budget}))


async def account(store: Store, key: str) -> transitions.Account:
    return await transitions.read_account(store, key)


async def tenants(store: Store) -> transitions.Account:
    return await account(store, keys.tenant_spending("t", DAY))


async def test_a_call_is_reserved_and_settled_once(store: Store, settings: Settings):
    """However often either is repeated: lost replies are."""
    here = of(store, settings, budget=Budget(tokens=100))
    for _ in range(3):
        await here.reserve("c", day=DAY, most=Cost(nanos=7, tokens=60))
    seen = await tenants(store)
    assert (seen.held_nanos, seen.held_tokens, seen.tokens) == (7, 60, 0)
    for _ in range(3):
        await here.settle("c", day=DAY, cost=Cost(nanos=5, tokens=40), sums={"calls": 1})
    seen = await tenants(store)
    assert (seen.held_nanos, seen.held_tokens, seen.nanos, seen.tokens) == (0, 0, 5, 40)
    assert (seen.sums, seen.calls) == ({"calls": 1}, {})


async def test_what_does_not_fit_is_reserved_nowhere(store: Store, settings: Settings):
    """Refused by the run's, the user's or the tenant's budget: it says whose, and the others have nothing of it."""
    limited = settings.model_copy(update={"tenant_budget_per_day": {"usd": "0.00000001"}})
    with pytest.raises(errors.BudgetReached, match="tenant") as refused:
        await of(store, limited).reserve("c", day=DAY, most=Cost(nanos=11, tokens=5))
    assert "0.00000001 USD" in str(refused.value)
    with pytest.raises(errors.BudgetReached, match="run"):
        await of(store, settings, budget=Budget(tokens=4)).reserve("c", day=DAY, most=Cost(nanos=0, tokens=5))
    one = spec(RUN, tenant="t")
    for key in (
        keys.user_spending("t", one.user_id, DAY), keys.tenant_spending("t", DAY), keys.all_spending(DAY),
        keys.run_spending(ids.run_id("t", "t1", uuid.UUID(int=1))),
    ):  # fmt: skip
        seen = await account(store, key)
        assert (seen.held_nanos, seen.held_tokens, seen.nanos, seen.tokens, seen.calls) == (0, 0, 0, 0, {})


async def test_a_budget_is_used_up_to_the_last_token_and_no_further(store: Store, settings: Settings):
    """A hundred callers at once: as many get in as fit."""
    limited = settings.model_copy(update={"user_budget_per_day": {"tokens": 50}})
    answers = await asyncio.gather(
        *(
            of(store, limited, run=n).reserve(f"c{n}", day=DAY, most=Cost(nanos=0, tokens=7))
            for n in range(100)
        ),
        return_exceptions=True,
    )
    assert sum(answer is None for answer in answers) == 7
    assert (await tenants(store)).held_tokens == 49


async def test_a_lost_workers_calls_are_charged_as_reserved(store: Store, settings: Settings):
    """In every account, once, whoever does it and however often; what was settled before stays as it was."""
    here = of(store, settings, budget=Budget(usd=Decimal(1)))
    await here.reserve("done", day=DAY, most=Cost(nanos=10, tokens=10))
    await here.settle("done", day=DAY, cost=Cost(nanos=1, tokens=1))
    await here.reserve("open", day=DAY, most=Cost(nanos=100, tokens=20))
    assert sum(await asyncio.gather(*(here.settle_open() for _ in range(3)))) >= 1
    assert await here.settle_open() == 0
    seen = await tenants(store)
    assert (seen.nanos, seen.tokens, seen.held_nanos, seen.sums["estimated"]) == (101, 21, 0, 1)
    await here.settle("open", day=DAY, cost=Cost(nanos=5, tokens=5))  # the worker was not dead after all
    assert (await tenants(store)).nanos == 101


async def test_a_crash_between_accounts_is_healed(store: Store, settings: Settings):
    """The run's account is the first to know of a call and the last to forget it."""
    here = of(store, settings)
    await here.reserve("c", day=DAY, most=Cost(nanos=9, tokens=9))
    await transitions.settle(  # dies after the first of them
        store, keys.tenant_spending("t", DAY), call_id="c", nanos=4, tokens=4, sums={"calls": 1}
    )
    await here.settle_open()
    seen = await tenants(store)
    assert (seen.nanos, seen.sums["calls"], seen.held_nanos) == (4, 1, 0)
    everybody = await account(store, keys.all_spending(DAY))
    assert (everybody.nanos, everybody.held_nanos, everybody.calls) == (9, 0, {})


async def test_days_are_read_newest_first(store: Store, settings: Settings):
    """With sums by model, and what is unknown counted apart from what is known."""
    from mainstem_shared.model import usage

    here, today = of(store, settings), spending.today()
    for model, cost in (("a", "0.25"), ("a", "0.5"), ("b", None)):
        call = usage.checked_call(
            call_id=model,
            provider="p",
            model=model,
            input_tokens=3,
            output_tokens=1,
            total_tokens=4,
            cost_usd=cost,
        )
        await here.note(model, day=today)
        nanos = None if cost is None else int(Decimal(cost) * 10**9)
        await here.settle(model, day=today, cost=Cost(nanos=nanos, tokens=4), sums=spending.sums_of(call))
    one = spec(RUN, tenant="t")
    days = await spending.spent(store, tenant="t", user_id=one.user_id, days=3)
    assert [day.calls for day in days] == [3, 0, 0]
    assert (days[0].cost_usd, days[0].unpriced_calls, days[0].tokens) == (Decimal("0.75"), 1, 12)
    assert [(m.model, m.calls, m.cost_usd, m.unpriced_calls) for m in days[0].models] == [
        ("p/a", 2, Decimal("0.75"), 0), ("p/b", 1, Decimal(0), 1),
    ]  # fmt: skip
    assert (await spending.spent(store, tenant="other", user_id=None))[0].calls == 0


async def test_a_spec_with_a_budget_is_read_again(store: Store):
    """A record keeps the decimal; a run without a budget has no trace of it."""
    del store
    about = spec(RUN).model_copy(update={"budget": Budget(usd=Decimal("0.10"), tokens=5)})
    again = Spec.model_validate_json(about.model_dump_json())
    assert again.budget == Budget(usd=Decimal("0.1"), tokens=5)
    assert "budget" not in jsontext.loads(spec(RUN).model_dump_json().encode())
