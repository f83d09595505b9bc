"""Keeps what provider calls cost inside budgets: of a run, and of a user and a tenant on a day.

Accounts live in different slots of the store. A call reserves the most that it may cost, in the run's account
first: that reservation is what whoever ends a dead worker's run finds, and settles everywhere. Only then the
call is made. Afterwards each account gets what the call cost, the run's last. Every step may be repeated.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final

from pydantic import ValidationError

from mainstem_shared import errors, transitions
from mainstem_shared.model import jsontext, prices, runs, usage, validation
from mainstem_shared.model.runs import Budget, Spec
from mainstem_shared.model.time import now_ms
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store

logger = logging.getLogger(__name__)

DAY_MS: Final = 86_400_000
KEPT_MS: Final = 40 * DAY_MS
"""How long the account of a day is kept: a month can be looked back on."""
LARGEST: Final = 10**15
"""Of one amount: what the store adds up stays exact."""
OTHER: Final = "other"
MODEL_LENGTH: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a call may cost, or did. `nanos`: billionths of a dollar; None: its model has no price."""

    nanos: int | None
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Account:
    whose: str
    key: str
    budget: Budget | None
    ttl_ms: int


def today() -> str:
    """Return the day that is charged now, the same in every process: UTC, by the store's clock."""
    return f"{runs.at_ms(now_ms()):%Y-%m-%d}"


def check(settings: Settings) -> None:
    """Read what the settings say about money.

    Raises:
        Misconfigured: it cannot be read; says where.
    """
    prices.table(settings.prices)
    _daily(settings)


def _daily(settings: Settings) -> tuple[Budget | None, Budget | None]:
    return (
        _budget("MAINSTEM_USER_BUDGET_PER_DAY", settings.user_budget_per_day),
        _budget("MAINSTEM_TENANT_BUDGET_PER_DAY", settings.tenant_budget_per_day),
    )


def _budget(name: str, given: dict[str, Any] | None) -> Budget | None:
    return None if given is None else _parsed(name, jsontext.dumps(given))


@functools.lru_cache(maxsize=8)
def _parsed(name: str, given: bytes) -> Budget:
    try:
        return Budget.model_validate_json(given)
    except ValidationError as error:
        raise errors.Misconfigured(f"{name}: {validation.first_problem(error, whole='budget')}") from error


class Spending:
    """The accounts that one run's provider calls are charged to."""

    def __init__(self, store: Store, settings: Settings, spec: Spec) -> None:
        self._store = store
        self._settings = settings
        self._spec = spec
        self._user, self._tenant = _daily(settings)

    @property
    def limits(self) -> tuple[bool, bool]:
        """Whether dollars are limited, and whether tokens are."""
        budgets = [b for b in (self._spec.budget, self._user, self._tenant) if b is not None]
        return any(b.usd is not None for b in budgets), any(b.tokens is not None for b in budgets)

    def _accounts(self, day: str) -> list[_Account]:
        """Return the accounts, the run's first."""
        spec = self._spec
        live_ms = self._settings.live_ttl_ms
        return [
            _Account(whose="run", key=keys.run_spending(spec.run_id), budget=spec.budget, ttl_ms=live_ms),
            _Account(
                whose="user",
                key=keys.user_spending(spec.tenant, spec.user_id, day),
                budget=self._user,
                ttl_ms=KEPT_MS,
            ),
            _Account(
                whose="tenant",
                key=keys.tenant_spending(spec.tenant, day),
                budget=self._tenant,
                ttl_ms=KEPT_MS,
            ),
            _Account(whose="deployment", key=keys.all_spending(day), budget=None, ttl_ms=KEPT_MS),
        ]

    async def reserve(self, call_id: str, *, day: str, most: Cost, patience_s: float | None = None) -> None:
        """Reserve the most that a call may cost, in all accounts or in none. May be repeated.

        Raises:
            BudgetReached: an account has no room for it; says whose.
        """
        first, *others = self._accounts(day)
        await self._reserve(first, call_id, day, most, patience_s)
        answers = await asyncio.gather(
            *(self._reserve(account, call_id, day, most, patience_s) for account in others),
            return_exceptions=True,
        )
        failures = [answer for answer in answers if isinstance(answer, BaseException)]
        if failures:
            await self.settle(call_id, day=day, cost=Cost(nanos=0, tokens=0), patience_s=patience_s)
            raise failures[0]

    async def note(self, call_id: str, *, day: str, patience_s: float | None = None) -> None:
        """Open a call that was made already, whatever the budgets say."""
        for account in self._accounts(day):
            await transitions.reserve(
                self._store,
                account.key,
                call_id=call_id,
                day=day,
                nanos=0,
                tokens=0,
                limit_nanos=None,
                limit_tokens=None,
                ttl_ms=account.ttl_ms,
                patience_s=patience_s,
            )

    async def _reserve(
        self, account: _Account, call_id: str, day: str, most: Cost, patience_s: float | None
    ) -> None:
        budget = account.budget
        usd = None if budget is None or budget.usd is None else prices.nanos(budget.usd)
        tokens = None if budget is None else budget.tokens
        full = await transitions.reserve(
            self._store,
            account.key,
            call_id=call_id,
            day=day,
            nanos=min(most.nanos or 0, LARGEST),
            tokens=min(most.tokens, LARGEST),
            limit_nanos=usd,
            limit_tokens=tokens,
            ttl_ms=account.ttl_ms,
            patience_s=patience_s,
        )
        if full is not None:
            raise _reached(account.whose, full, most, usd=usd, tokens=tokens)

    async def settle(
        self,
        call_id: str,
        *,
        day: str,
        cost: Cost | None,
        sums: Mapping[str, int] | None = None,
        patience_s: float | None = None,
    ) -> None:
        """Charge what a call cost (None: as reserved), once, however often this is called."""
        first, *others = self._accounts(day)
        charge = functools.partial(
            transitions.settle,
            self._store,
            call_id=call_id,
            nanos=None if cost is None else min(cost.nanos or 0, LARGEST),
            tokens=None if cost is None else min(cost.tokens, LARGEST),
            patience_s=patience_s,
        )
        await asyncio.gather(*(charge(account.key, sums=sums) for account in others))
        await charge(first.key)  # last: what is reserved here is what a healer looks for

    async def settle_open(self, *, patience_s: float | None = None) -> int:
        """Charge all calls under way as reserved: nobody knows what they cost. Returns how many."""
        account = await transitions.read_account(
            self._store, keys.run_spending(self._spec.run_id), patience_s=patience_s
        )
        for call_id, reserved in account.calls.items():
            sums = {"calls": 1, "estimated": 1}
            await self.settle(call_id, day=reserved.day, cost=None, sums=sums, patience_s=patience_s)
        if account.calls:
            noted = {"action": "spending_settled", "run_id": self._spec.run_id, "calls": len(account.calls)}
            logger.warning("charged provider calls of a lost worker as reserved", extra=noted)
        return len(account.calls)

    async def forget(self) -> None:
        """Drop the run's own account: the run is over, its content has what it used."""
        await self._store.command("UNLINK", keys.run_spending(self._spec.run_id))


def _reached(
    whose: str, full: transitions.Exceeded, most: Cost, *, usd: int | None, tokens: int | None
) -> errors.BudgetReached:
    of_money = usd is not None and full.nanos + (most.nanos or 0) > usd
    if of_money:
        needs = f"{usage.decimal_text(prices.dollars(most.nanos or 0))} USD"
        left = f"{usage.decimal_text(max(Decimal(0), prices.dollars((usd or 0) - full.nanos)))} USD"
    else:
        needs, left = f"{most.tokens} tokens", f"{max(0, (tokens or 0) - full.tokens)} tokens"
    return errors.BudgetReached(whose=whose, needs=needs, left=left)


def sums_of(call: usage.CallUsage) -> dict[str, int]:
    """Return the counters of a day that a call adds to."""
    counts = {"calls": 1, **{name: getattr(call, name) for name in usage.TOKEN_KINDS}}
    counts |= {"estimated": int(call.estimated), "unpriced": int(call.cost_usd is None)}
    cost = 0 if call.cost_usd is None else prices.nanos(Decimal(call.cost_usd))
    name = f"{call.provider or OTHER}/{call.model or OTHER}"[:MODEL_LENGTH]
    by_model = {
        f"{name}:calls": 1,
        f"{name}:nanos": cost,
        f"{name}:tokens": call.total_tokens,
        f"{name}:unpriced": counts["unpriced"],
    }
    return {key: min(count, LARGEST) for key, count in {**counts, **by_model}.items() if count}


# -- reading


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpending:
    """What one model's calls cost on a day."""

    model: str
    """`provider/model`."""
    calls: int
    tokens: int
    cost_usd: Decimal
    unpriced_calls: int
    """Calls whose cost is unknown, which `cost_usd` leaves out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DaySpending:
    """What provider calls of a user, a tenant or the deployment cost on a day."""

    day: str
    calls: int
    tokens: int
    input_tokens: int
    output_tokens: int
    cost_usd: Decimal
    reserved_usd: Decimal
    """For calls under way."""
    reserved_tokens: int
    unpriced_calls: int
    estimated_calls: int
    models: tuple[ModelSpending, ...]


def _spent(day: str, account: transitions.Account) -> DaySpending:
    sums = account.sums
    named = sorted({name.rpartition(":")[0] for name in sums if name.endswith(":calls")})
    return DaySpending(
        day=day,
        calls=sums.get("calls", 0),
        tokens=account.tokens,
        input_tokens=sums.get("input_tokens", 0),
        output_tokens=sums.get("output_tokens", 0),
        cost_usd=prices.dollars(account.nanos),
        reserved_usd=prices.dollars(account.held_nanos),
        reserved_tokens=account.held_tokens,
        unpriced_calls=sums.get("unpriced", 0),
        estimated_calls=sums.get("estimated", 0),
        models=tuple(
            ModelSpending(
                model=name,
                calls=sums.get(f"{name}:calls", 0),
                tokens=sums.get(f"{name}:tokens", 0),
                cost_usd=prices.dollars(sums.get(f"{name}:nanos", 0)),
                unpriced_calls=sums.get(f"{name}:unpriced", 0),
            )
            for name in named
        ),
    )


async def spent(store: Store, *, tenant: str, user_id: str | None, days: int = 1) -> list[DaySpending]:
    """Return what a user (None: all of the tenant) spent on each of the last days, newest first."""
    now = runs.at_ms(now_ms())
    named = [f"{now - timedelta(days=back):%Y-%m-%d}" for back in range(days)]
    accounts = [
        keys.tenant_spending(tenant, day) if user_id is None else keys.user_spending(tenant, user_id, day)
        for day in named
    ]
    found = await asyncio.gather(*(transitions.read_account(store, account) for account in accounts))
    return [_spent(day, account) for day, account in zip(named, found, strict=True)]


async def spent_by_all(store: Store, *, day: str | None = None) -> DaySpending:
    """Return what all provider calls of a day (by default today) cost."""
    day = day or today()
    return _spent(day, await transitions.read_account(store, keys.all_spending(day)))
