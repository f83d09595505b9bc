"""Engines that stop, exit or empty their worker's loop, on every pool: the worker and its other runs live on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mainstem_shared.model.runs import Reason, Status
from support.clients.clients import client, finished
from support.engines.demowords import demo_text
from support.paths import TESTS
from support.processes.processes import Child, worker
from support.waiting import wait_until

POOLS = {"custom": 8, "threads": 4, "prefork": 2}
QUICK = {
    "PYTHONPATH": str(TESTS),
    "MAINSTEM_ENGINES": "support.engines.wild_engines",
    "MAINSTEM_LEASE_S": "3",
    "MAINSTEM_SWEEP_S": "0.5",
    "MAINSTEM_IDLE_TIMEOUT_S": "20",
}
ENDS = {
    "exit": Reason.ENGINE_ERROR,
    "interrupt": Reason.ENGINE_ERROR,
    "stray exit": Reason.COMPLETED,
    "callback exit": Reason.COMPLETED,
    "callback from a thread": Reason.COMPLETED,
    "stop": Reason.COMPLETED,
    "cancel all": Reason.COMPLETED,
}


@pytest.mark.parametrize("pool", POOLS)
async def test_nothing_an_engine_does_to_its_loop_reaches_its_neighbours(live, pool: str):
    """Its neighbour streams to its end, later runs start, abort is heard: the loop lives as long as the lease."""
    child = worker({**live.env, **QUICK}, live.directory, "wild", "--pool", pool, "-c", str(POOLS[pool]))
    live.stack.enter_context(child)
    wait_until(_is_ready(child), description="the worker to be ready", timeout_s=60)
    async with client(live) as runs:
        for does, reason in ENDS.items():
            neighbour = await runs.start(f"neighbour of {does}", "demo", {"tokens": 100, "interval_ms": 10})
            wild = await runs.start(f"wild {does}", "wild", {"does": does})
            ended = await runs.wait(wild.run_id, 20)
            assert (ended.reason, ended.text[:1]) == (reason, "x"), does
            beside = await runs.wait(neighbour.run_id, 20)
            assert (beside.status, beside.text) == (Status.SUCCEEDED, demo_text(100)), does
        later = await finished(runs, "later", {"tokens": 3, "interval_ms": 0})
        assert later.text == demo_text(3)
        endless = await runs.start("endless", "demo", {"tokens": 100_000, "interval_ms": 5})
        aborted = await runs.abort(endless.run_id, wait=10)
        assert aborted.run.status is Status.ABORTED
    assert child.running


def _is_ready(child: Child) -> Callable[[], bool]:
    def ready() -> bool:
        assert child.running, f"the worker ended:\n{child.log[-3000:]}"
        return "@test ready" in child.log

    return ready
