"""Effects under kill -9: executed = intended, with an idempotent receiver. `make effects` performs 10,000 of them."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from typing import Any

from mainstem_api import AsyncRuns
from mainstem_shared.model.runs import Status
from support.clients.clients import client
from support.paths import TESTS
from support.waiting import wait_until_async

EFFECTS = int(os.environ.get("MAINSTEM_EFFECTS") or 400)
RUNS = 8
"""Runs at once, in waves: a run is given up after its third loss, so each wave sees two kills."""
OF_A_RUN = 50
KILLS = 2
QUICK = {
    "MAINSTEM_LEASE_S": "1",
    "MAINSTEM_SWEEP_S": "0.3",
    "MAINSTEM_ENGINES": "support.engines.effect_engines",
    "PYTHONPATH": str(TESTS),
}


async def wave(live: Any, runs: AsyncRuns, number: int, names: itertools.count[int]) -> None:
    """Start some runs, kill the workers that have them, twice, and wait for their ends."""
    before = RUNS * OF_A_RUN * number
    started = [
        (
            await runs.start(
                f"t {number} {n}", "effects.many", {"effects": OF_A_RUN}, on_worker_lost="resume"
            )
        ).run_id
        for n in range(RUNS)
    ]

    async def sent() -> int:
        with live.store.client(2) as receiver:
            return receiver.hlen("sent")

    for kill in range(1, KILLS + 1):
        reached = before + kill * RUNS * OF_A_RUN // (KILLS + 2) + random.randrange(10)

        async def far_enough(reached: int = reached) -> bool:
            return await sent() >= reached

        await wait_until_async(far_enough, description=f"{reached} orders to be sent", timeout_s=60)
        (victim,) = (child for child in live.children if child.running)
        victim.sigkill()
        live.worker(f"worker {next(names)}", **QUICK, RECEIVER_URL=live.store.url(2))

    async def over() -> list[Status] | None:
        states = [(await runs.get(run_id)).status for run_id in started]
        return states if all(status.is_terminal for status in states) else None

    states = await wait_until_async(over, description="the runs to end", timeout_s=90)
    assert states == [Status.SUCCEEDED] * RUNS


async def test_as_many_as_intended_are_executed(live: Any):
    """Workers are killed in the middle of their effects: each is received, and only those under way twice."""
    names = itertools.count()
    live.worker(f"worker {next(names)}", **QUICK, RECEIVER_URL=live.store.url(2))
    waves = max(1, EFFECTS // (RUNS * OF_A_RUN))
    async with client(live) as runs:
        for number in range(waves):
            await asyncio.wait_for(wave(live, runs, number, names), 240)
    with live.store.client(2) as receiver:
        received = receiver.hgetall("sent")
    twice = sum(int(times) - 1 for times in received.values())
    assert len(received) == waves * RUNS * OF_A_RUN
    assert twice <= waves * KILLS * RUNS
