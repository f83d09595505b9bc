"""Many runs under one budget while workers are killed: the provider never billed more than it allows."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter

import pytest

from mainstem_shared.model.principals import DEFAULT_TENANT
from mainstem_shared.operations import spending
from mainstem_shared.store.client import Store
from support.clients.clients import client
from support.engines import spending_engines
from support.engines.spending_engines import ANSWERED, ASKED, USED
from support.paths import TESTS
from support.waiting import wait_until_async

RUNS = int(os.environ.get("MAINSTEM_SPENDERS", "60"))
KILLS = int(os.environ.get("MAINSTEM_SPENDERS_KILLS", "1"))
CALLS = 12
"""Of each run, if the budget had room for all of them."""
BUDGET = RUNS * CALLS * USED // 2
"""Half of what the runs would spend."""
WORKER = {
    "MAINSTEM_LEASE_S": "2",
    "MAINSTEM_SWEEP_S": "0.5",
    "MAINSTEM_ENGINES": "support.engines.spending_engines",
    "MAINSTEM_TENANT_BUDGET_PER_DAY": f'{{"tokens": {BUDGET}}}',
    "PYTHONPATH": str(TESTS),
}


@pytest.mark.timeout(900)
async def test_killed_workers_do_not_overspend_a_budget(live):
    """Every run ends; nothing stays reserved; what is booked is at least what was billed, and within the budget."""
    doomed = live.workers(*(f"doomed{n}" for n in range(KILLS)), **WORKER)
    live.worker("surviving", **WORKER)
    store = Store(live.store.url(0))
    try:
        await store.command("SET", spending_engines.BOOKS, 0, "PX", 3_600_000)
        async with client(live) as runs:
            started = await asyncio.gather(
                *(runs.start(f"t{n}", "spender", {"calls": CALLS, "ms": 150}) for n in range(RUNS))
            )
            for nth, worker in enumerate(doomed, 1):
                await billed(store, BUDGET * nth // (2 * KILLS + 1))
                worker.sigkill()

            async def over() -> bool:
                seen = await asyncio.gather(*(runs.get(one.run_id) for one in started))
                return all(run.status.is_terminal for run in seen)

            await wait_until_async(over, description="all runs to end", timeout_s=600)
            ended = [await runs.get(one.run_id) for one in started]
        reasons = Counter(str(run.reason) for run in ended)
        total = int(await store.command("GET", spending_engines.BOOKS))
        (today,) = await spending.spent(store, tenant=DEFAULT_TENANT, user_id=None)
        figures = f"billed {total}, booked {today.tokens} of {BUDGET}, {today.estimated_calls} calls lost: {reasons}"
        sys.stdout.write(f"{figures}\n")
        assert set(reasons) <= {"budget_reached", "worker_lost", "completed"}
        assert reasons["worker_lost"] > 0
        assert reasons["budget_reached"] > 0
        assert total <= today.tokens <= BUDGET
        assert today.reserved_tokens == 0
        assert today.tokens - total <= today.estimated_calls * (ASKED + ANSWERED)
    finally:
        await store.close()


async def billed(store: Store, tokens: int) -> None:
    """Wait until the provider has billed so much."""

    async def reached() -> bool:
        return int(await store.command("GET", spending_engines.BOOKS)) >= tokens

    await wait_until_async(reached, description=f"{tokens} tokens to be billed", timeout_s=120)
