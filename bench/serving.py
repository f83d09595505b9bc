"""The row about capacity: what one gateway process needs for thousands of readers, idle and busy ones."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Sequence
from typing import Self

import psutil
from harness import Bench, Row, cpu_s, data_of, percentile, sse
from writing import start_all

from mainstem_api import AsyncRuns

IDLE_CLIENTS, IDLE_RUNS = 2000, 400
LIVE_RUNS, CLIENTS_PER_RUN = 200, 2
SAMPLED = 8
"""One client in so many looks at when its events were sent; the others only count, to leave the CPU alone."""
MB = 1024 * 1024


async def capacity(bench: Bench) -> Row:
    """2,000 idle SSE clients; then 200 live runs at 20 events/s followed by 400 more, at one gateway."""
    _allow_files()
    seconds = 3 if bench.quick else 15
    idle_runs, live_runs = bench.scaled(IDLE_RUNS, 40), bench.scaled(LIVE_RUNS, 50)
    with bench.worker(), bench.gateway() as (gateway, port):
        # Nobody takes runs from this queue: they stay idle.
        async with (
            AsyncRuns(bench.settings(queue="nobody")) as waiting,
            AsyncRuns(bench.settings()) as client,
            _Readers(port) as readers,
        ):
            idle = await start_all(waiting, idle_runs, "demo", {})
            rss_before = gateway.memory_info().rss
            await readers.follow(idle)
            few = _connections(bench, gateway)
            await readers.follow(idle * (IDLE_CLIENTS // IDLE_RUNS - 1))
            idle_clients = readers.open
            many = _connections(bench, gateway)
            rss = gateway.memory_info().rss
            idle_cpu = await _cpu_share(gateway, seconds)
            body = {"tokens": 20 * seconds * 2, "interval_ms": 50}
            live = await start_all(client, live_runs, "bench.clock", body)
            await readers.follow(live * CLIENTS_PER_RUN, timed=True)
            await asyncio.sleep(1)
            readers.restart()
            live_cpu = await _cpu_share(gateway, seconds)
            events, ages = readers.events, list(readers.ages)
    p50, p99 = percentile(ages, 0.5), percentile(ages, 0.99)
    per_client_kb = (rss - rss_before) / idle_clients / 1024
    data = {
        "idle_clients": idle_clients, "idle_cpu_percent": idle_cpu * 100, "kb_per_idle_client": per_client_kb,
        "rss_mb": rss / MB, "connections_few": few, "connections_many": many,
        "live_clients": live_runs * CLIENTS_PER_RUN, "live_cpu_percent": live_cpu * 100,
        "events_per_s": events / seconds, "p50": p50, "p99": p99,
    }  # fmt: skip
    live_clients = live_runs * CLIENTS_PER_RUN
    return Row(
        name=f"one gateway: {idle_clients} idle SSE clients, {live_clients} on {live_runs} runs × 20/s",
        figure=(
            f"idle {idle_cpu * 100:.0f} % CPU, {per_client_kb:.0f} KB each, {rss / MB:.0f} MB in all; "
            f"live {live_cpu * 100:.0f} % CPU, p50 {p50:.1f} ms, p99 {p99:.1f} ms"
        ),
        baseline=f"{few} connections to Valkey for {idle_runs} clients",
        ratio=f"{many} for {idle_clients}",
        goal="connections: as many",
        met=many == few,
        data=data,
    )


class _Readers:
    """SSE clients that cost little: they count events, and some look at how old they are."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._tasks: list[asyncio.Task[None]] = []
        self.open = 0
        self.restart()

    def restart(self) -> None:
        self.events = 0
        self.ages: list[float] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def follow(self, run_ids: Sequence[str], *, timed: bool = False) -> None:
        """Open a stream for each run id, some at a time, and return when all are there."""
        wanted = self.open + len(run_ids)
        for number, run_id in enumerate(run_ids):
            self._tasks.append(asyncio.create_task(self._read(run_id, timed=timed and number % SAMPLED == 0)))
            if number % 50 == 49:
                await asyncio.sleep(0.05)
        deadline = time.monotonic() + 60
        while self.open < wanted:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.open} of {wanted} streams are open")
            await asyncio.sleep(0.05)

    async def _read(self, run_id: str, *, timed: bool) -> None:
        async with sse(self._port, run_id) as stream:
            self.open += 1
            if timed:
                while line := await stream.readline():
                    self._take(line)
            else:
                while chunk := await stream.read(65536):
                    self.events += chunk.count(b"\nid: ") + chunk.startswith(b"id: ")

    def _take(self, line: bytes) -> None:
        self.events += line.startswith(b"id: ")
        if line.startswith(b'data: {"part"'):
            now = time.time_ns()
            self.ages.extend((now - int(sent)) / 1e6 for sent in data_of(line)["text"].split())


async def _cpu_share(process: psutil.Process, seconds: float) -> float:
    used, began = cpu_s(process), time.monotonic()
    await asyncio.sleep(seconds)
    return (cpu_s(process) - used) / (time.monotonic() - began)


def _connections(bench: Bench, gateway: psutil.Process) -> int:
    """Return how many connections the gateway has to the store and the broker."""
    found = gateway.net_connections("tcp")
    return sum(bool(one.raddr) and one.raddr.port == bench.server.port for one in found)


def _allow_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else 65_536, hard))
