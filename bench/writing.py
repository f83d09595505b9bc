"""Rows about writing: a burst, what a token costs the store and the worker, and many runs in one worker."""

from __future__ import annotations

import asyncio
import statistics
import time
import uuid
from typing import Any

from baselines import naive, raw
from harness import Bench, Row, cpu_s, percentile, store_cpu_s, unfinished

from mainstem_api import AsyncRuns
from mainstem_shared import transitions
from mainstem_shared.eventlog.writing.channels import Channel
from mainstem_shared.eventlog.writing.writer import Writer
from mainstem_shared.model import ids, runs
from mainstem_shared.model.events import Type
from mainstem_shared.model.time import now_ms
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store

WORD = " word12"  # 7 characters
HELD = 0.95
"""The share of a load that counts as held."""
PAYLOAD = b'{"type":"message.delta","run":"01HXYZ","part":0,"text":" word12"}..'  # 67 bytes
assert len(PAYLOAD) == 67


async def claimed(
    store: Store, settings: Any, writer: Writer, thread: str, unique: uuid.UUID | None = None
) -> Channel:
    """A run of ours, claimed in this process: the writer's work without a worker around it."""
    if unique is None:
        unique = ids.uuid7()
        thread = f"{thread}-{unique}"
    run_id = ids.run_id("default", thread, unique)
    spec = runs.Spec(
        run_id=run_id, thread_id=thread, user_id="local", tenant="default", engine="bench", metadata={},
        created_ms=now_ms(), max_duration_s=3600,
    )  # fmt: skip
    ttl = settings.live_ttl_ms
    await transitions.start(
        store, spec, b"{}", nonce=ids.nonce(), if_active="reject", live_ttl_ms=ttl, thread_ttl_ms=ttl
    )
    granted = await transitions.claim(
        store, run_id, nonce=ids.nonce(), owner="bench", task_id="bench", live_ttl_ms=ttl
    )
    assert isinstance(granted, transitions.Claimed)
    return writer.open(transitions.Control(run_id=run_id, epoch=granted.epoch, owner="bench"))


async def burst(bench: Bench) -> Row:
    """One run's text, as fast as its engine can emit, until it is durable."""
    settings = bench.settings()
    store = Store(bench.server.url(0))
    writer = Writer(store, settings)
    await writer.start()
    count = bench.scaled(500_000, 50_000)
    channel = await claimed(store, settings, writer, "burst")
    begun = time.perf_counter()
    for _ in range(count):
        channel.text(Type.MESSAGE_DELTA, WORD)
        if channel.congested:
            await channel.drained()
    await channel.close()
    ours = count / (time.perf_counter() - begun)
    await writer.stop()
    await store.close()
    base = await asyncio.to_thread(raw.append, bench.server.url(2), PAYLOAD, bench.scaled(200_000, 20_000))
    hand = await naive.append(bench.server.url(2), PAYLOAD, bench.scaled(10_000, 2_000))
    return Row(
        name="burst of one run, events/s",
        figure=f"{ours:,.0f}",
        baseline=f"raw {base:,.0f}, naive {hand:,.0f}",
        ratio=f"{ours / base:.1f} × raw, {ours / hand:.0f} × naive",
        goal="≥ 1.0 × raw, ≥ 10 × naive",
        met=ours >= base and ours >= 10 * hand,
        data={"ours": ours, "raw": base, "naive": hand},
    )


async def steady(
    bench: Bench, *, runs: int, per_s: float, seconds: float, sampled: int = 20, **env: str
) -> dict[str, float]:
    """Hold a load of demo runs in one worker; returns its cost and how late sampled runs' tokens came."""
    body = {"tokens": int(per_s * seconds), "interval_ms": 1000 / per_s}
    with bench.worker(**env) as worker:
        async with AsyncRuns(bench.settings()) as client:
            started = await start_all(client, runs, "demo", body)
            late: list[tuple[float, float]] = []
            followers = [asyncio.create_task(_lateness(client, r, per_s, late)) for r in started[:sampled]]
            store = client._store.client
            held = await _most_running(store, runs)
            cpu, before, begun, rss = cpu_s(worker), await _store_work(store), time.monotonic(), 0.0
            while time.monotonic() - begun < max(1.0, seconds * 0.4):
                await asyncio.sleep(0.2)
                rss = max(rss, worker.memory_info().rss / 2**20)
            window = time.monotonic() - begun
            used, after = cpu_s(worker) - cpu, await _store_work(store)
            held = (held + await _running(store)) / 2
            await asyncio.gather(*followers)
            while await unfinished(store):
                await asyncio.sleep(0.2)
            ended = [await client.get(r) for r in started[:: max(1, runs // 50)]]
    pace = min(1.0, seconds / statistics.median(_lasted(run) for run in ended))
    emitted = held * per_s * window * pace
    lateness = [by for at, by in late if begun <= at <= begun + window] or [0.0]
    return {
        "runs": runs,
        "held": held,
        "pace": pace,
        "cpu_us": 1e6 * used / emitted,
        "rss_mb": rss,
        "p99_ms": percentile(lateness, 0.99),
        "p50_ms": percentile(lateness, 0.5),
        "commands": (after[0] - before[0]) / emitted,
        "bytes": (after[1] - before[1]) / emitted,
        "store_cpu_us": 1e6 * (after[2] - before[2]) / emitted,
        "failed": sum(run.status != "succeeded" for run in ended),
    }


def _lasted(run: Any) -> float:
    """Seconds from a run's claim to its end: longer than planned where the machine could not keep up."""
    return (run.finished_at - run.started_at).total_seconds()


async def start_all(client: AsyncRuns, runs: int, engine: str, body: dict[str, Any]) -> list[str]:
    gate = asyncio.Semaphore(64)

    async def start(n: int) -> str:
        async with gate:
            return (await client.start(f"b{time.monotonic_ns()}-{n}", engine, body)).run_id

    return await asyncio.gather(*(start(n) for n in range(runs)))


async def _store_work(store: Any) -> tuple[int, int, float]:
    """Commands that write (polling readers of the benchmark are not counted), all bytes in, CPU seconds."""
    received = (await store.info("stats"))["total_net_input_bytes"]
    return _appends(await store.info("commandstats")), received, await store_cpu_s(store)


def _appends(stats: dict[str, Any]) -> int:
    """Everything the server did for the writer; polling readers of the benchmark are not counted."""
    return sum(
        stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("xadd", "multi", "exec", "evalsha")
    )


async def _running(store: Any) -> int:
    """Runs that a worker has right now."""
    names = [name.decode() for name in await store.zrange(keys.WORKERS, 0, -1)]
    return max([await store.scard(keys.owned(name)) for name in names], default=0)


async def _most_running(store: Any, runs: int) -> int:
    """Wait until all run at once, or as many as ever will: on a busy machine the first are over before."""
    most = 0
    async with asyncio.timeout(120):
        while (now := await _running(store)) < runs and (now >= most or now < runs / 4):
            most = now
            await asyncio.sleep(0.25)
    return now


async def _lateness(client: AsyncRuns, run_id: str, per_s: float, into: list[tuple[float, float]]) -> None:
    """When each group of tokens came, and how many ms after its schedule; the most punctual is in time."""
    arrivals: list[tuple[float, float]] = []
    word = -1
    async for event in client.events(run_id):
        if event.type == Type.MESSAGE_DELTA:
            word += event.data["text"].count("w")
            now = time.monotonic()
            arrivals.append((now, now * 1000 - word * 1000 / per_s))
    first = min(due for _, due in arrivals)
    into.extend((at, due - first) for at, due in arrivals[1:])


def _share(got: dict[str, float]) -> float:
    """Which part of the load there was."""
    return got["pace"] * got["held"] / got["runs"]


def _late(got: dict[str, float]) -> str:
    """How late tokens came; and if the load was not held: other tenants of the machine, or a full core."""
    held = "" if _share(got) > HELD else f" at {_share(got):.0%} of the load"
    return f"p99 late {got['p99_ms']:.0f} ms{held}"


async def runs_1000(bench: Bench) -> Row:
    """1,000 runs × 50 tokens/s in one worker process."""
    runs = bench.scaled(1000, 100)
    got = await steady(bench, runs=runs, per_s=50, seconds=3 if bench.quick else 30)
    return Row(
        name=f"{runs:,} runs × 50 tokens/s, one worker",
        figure=f"{_late(got)}, {got['cpu_us']:.1f} µs/token, {got['rss_mb']:.0f} MB",
        goal="≤ 50 ms, ≤ 12 µs, ≤ 200 MB at 1,000",
        met=bench.judge(
            _share(got) > HELD and got["p99_ms"] <= 50 and got["cpu_us"] <= 12 and got["rss_mb"] <= 200
        ),
        data=got,
    )


async def runs_4000(bench: Bench) -> Row:
    """4,000 runs × 5 tokens/s in one worker process."""
    runs = bench.scaled(4000, 400)
    load: dict[str, Any] = {} if bench.quick else {"MAINSTEM_CONCURRENCY": "4000"}
    got = await steady(bench, runs=runs, per_s=5, seconds=4 if bench.quick else 45, **load)
    return Row(
        name=f"{runs:,} runs × 5 tokens/s, one worker",
        figure=f"{got['rss_mb']:.0f} MB, {got['failed']:.0f} failed, {_late(got)}",
        goal="held, ≤ 280 MB at 4,000",
        met=bench.judge(_share(got) > HELD and got["failed"] == 0 and got["rss_mb"] <= 280),
        data=got,
    )


async def per_token(bench: Bench) -> Row:
    """Valkey commands and bytes in per token, 50 runs × 40/s, as writers do it by default."""
    return await _per_token(bench, commands=1.05, size=150)


async def per_token_economy(bench: Bench) -> Row:
    """The same with the wider write window."""
    return await _per_token(bench, commands=0.5, size=80, MAINSTEM_WRITE_PROFILE="economy")


async def _per_token(bench: Bench, *, commands: float, size: float, **env: str) -> Row:
    seconds = 3 if bench.quick else 12
    # No readers: their commands are not the writer's.
    got = await steady(bench, runs=50, per_s=40, seconds=seconds, sampled=0, **env)
    return Row(
        name=f"per token, 50 runs × 40/s, {env.get('MAINSTEM_WRITE_PROFILE', 'latency')}",
        figure=f"{got['commands']:.2f} commands, {got['bytes']:.0f} bytes in",
        baseline="LibreChat 3 and 915",
        ratio=f"{got['commands'] / 3:.2f} × and {got['bytes'] / 915:.2f} ×",
        goal=f"≤ {commands}, ≤ {size}",
        met=got["commands"] <= commands and got["bytes"] <= size,
        data=got,
    )
