"""`StoredAccounts` charges a segment's provider calls to the accounts in the store (`operations.spending`).

What budgets limit is reserved before a call is made, and waited for. All the rest happens beside the engine,
in order for each call, with patience for a store that is unavailable; the segment waits for it before its run
ends, pauses or is handed over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from decimal import Decimal
from typing import Final

from mainstem_shared import errors
from mainstem_shared.metrics import catalogue as metrics
from mainstem_shared.metrics import labels
from mainstem_shared.model import prices
from mainstem_shared.model.runs import Spec
from mainstem_shared.model.usage import CallUsage
from mainstem_shared.operations import spending
from mainstem_shared.operations.spending import Cost, Spending
from mainstem_tasks.execution.provider_turns import StoredTurns
from mainstem_tasks.execution.runtime import Runtime
from mainstem_tasks.sdk.provider_turns import Turns

logger = logging.getLogger(__name__)

PATIENCE_S: Final = 60.0
"""How long a charge is tried again while the store is unavailable."""
NOTHING: Final = Cost(nanos=0, tokens=0)


class StoredAccounts:
    """Charges the accounts of one run for its segment."""

    def __init__(self, runtime: Runtime, spec: Spec) -> None:
        self._accounts = Spending(runtime.store, runtime.settings, spec)
        self.turns: Turns = StoredTurns(runtime, spec.run_id)
        self._run_id = spec.run_id
        self._days: dict[str, str] = {}
        """Calls that are not settled, and the day that pays for them."""
        self._work: dict[str, asyncio.Task[None]] = {}
        self.is_used = False
        """Whether anything was charged."""

    @property
    def limits(self) -> tuple[bool, bool]:
        """Whether dollars are limited, and whether tokens are."""
        return self._accounts.limits

    async def reserve(self, call_id: str, *, nanos: int | None, tokens: int) -> None:
        """Reserve the most that a call may cost; without limits that is not waited for.

        Raises:
            BudgetReached: a budget has no room for it.
            StoreUnavailable: nobody can tell, for PATIENCE_S.
        """
        self.is_used = True
        if (
            any(self.limits) and self._work
        ):  # what earlier calls left of their reservations is there to be had
            await asyncio.wait(list(self._work.values()))
        day = self._days[call_id] = spending.today()
        reserving = self._accounts.reserve(
            call_id, day=day, most=Cost(nanos=nanos, tokens=tokens), patience_s=PATIENCE_S
        )
        if not any(self.limits):
            self._then(call_id, reserving)
            return
        try:
            await reserving
        except errors.BudgetReached as error:
            self._days.pop(call_id)
            metrics.BUDGET_REFUSALS.labels(str(error.fields["whose"])).inc()
            raise
        except BaseException:  # cancelled, or nobody could tell: some of it may be reserved
            self.release(call_id)
            raise

    def settle(self, call_id: str, used: CallUsage | None) -> None:
        """Charge what a call used; None: what was reserved."""
        cost = None if used is None else _cost_of(used)
        sums = {"calls": 1, "estimated": 1} if used is None else spending.sums_of(used)
        day = self._days.pop(call_id)
        settling = self._accounts.settle(call_id, day=day, cost=cost, sums=sums, patience_s=PATIENCE_S)
        self._then(call_id, settling)

    def release(self, call_id: str) -> None:
        """Charge nothing for a call that was not made."""
        day = self._days.pop(call_id)
        self._then(call_id, self._accounts.settle(call_id, day=day, cost=NOTHING, patience_s=PATIENCE_S))

    def charge(self, used: CallUsage) -> None:
        """Charge a call for which nothing was reserved; its budgets are not asked."""
        self.is_used = True
        self._days[used.call_id] = day = spending.today()
        unlimited = self._accounts.note(used.call_id, day=day, patience_s=PATIENCE_S)
        self._then(used.call_id, unlimited)
        self.settle(used.call_id, used)

    async def close(self) -> None:
        """Wait until everything is charged; calls that the engine left open are charged as reserved."""
        for call_id in list(self._days):
            self.settle(call_id, None)
        if self._work:
            await asyncio.wait(self._work.values(), timeout=2 * PATIENCE_S)

    async def forget(self) -> None:
        """Drop the run's own account, if it has one: the run is over."""
        if self.is_used:
            await self._quietly(self._accounts.forget())

    def _then(self, call_id: str, work: Awaitable[None]) -> None:
        """Do a call's next step after the one before, beside the engine."""
        before = self._work.get(call_id)

        async def step() -> None:
            if before is not None:
                await asyncio.wait({before})
            await self._quietly(work)

        task = self._work[call_id] = asyncio.create_task(step(), name=f"spending {self._run_id}")
        task.add_done_callback(lambda done: self._ended(call_id, done))

    def _ended(self, call_id: str, task: asyncio.Task[None]) -> None:
        if self._work.get(call_id) is task:
            del self._work[call_id]

    async def _quietly(self, work: Awaitable[None]) -> None:
        try:
            await work
        except errors.MainstemError:
            noted = {"action": "spending_lags", "run_id": self._run_id}
            logger.warning("a provider call could not be charged", extra=noted, exc_info=True)


def _cost_of(used: CallUsage) -> Cost:
    model = labels.model(used.model)
    if used.cost_usd is None:
        metrics.UNPRICED_CALLS.labels(model).inc()
        return Cost(nanos=None, tokens=used.total_tokens)
    cost = Decimal(used.cost_usd)
    metrics.COST.labels(model).inc(float(cost))
    return Cost(nanos=prices.nanos(cost), tokens=used.total_tokens)
