"""The rows of the table, one function each: what is measured, against what, and the goal.

Figures are of this machine; ratios are inside one run. Goals that are missed are reported, not hidden.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from baselines import naive, raw
from celery import Celery
from harness import Bench, Row, cpu_s, data_of, percentile, sse

from mainstem_api import AsyncRuns
from mainstem_shared import ids, keys, models, verbs
from mainstem_shared.channels import Channel
from mainstem_shared.events import Type
from mainstem_shared.models import Reason
from mainstem_shared.store import Store, now_ms
from mainstem_shared.writer import Writer

WORD = " word12"  # 7 characters
PAYLOAD = b'{"type":"message.delta","run":"01HXYZ","part":0,"text":" word12"}..'  # 67 bytes
assert len(PAYLOAD) == 67


async def _claimed(store: Store, settings: Any, writer: Writer, thread: str) -> Channel:
    """A run of ours, claimed in this process: the writer's work without a worker around it."""
    run_id = ids.run_id("default", thread, ids.uuid7())
    spec = models.Spec(
        run_id=run_id, thread_id=thread, user_id="local", tenant="default", engine="bench", metadata={},
        created_ms=now_ms(), max_duration_s=3600,
    )  # fmt: skip
    ttl = settings.live_ttl_ms
    await verbs.start(
        store, spec, b"{}", nonce=ids.nonce(), if_active="reject", live_ttl_ms=ttl, thread_ttl_ms=ttl
    )
    claimed = await verbs.claim(
        store, run_id, nonce=ids.nonce(), owner="bench", task_id="bench", live_ttl_ms=ttl
    )
    assert isinstance(claimed, verbs.Claimed)
    return writer.open(verbs.Control(run_id=run_id, epoch=claimed.epoch, owner="bench"))


async def burst(bench: Bench) -> Row:
    """One run's text, as fast as its engine can emit, until it is durable."""
    settings = bench.settings()
    store = Store(bench.server.url(0))
    writer = Writer(store, settings)
    await writer.start()
    count = bench.scaled(500_000, 50_000)
    channel = await _claimed(store, settings, writer, "burst")
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


async def _steady(
    bench: Bench, *, runs: int, per_s: float, seconds: float, sampled: int = 20, **env: str
) -> dict[str, Any]:
    """Hold a load of demo runs in one worker; returns its cost and how late sampled runs' tokens came."""
    tokens = int(per_s * seconds)
    body = {"tokens": tokens, "interval_ms": 1000 / per_s}
    with bench.worker(**env) as worker:
        async with AsyncRuns(bench.settings()) as client:
            gate = asyncio.Semaphore(64)

            async def start(n: int) -> str:
                async with gate:
                    return (await client.start(f"s{time.monotonic_ns()}-{n}", "demo", body)).run_id

            started = await asyncio.gather(*(start(n) for n in range(runs)))
            lateness: list[float] = []
            followers = [
                asyncio.create_task(_lateness(client, r, per_s, lateness)) for r in started[:sampled]
            ]
            store = client._store.client
            await _all_running(store, worker, runs)
            cpu, begun, rss = cpu_s(worker), time.monotonic(), 0.0
            stats0 = await store.info("commandstats"), (await store.info("stats"))["total_net_input_bytes"]
            length = max(1.0, seconds * 0.4)
            while time.monotonic() - begun < length:
                await asyncio.sleep(0.2)
                rss = max(rss, worker.memory_info().rss / 2**20)
            window = time.monotonic() - begun
            used = cpu_s(worker) - cpu
            stats1 = await store.info("commandstats"), (await store.info("stats"))["total_net_input_bytes"]
            await asyncio.gather(*followers)
            held = [(await client.get(r)).status for r in started[:: max(1, runs // 50)]]
            while await store.zcard(keys.ACTIVE):
                await asyncio.sleep(0.2)
    emitted = runs * per_s * window
    commands = _appends(stats1[0]) - _appends(stats0[0])
    return {
        "cpu_us": 1e6 * used / emitted,
        "rss_mb": rss,
        "p99_ms": percentile(lateness or [0.0], 0.99),
        "p50_ms": percentile(lateness or [0.0], 0.5),
        "commands": commands / emitted,
        "bytes": (stats1[1] - stats0[1]) / emitted,
        "failed": sum(status == "failed" for status in held),
    }


def _appends(stats: dict[str, Any]) -> int:
    """Everything the server did for the writer; polling readers of the benchmark are not counted."""
    return sum(
        stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("xadd", "multi", "exec", "evalsha")
    )


async def _all_running(store: Any, worker: Any, runs: int) -> None:
    owner = (await store.zrevrange(keys.WORKERS, 0, 0))[0].decode()
    for _ in range(600):
        for name in [member.decode() for member in await store.zrange(keys.WORKERS, 0, -1)] or [owner]:
            if await store.scard(keys.owned(name)) >= runs:
                return
        await asyncio.sleep(0.1)
    raise TimeoutError(f"{runs} runs never ran at once in {worker}")


async def _lateness(client: AsyncRuns, run_id: str, per_s: float, into: list[float]) -> None:
    first: float | None = None
    word = -1
    async for event in client.events(run_id):
        if event.type != Type.MESSAGE_DELTA:
            continue
        word += event.data["text"].count("w")
        now = time.monotonic() * 1000
        first = now - word * 1000 / per_s if first is None else first
        into.append(now - first - word * 1000 / per_s)


async def runs_1000(bench: Bench) -> Row:
    """1,000 runs × 50 tokens/s in one worker process."""
    runs = bench.scaled(1000, 100)
    got = await _steady(bench, runs=runs, per_s=50, seconds=20 if bench.scale >= 1 else 8)
    return Row(
        name=f"{runs:,} runs × 50 tokens/s, one worker",
        figure=f"p99 late {got['p99_ms']:.0f} ms, {got['cpu_us']:.1f} µs/token, {got['rss_mb']:.0f} MB",
        goal="≤ 50 ms, ≤ 12 µs, ≤ 200 MB",
        met=got["p99_ms"] <= 50 and got["cpu_us"] <= 12 and got["rss_mb"] <= 200,
        data=got,
    )


async def runs_4000(bench: Bench) -> Row:
    """4,000 runs × 5 tokens/s in one worker process."""
    runs = bench.scaled(4000, 400)
    seconds = 40 if bench.scale >= 1 else 12
    got = await _steady(bench, runs=runs, per_s=5, seconds=seconds, MAINSTEM_CONCURRENCY="4000")
    return Row(
        name=f"{runs:,} runs × 5 tokens/s, one worker",
        figure=f"{got['rss_mb']:.0f} MB, {got['failed']} failed, p99 late {got['p99_ms']:.0f} ms",
        goal="held, ≤ 280 MB",
        met=got["failed"] == 0 and got["rss_mb"] <= 280,
        data=got,
    )


async def per_token(bench: Bench) -> list[Row]:
    """Valkey commands and bytes in per token, 50 runs × 40/s, in both write profiles."""
    rows = []
    for profile, commands, size in (("latency", 1.05, 150), ("economy", 0.5, 80)):
        got = await _steady(
            bench,
            runs=50,
            per_s=40,
            seconds=12 if bench.scale >= 1 else 6,
            sampled=0,  # readers' commands are not the writer's
            MAINSTEM_WRITE_PROFILE=profile,
        )
        rows.append(
            Row(
                name=f"per token, 50 runs × 40/s, {profile}",
                figure=f"{got['commands']:.2f} commands, {got['bytes']:.0f} bytes in",
                baseline="LibreChat 3 and 915",
                goal=f"≤ {commands}, ≤ {size}",
                met=got["commands"] <= commands and got["bytes"] <= size,
                data=got,
            )
        )
    return rows


async def delivery(bench: Bench) -> Row:
    """Engine → SSE client over HTTP, 50 runs × 40 events/s."""
    seconds = 10 if bench.scale >= 1 else 4
    body = {"tokens": 40 * seconds, "interval_ms": 25}
    ages: list[float] = []
    with bench.worker(), bench.gateway() as (_, port):
        async with AsyncRuns(bench.settings()) as client:
            await asyncio.sleep(1)
            started = [
                (await client.start(f"d{time.monotonic_ns()}", "bench.clock", body)).run_id for _ in range(50)
            ]

            async def follow(run_id: str) -> None:
                async with sse(port, run_id) as stream:
                    while line := await stream.readline():
                        now = time.time_ns()
                        if line.startswith(b'data: {"part"'):
                            sent = data_of(line)["text"].split()
                            ages.extend((now - int(ns)) / 1e6 for ns in sent)
                        elif line.startswith(b"event: run.finished"):
                            return

            raw_ages = asyncio.create_task(_raw_ages(bench, seconds))
            await asyncio.gather(*(follow(r) for r in started))
            raw_seen = await raw_ages
    ages = ages[len(ages) // 10 :]
    p50, p99 = percentile(ages, 0.5), percentile(ages, 0.99)
    return Row(
        name="delivery over HTTP, 50 runs × 40/s",
        figure=f"p50 {p50:.1f} ms, p99 {p99:.1f} ms",
        baseline=f"raw XADD→XREAD {percentile(raw_seen, 0.5):.1f} / {percentile(raw_seen, 0.99):.1f} ms",
        ratio=f"{p50 / percentile(raw_seen, 0.5):.1f} ×",
        goal="p50 ≤ 3 ms, p99 ≤ 15 ms",
        met=p50 <= 3 and p99 <= 15,
        data={"p50": p50, "p99": p99, "raw_p50": percentile(raw_seen, 0.5)},
    )


async def _raw_ages(bench: Bench, seconds: float) -> list[float]:
    """One raw producer and one raw reader on the same server, under the same load."""
    writing, reading = Store(bench.server.url(2)), Store(bench.server.url(2))
    ages: list[float] = []

    async def read() -> None:
        last = b"0"
        while True:
            for _, entries in await reading.client.xread({"raw-age": last}, block=1000) or ():
                for last, fields in entries:  # noqa: B007 - the last id is where to go on
                    if fields[b"t"] == b"end":
                        return
                    ages.append((time.time_ns() - int(fields[b"t"])) / 1e6)

    reader = asyncio.create_task(read())
    for _ in range(int(seconds * 40)):
        await writing.client.xadd("raw-age", {"t": time.time_ns()})
        await asyncio.sleep(0.025)
    await writing.client.xadd("raw-age", {"t": "end"})
    await reader
    await writing.client.delete("raw-age")
    await writing.close()
    await reading.close()
    return ages


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
        met=p50 <= 15 and p99 <= 60,
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
    """Runs a worker process starts and ends per second, beside bare no-op tasks."""
    count = bench.scaled(2000, 300)
    with bench.worker() as _:
        app = Celery(broker=bench.server.url(1), set_as_current=False)
        broker = Store(bench.server.url(1))
        async with AsyncRuns(bench.settings()) as client:
            store = client._store.client
            await asyncio.to_thread(lambda: [app.send_task("bench.noop") for _ in range(count)])
            floor = await _drain_rate(broker, count)
            gate = asyncio.Semaphore(64)

            async def start(n: int) -> str:
                async with gate:
                    body = {"tokens": 1, "interval_ms": 0}
                    return (await client.start(f"r{time.monotonic_ns()}-{n}", "demo", body)).run_id

            begun = time.perf_counter()
            await asyncio.gather(*(start(n) for n in range(count)))
            while await store.zcard(keys.ACTIVE):
                await asyncio.sleep(0.01)
            ours = count / (time.perf_counter() - begun)
        app.close()
        await broker.close()
    return Row(
        name="starts per second and worker, ended runs",
        figure=f"{ours:,.0f}",
        baseline=f"no-op tasks {floor:,.0f}",
        ratio=f"{ours / floor:.2f} × the floor",
        goal="≥ 0.6 × the floor",
        met=ours >= 0.6 * floor,
        data={"ours": ours, "floor": floor},
    )


async def _drain_rate(broker: Store, count: int) -> float:
    begun, left = time.perf_counter(), await broker.client.llen("celery")
    while await broker.client.llen("celery"):
        await asyncio.sleep(0.005)
    return max(left, count // 2) / (time.perf_counter() - begun)


async def reconnects(bench: Bench) -> Row:
    """A reader without a cursor, to runs of equal content in ever more deltas."""
    settings = bench.settings()
    store = Store(bench.server.url(0))
    writer = Writer(store, settings)
    await writer.start()
    content = "x" * 140_000
    got: dict[int, dict[str, float]] = {}
    with bench.gateway() as (_, port):
        for deltas in (1000, 5000, 20_000) if bench.scale >= 1 else (1000, 5000):
            channel = await _claimed(store, settings, writer, f"deltas{deltas}")
            step = len(content) // deltas
            for k in range(deltas):
                channel.text(Type.MESSAGE_DELTA, content[k * step : (k + 1) * step])
                await channel.flush()
            top = str(channel.acknowledged).encode()
            times, size = [], 0
            for _ in range(20):
                begun, size = time.perf_counter(), 0
                async with sse(port, channel.control.run_id) as stream:
                    while True:
                        line = await stream.readline()
                        size += len(line)
                        if line.startswith(b"id: " + top):
                            break
                times.append((time.perf_counter() - begun) * 1000)
            got[deltas] = {"ms": percentile(times, 0.5), "kb": size / 1024}
            await channel.close()
    await writer.stop()
    await store.close()
    most = max(got)
    ratio = got[most]["ms"] / got[1000]["ms"]
    return Row(
        name="cold reconnect, 140 KB of content",
        figure=", ".join(f"{d // 1000}k: {g['ms']:.1f} ms {g['kb']:.0f} KB" for d, g in got.items()),
        baseline="LibreChat 46-168 ms at 20k",
        ratio=f"{most // 1000}k = {ratio:.1f} × 1k",
        goal="20k ≤ 2 × 1k, ≤ 8 ms",
        met=ratio <= 2 and got[most]["ms"] <= 8,
        data={str(d): g for d, g in got.items()},
    )


async def memory(bench: Bench) -> Row:
    """Valkey memory of running runs of 500 deltas each, and what is left of them when they are over."""
    settings = bench.settings()
    store = Store(bench.server.url(0))
    writer = Writer(store, settings)
    await writer.start()
    await store.client.flushdb()
    runs = bench.scaled(1000, 100)
    before = (await store.client.info("memory"))["used_memory"]
    channels = [await _claimed(store, settings, writer, f"m{n}") for n in range(runs)]
    for _ in range(500):
        for channel in channels:
            channel.text(Type.MESSAGE_DELTA, WORD)
        await asyncio.gather(*(channel.flush() for channel in channels))
    await asyncio.sleep(0.5)
    running = (await store.client.info("memory"))["used_memory"] - before
    for channel in channels:
        top = await channel.close()
        await verbs.finish(
            store, channel.control, nonce=ids.nonce(), top=top, reason=Reason.COMPLETED,
            state=channel.fold.dump(), error=None, retention_ms=settings.retention_ms,
        )  # fmt: skip
        await verbs.compact(store, channel.control.run_id)
    over = ((await store.client.info("memory"))["used_memory"] - before) / runs
    await writer.stop()
    await store.close()
    per_thousand = running / runs * 1000 / 1e6
    content = 500 * len(WORD)
    return Row(
        name="Valkey memory, runs of 500 deltas",
        figure=f"{per_thousand:.1f} MB per 1,000 running; {over / 1024:.1f} KB each when over",
        baseline="LibreChat 60 MB",
        ratio=f"{per_thousand / 60:.2f} ×",
        goal=f"≤ 18 MB; ≤ content ({content / 1024:.1f} KB) + 2 KB",
        met=per_thousand <= 18 and over <= content + 2 + 2048,
        data={"running_mb": per_thousand, "over_bytes": over},
    )


async def fan_out(bench: Bench) -> Row:
    """200 live runs at 20 events/s followed by 400 SSE clients: what one gateway CPU-second delivers."""
    seconds = 15 if bench.scale >= 1 else 6
    runs = bench.scaled(200, 50)
    body = {"tokens": 20 * seconds, "interval_ms": 50}
    delivered = 0
    with bench.worker(), bench.gateway() as (gateway, port):
        async with AsyncRuns(bench.settings()) as client:
            started = [
                (await client.start(f"g{time.monotonic_ns()}", "demo", body)).run_id for _ in range(runs)
            ]

            async def follow(run_id: str) -> None:
                nonlocal delivered
                async with sse(port, run_id) as stream:
                    while chunk := await stream.read(65536):
                        delivered += chunk.count(b"\nid: ") + chunk.startswith(b"id: ")
                        if b"run.finished" in chunk:
                            return

            followers = [asyncio.create_task(follow(r)) for r in (*started, *started)]
            await asyncio.sleep(1)
            cpu, seen = cpu_s(gateway), delivered
            own = time.process_time()
            await asyncio.sleep(seconds * 0.6)
            used, got, own = cpu_s(gateway) - cpu, delivered - seen, time.process_time() - own
            await asyncio.gather(*followers)
    rate = got / used
    return Row(
        name=f"gateway, {2 * runs} SSE clients on {runs} runs × 20/s",
        figure=f"{rate:,.0f} events per CPU-second",
        baseline=f"client {got / own:,.0f}",
        goal="≥ 40,000",
        met=rate >= 40_000,
        data={"events_per_cpu_s": rate, "client": got / own},
    )


ROWS = (burst, per_token, delivery, first_event, starts, reconnects, memory, fan_out, runs_1000, runs_4000)
