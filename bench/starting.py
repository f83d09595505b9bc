"""Rows about a run's beginning and end: enqueue to first token, starts per second, aborts, what is left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import psutil
from celery import Celery
from harness import Bench, Row, cpu_s, percentile, sse, store_cpu_s, unfinished
from writing import WORD, claimed, start_all

from mainstem_api import AsyncRuns
from mainstem_shared import transitions
from mainstem_shared.eventlog.writing.writer import Writer
from mainstem_shared.model import ids
from mainstem_shared.model.events import Type
from mainstem_shared.model.runs import Reason
from mainstem_shared.store.client import Store

ROUNDS = 4
"""How often no-op tasks and runs take turns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """Seconds until a queue was empty, and the worker's and the server's CPU for it."""

    s: float = 0.0
    cpu_s: float = 0.0
    server_s: float = 0.0

    def __add__(self, other: Drained) -> Drained:
        return Drained(
            s=self.s + other.s, cpu_s=self.cpu_s + other.cpu_s, server_s=self.server_s + other.server_s
        )


async def first_event(bench: Bench) -> Row:
    """Enqueue → first token at the client, idle; beside Celery's own enqueue → task start."""
    tries = bench.scaled(100, 20)
    waits: list[float] = []
    with bench.worker(), bench.gateway() as (_, port):
        async with AsyncRuns(bench.settings()) as client:
            await client.wait((await client.start("warm", "demo", {"tokens": 1})).run_id)
            for n in range(tries):
                begun = time.perf_counter()
                started = await client.start(f"f{n}", "demo", {"tokens": 1, "interval_ms": 0})
                async with sse(port, started.run_id) as stream:
                    while b"w0" not in await stream.readline():
                        pass
                waits.append((time.perf_counter() - begun) * 1000)
            floor = await _celery_floor(bench, tries)
    p50, p99 = percentile(waits, 0.5), percentile(waits, 0.99)
    return Row(
        name="enqueue → first token at the client",
        figure=f"p50 {p50:.1f} ms, p99 {p99:.1f} ms",
        baseline=f"Celery no-op, one at a time {floor:.1f} ms",
        ratio=f"{p50 / floor:.1f} ×",
        goal="p50 ≤ 15 ms, p99 ≤ 60 ms",
        met=bench.judge(p50 <= 15 and p99 <= 60),
        data={"p50": p50, "p99": p99, "floor": floor},
    )


async def _celery_floor(bench: Bench, tries: int) -> float:
    """Median ms from sending a no-op task until the worker's queue is empty again and it was counted."""
    app = Celery(broker=bench.server.url(1), set_as_current=False)
    store = Store(bench.server.url(1))
    waits = []
    for _ in range(tries):
        begun = time.perf_counter()
        await asyncio.to_thread(app.send_task, "bench.noop")
        while await store.client.llen("celery"):
            await asyncio.sleep(0)
        waits.append((time.perf_counter() - begun) * 1000)
    app.close()
    await store.close()
    return percentile(waits, 0.5)


async def starts(bench: Bench) -> Row:
    """Runs a worker process claims, executes (one token) and ends per second, beside bare no-op tasks.

    The worker stands still while its queue is filled, so that only its own work is measured.
    """
    count = bench.scaled(2000, 300)
    with bench.worker() as worker:
        async with AsyncRuns(bench.settings()) as client:
            rounds = 1 if bench.quick else ROUNDS
            got = await start_rates(bench, worker, client, count, rounds=rounds)
    ratio, work = got["ours"] / got["floor"], got["floor_cpu_us"] / got["ours_cpu_us"]
    return Row(
        name="starts per second and worker, ended runs",
        figure=f"{got['ours']:,.0f}, {got['ours_cpu_us']:,.0f} µs CPU each",
        baseline=f"no-op tasks {got['floor']:,.0f}, {got['floor_cpu_us']:,.0f} µs",
        ratio=f"{ratio:.2f} × the floor ({work:.2f} × by CPU)",
        goal="≥ 0.6 × the floor",
        met=bench.judge(ratio >= 0.6),
        data=got,
    )


async def start_rates(
    bench: Bench, worker: psutil.Process, client: AsyncRuns, count: int, *, rounds: int
) -> dict[str, float]:
    """Per second and in CPU time: `count` no-op tasks and as many runs of one token, in turns."""
    store, broker = client._store.client, Store(bench.server.url(1))
    app = Celery(broker=bench.server.url(1), set_as_current=False)
    each = count // rounds

    async def drained(left: Callable[[], Awaitable[int]]) -> Drained:
        cpu, served, begun = cpu_s(worker), await store_cpu_s(store), time.perf_counter()
        worker.resume()
        while await left():
            await asyncio.sleep(0.02)
        taken = time.perf_counter() - begun
        await asyncio.sleep(0.5)
        worker.suspend()
        return Drained(s=taken, cpu_s=cpu_s(worker) - cpu, server_s=await store_cpu_s(store) - served)

    floor, ours, enqueuing = Drained(), Drained(), 0.0
    try:
        worker.suspend()
        for _ in range(rounds):  # a slow second of the machine meets both
            await asyncio.to_thread(lambda: [app.send_task("bench.noop") for _ in range(each)])
            floor += await drained(lambda: broker.client.llen("celery"))
            begun = time.perf_counter()
            await start_all(client, each, "demo", {"tokens": 1, "interval_ms": 0})
            enqueuing += time.perf_counter() - begun
            ours += await drained(lambda: unfinished(store))
    finally:
        worker.resume()
        app.close()
        await broker.close()
    count = rounds * each
    return {
        "runs": count,
        "ours": count / ours.s,
        "floor": count / floor.s,
        "ours_cpu_us": 1e6 * ours.cpu_s / count,
        "floor_cpu_us": 1e6 * floor.cpu_s / count,
        "ours_server_us": 1e6 * ours.server_s / count,
        "floor_server_us": 1e6 * floor.server_s / count,
        "enqueued_per_s": count / enqueuing,
    }


async def memory(bench: Bench) -> Row:
    """Valkey memory of running runs of 500 deltas each, and what is left of them when they are over."""
    got = await memory_of(bench, bench.scaled(1000, 100))
    content, running_mb = 500 * len(WORD), got["running_kb"] * 1.024
    return Row(
        name="Valkey memory, runs of 500 deltas",
        figure=f"{running_mb:.1f} MB per 1,000 running; {got['over_kb']:.1f} KB each when over",
        baseline="LibreChat 60 MB",
        ratio=f"{running_mb / 60:.2f} ×",
        goal=f"≤ 18 MB; ≤ content ({content / 1024:.1f} KB) + 2 KB",
        met=bench.judge(running_mb <= 18 and got["over_kb"] * 1024 <= content + 2 + 2048),
        data=got,
    )


async def memory_of(bench: Bench, runs: int) -> dict[str, float]:
    """KB per run, running and over."""
    settings = bench.settings()
    store = Store(bench.server.url(0))
    writer = Writer(store, settings)
    await writer.start()

    async def used() -> int:
        return (await store.client.info("memory"))["used_memory_dataset"]

    await (await claimed(store, settings, writer, "first")).close()  # scripts and buffers are there
    before = await used()
    channels = [await claimed(store, settings, writer, f"m{n}") for n in range(runs)]
    for _ in range(500):
        for channel in channels:
            channel.text(Type.MESSAGE_DELTA, WORD)
        await asyncio.gather(*(channel.flush() for channel in channels))
    await asyncio.sleep(0.5)
    running = (await used() - before) / runs
    for channel in channels:
        top = await channel.close()
        await transitions.finish(
            store, channel.control, nonce=ids.nonce(), top=top, reason=Reason.COMPLETED,
            state=channel.fold.dump(), error=None, retention_ms=settings.retention_ms,
            compact_after_ms=int(settings.compact_after_s * 1000),
        )  # fmt: skip
        await transitions.compact(store, channel.control.run_id)
    over = (await used() - before) / runs
    await writer.stop()
    await store.close()
    return {"runs": runs, "running_kb": running / 1024, "over_kb": over / 1024}
