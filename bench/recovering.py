"""The row about lost workers: SIGKILL, then how long until its runs are over, or go on elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import time

import psutil
from harness import Bench, Row

from mainstem_api import AsyncRuns

LEASE_S, SWEEP_S = 3.0, 1.0
BOUND_S = LEASE_S + 2 * 1.1 * SWEEP_S + 1
"""A lease that was just renewed, two sweeps (with their jitter) that miss it, and a second to act."""
TRIES = 6
SETTINGS = {"MAINSTEM_LEASE_S": str(LEASE_S), "MAINSTEM_SWEEP_S": str(SWEEP_S)}
WANTED = {"tokens": 100_000, "interval_ms": 20}


async def lost_workers(bench: Bench) -> Row:
    """One run that fails with its worker and one that is to go on, each time a worker is killed."""
    ended: list[float] = []
    resumed: list[float] = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(bench.worker(**SETTINGS))
        async with AsyncRuns(bench.settings()) as client:
            for number in range(bench.scaled(TRIES, 2)):
                stack.enter_context(bench.worker(**SETTINGS))
                times = await _kill_one(client, number)
                ended.append(times[0])
                resumed.append(times[1])
    return Row(
        name=f"SIGKILL of a worker, lease {LEASE_S:g} s, sweeps {SWEEP_S:g} s: runs over / resumed",
        figure=f"at most {max(ended):.1f} / {max(resumed):.1f} s of {len(ended)}",
        goal=f"≤ lease + 2 sweeps + 1 s = {BOUND_S:.1f} s",
        met=max(*ended, *resumed) <= BOUND_S,
        data={"ended": ended, "resumed": resumed},
    )


async def _kill_one(client: AsyncRuns, number: int) -> tuple[float, float]:
    """Kill the worker of a run; returns the seconds until that one was over, and the other went on."""
    dying: dict[str, str] = {}
    while not dying.keys() >= {"fail", "resume"}:  # until one worker has both kinds
        dying = await _on_one_worker(client, number)
    owner = (await client.get(dying["fail"])).worker or ""
    psutil.Process(int(owner.split("-")[-2])).kill()
    begun = time.monotonic()
    return await asyncio.gather(
        _until(client, dying["fail"], "run.finished", begun),
        _until(client, dying["resume"], "run.restarted", begun),
    )


async def _on_one_worker(client: AsyncRuns, number: int) -> dict[str, str]:
    """Start runs of both kinds; returns one of each that have the same worker, and stops the others."""
    started = {
        (
            await client.start(f"{kind}-{number}-{time.monotonic_ns()}", "demo", WANTED, on_worker_lost=kind)
        ).run_id: kind
        for kind in ("fail", "resume", "fail", "resume")
    }
    runs = [await _streaming(client, run_id) for run_id in started]
    worker = runs[0][1]
    chosen = {started[run_id]: run_id for run_id, owner in runs if owner == worker}
    kept = chosen.values() if len(chosen) == 2 else ()
    await asyncio.gather(*(client.abort(run_id, wait=20) for run_id in started if run_id not in kept))
    return chosen


async def _streaming(client: AsyncRuns, run_id: str) -> tuple[str, str]:
    while not (run := await client.get(run_id)).text:
        await asyncio.sleep(0.05)
    return run_id, run.worker or ""


async def _until(client: AsyncRuns, run_id: str, kind: str, begun: float) -> float:
    async for event in client.events(run_id):
        if event.type == kind:
            took = time.monotonic() - begun
            if kind != "run.finished":
                await client.abort(run_id, wait=20)
            return took
    raise AssertionError(f"{run_id} ended without {kind}")
