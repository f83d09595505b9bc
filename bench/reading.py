"""Rows about reading: how fast events arrive, what a reader's return costs, what a gateway delivers."""

from __future__ import annotations

import asyncio
import statistics
import time

from baselines import naive_gateway
from harness import Bench, Row, cpu_s, data_of, percentile, sse
from writing import claimed, start_all

from mainstem_api import AsyncRuns
from mainstem_shared.eventlog.writing.channels import Channel
from mainstem_shared.eventlog.writing.writer import Writer
from mainstem_shared.model.events import Type
from mainstem_shared.store.client import Store


async def delivery(bench: Bench) -> Row:
    """Engine → SSE client over HTTP, 50 runs × 40 events/s."""
    seconds = 3 if bench.quick else 10
    body = {"tokens": 40 * seconds, "interval_ms": 25}
    ages: list[float] = []
    with bench.worker(), bench.gateway() as (_, port):
        async with AsyncRuns(bench.settings()) as client:
            await asyncio.sleep(0 if bench.quick else 1)
            started = await start_all(client, 50, "bench.clock", body)

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
        met=bench.judge(p50 <= 3 and p99 <= 15),
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


async def reconnects(bench: Bench) -> Row:
    """A reader without a cursor, to runs of equal content in ever more deltas."""
    counts = [1000, 2000] if bench.quick else [1000, 5000, 20_000]
    got = await _reconnect_costs(bench, counts)
    most, ratio = max(got), got[max(got)]["ms"] / got[1000]["ms"]
    return Row(
        name="cold reconnect, 140 KB of content",
        figure=_spelled(got),
        baseline="LibreChat 46-168 ms at 20k",
        ratio=f"{most // 1000}k = {ratio:.1f} × 1k",
        goal="20k ≤ 2 × 1k, ≤ 8 ms",
        met=bench.judge(ratio <= 2 and got[most]["ms"] <= 8),
        data={str(d): g for d, g in got.items()},
    )


async def reconnects_100k(bench: Bench) -> Row:
    """The same for 100,000 deltas, with as much content per delta as at 20,000."""
    got = await _reconnect_costs(bench, [20_000, 100_000], content=700_000)
    ratio = got[100_000]["ms"] / got[20_000]["ms"]
    return Row(
        name="cold reconnect, 700 KB of content",
        figure=_spelled(got),
        ratio=f"100k = {ratio:.1f} × 20k",
        goal="follows the content: ≤ 2 ×",
        met=ratio <= 2,
        data={str(d): g for d, g in got.items()},
    )


def _spelled(got: dict[int, dict[str, float]]) -> str:
    return ", ".join(f"{d // 1000}k: {g['ms']:.1f} ms {g['kb']:.0f} KB" for d, g in got.items())


async def _reconnect_costs(
    bench: Bench, counts: list[int], *, content: int = 140_000
) -> dict[int, dict[str, float]]:
    settings = bench.settings()
    store = Store(bench.server.url(0))
    writer = Writer(store, settings)
    await writer.start()
    channels: dict[int, Channel] = {}
    returns: dict[int, list[tuple[float, float]]] = {deltas: [] for deltas in counts}
    with bench.gateway() as (_, port):
        for deltas in counts:
            channel = channels[deltas] = await claimed(store, settings, writer, f"deltas{deltas}")
            for _ in range(deltas):
                channel.text(Type.MESSAGE_DELTA, "x" * (content // deltas))
                await channel.flush()
        for _ in range(20):  # in turns: a slow second of the machine meets all of them
            for deltas, channel in channels.items():
                top = str(channel.acknowledged)
                returns[deltas].append(await _back_at(port, channel.control.run_id, top))
        for channel in channels.values():
            await channel.close()
    await writer.stop()
    await store.close()
    return {
        deltas: {"ms": statistics.median(ms), "kb": statistics.median(kb)}
        for deltas, (ms, kb) in ((d, zip(*found, strict=True)) for d, found in returns.items())
    }


async def _back_at(port: int, run_id: str, top: str) -> tuple[float, float]:
    """Milliseconds and kilobytes of a reader's way to the newest event."""
    begun, size = time.perf_counter(), 0
    async with sse(port, run_id) as stream:
        while not (line := await stream.readline()).startswith(b"id: " + top.encode()):
            size += len(line)
    return (time.perf_counter() - begun) * 1000, size / 1024


async def fan_out(bench: Bench) -> Row:
    """200 live runs at 20 events/s followed by 400 SSE clients: what one gateway CPU-second delivers."""
    runs = bench.scaled(200, 50)
    got = await deliveries(bench, runs)
    base = await asyncio.to_thread(naive_gateway.measure, bench.server.url(3), 50, 1 if bench.quick else 6)
    return Row(
        name=f"gateway, {2 * runs} SSE clients on {runs} runs × 20/s",
        figure=f"{got['events_per_cpu_s']:,.0f} events per CPU-second",
        baseline=f"naive {base:,.0f}; our client {got['client']:,.0f}",
        ratio=f"{got['events_per_cpu_s'] / base:.1f} × naive",
        goal="≥ 40,000 at 400",
        met=bench.judge(got["events_per_cpu_s"] >= 40_000),
        data={**got, "naive": base},
    )


async def audience(bench: Bench) -> Row:
    """One run with 1 and then with 50 readers: what more of them cost the store."""
    got = {}
    with bench.worker(), bench.gateway() as (_, port):
        async with AsyncRuns(bench.settings()) as client:
            store = client._store.client
            for readers in (1, 50):
                body = {"tokens": 80, "interval_ms": 25}
                [run_id] = await start_all(client, 1, "demo", body)
                followers = [asyncio.create_task(_follow(port, run_id, [0])) for _ in range(readers)]
                await asyncio.sleep(0.5)
                reads = (await store.info("commandstats"))["cmdstat_xread"]["calls"]
                await asyncio.sleep(1)
                got[readers] = (await store.info("commandstats"))["cmdstat_xread"]["calls"] - reads
                await asyncio.gather(*followers)
    ratio = got[50] / got[1]
    return Row(
        name="store reads for 50 readers of one run × 40/s",
        figure=f"{got[50]} reads a second",
        baseline=f"{got[1]} for one reader",
        ratio=f"{ratio:.2f} ×",
        goal="≤ 1.2 ×: readers share",
        met=ratio <= 1.2,
        data={str(readers): reads for readers, reads in got.items()},
    )


async def deliveries(bench: Bench, runs: int) -> dict[str, float]:
    """Follow so many runs with two clients each; events per CPU-second of the gateway and of the client."""
    seconds = 3 if bench.quick else 10
    delivered = [0]
    with bench.worker(), bench.gateway() as (gateway, port):
        async with AsyncRuns(bench.settings()) as client:
            started = await start_all(client, runs, "demo", {"tokens": 20 * seconds, "interval_ms": 50})
            followers = [asyncio.create_task(_follow(port, r, delivered)) for r in (*started, *started)]
            await asyncio.sleep(1)
            memory = gateway.memory_info().rss / 2**20
            cpu, seen, own = cpu_s(gateway), delivered[0], time.process_time()
            await asyncio.sleep(seconds * 0.5)
            used, got = cpu_s(gateway) - cpu, delivered[0] - seen
            own = time.process_time() - own
            await asyncio.gather(*followers)
    return {"clients": 2 * runs, "events_per_cpu_s": got / used, "client": got / own, "rss_mb": memory}


async def _follow(port: int, run_id: str, delivered: list[int]) -> None:
    async with sse(port, run_id) as stream:
        while chunk := await stream.read(65536):
            delivered[0] += chunk.count(b"\nid: ") + chunk.startswith(b"id: ")
            if b"run.finished" in chunk:
                return
