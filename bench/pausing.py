"""Pausing: what runs cost that wait for a human: no task, no memory of a worker, a record in the store."""

from __future__ import annotations

import asyncio
from typing import Any

import psutil
from celery import Celery
from harness import Bench, Row

from mainstem_api import AsyncRuns
from mainstem_shared.model.events import Type
from mainstem_shared.store import keys

RUNS = 10_000
GOAL_KB = 8.0
"""Of the store's memory, for each run beside its own text."""
RSS_PER_RUN = 1024
"""Bytes of the worker's memory, for each run, that still count as none: what an allocator keeps."""
AT_ONCE = 64
TRIED = 50
INPUT = {"tokens": 4, "interval_ms": 0, "approve_at": [2]}
TEXT = b"w0 w1"


async def pausing(bench: Bench) -> Row:
    """10,000 paused runs: the store's memory per run, the worker's growth, and tasks that are active."""
    runs = 200 if bench.quick else RUNS
    first = runs // 2  # until then the allocator and the pools fill up
    with bench.worker() as worker:
        async with AsyncRuns(bench.settings()) as client:
            store: Any = client._store.client
            warm = await _paused(client, 100, "warm")
            used = (await store.info("memory"))["used_memory"]
            early = await _paused(client, first, "early")
            await _settled(bench)
            rss_early, blocks_early = _rss(worker), await _blocks(client)
            late = await _paused(client, runs - first, "late")
            grown = (await store.info("memory"))["used_memory"] - used
            active = await _settled(bench)
            rss_late, blocks_late = _rss(worker), await _blocks(client)
            resumed = await _resumed(client, (*warm[:5], *early[:5], *late[-TRIED:]))
    per_run = grown / runs - len(TEXT)
    rss, blocks = (
        (late - early) / (runs - first)
        for early, late in ((rss_early, rss_late), (blocks_early, blocks_late))
    )
    return Row(
        name=f"{runs:,} runs paused",
        figure=(
            f"{per_run / 1024:.1f} KB of Valkey per run beside its text; worker {rss_early / 2**20:.0f} → "
            f"{rss_late / 2**20:.0f} MB, {rss:.0f} B and {blocks:.2f} objects per run; "
            f"{active} tasks active; {resumed} resumed"
        ),
        goal=f"≤ {GOAL_KB:.0f} KB; RSS does not grow; no task active",
        met=bench.judge(per_run <= GOAL_KB * 1024 and rss <= RSS_PER_RUN and blocks < 1 and active == 0),
        data={
            "runs": runs,
            "valkey_bytes_per_run": per_run,
            "rss_bytes_per_run": rss,
            "blocks_per_run": blocks,
            "active": active,
        },
    )


async def _paused(client: AsyncRuns, count: int, name: str) -> list[str]:
    """Start runs that pause, and wait until all of them have."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def start(number: int) -> str:
        async with gate:
            return (await client.start(f"{name}-{number}", "demo", INPUT)).run_id

    run_ids = await asyncio.gather(*map(start, range(count)))
    waiting = list(run_ids)
    while waiting:
        await asyncio.sleep(0.1)
        async with client._store.client.pipeline(transaction=False) as pipe:
            for run_id in waiting:
                pipe.hget(keys.run(run_id).record, "status")
            found = await pipe.execute()
        waiting = [r for r, status in zip(waiting, found, strict=True) if status != b"requires_action"]
    return run_ids


async def _resumed(client: AsyncRuns, run_ids: tuple[str, ...]) -> int:
    """Resume some of them; each goes on where it stopped."""

    async def resume(run_id: str) -> bool:
        action = (await client.get(run_id)).action or {}
        decisions = [{"call_id": call["call_id"], "type": "approve"} for call in action["calls"]]
        await client.resume(run_id, action["action_id"], decisions=decisions)
        return (await client.wait(run_id, timeout=60)).text == "w0 w1 w2 w3"

    return sum(await asyncio.gather(*map(resume, run_ids)))


async def _blocks(client: AsyncRuns) -> int:
    """Memory blocks that the worker's interpreter holds: a leak of one object per run would show."""
    counted = await client.start("census", "bench.census", {})
    [blocks] = [
        event.data["data"] async for event in client.events(counted.run_id) if event.type == Type.CUSTOM
    ]
    return blocks


def _rss(worker: psutil.Process) -> int:
    return worker.memory_info().rss


async def _settled(bench: Bench) -> int:
    """Return how many tasks stay active: those that paused last still have to end."""
    active = 0
    for _ in range(5):
        if not (active := await asyncio.to_thread(_active, bench)):
            break
    await asyncio.sleep(1)
    return active


def _active(bench: Bench) -> int:
    app = Celery(broker=bench.server.url(1), set_as_current=False)
    try:
        active: dict[str, list[Any]] = app.control.inspect(timeout=2).active() or {}
        return sum(map(len, active.values()))
    finally:
        app.close()
