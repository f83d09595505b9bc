"""Readers that drop and come back, to any gateway, while runs stream: every event once, in order."""

from __future__ import annotations

import asyncio
import contextlib

import httpx

from support.clients.clients import client
from support.clients.reconnecting import Reader
from support.engines.demowords import demo_text
from support.processes.processes import gateway
from support.processes.servers import free_port
from support.waiting import wait_until

RUNS, RATE, SECONDS = 20, 100, 14
TOKENS = RATE * SECONDS
READERS = 3  # for each run


async def test_a_storm_of_reconnects_loses_and_doubles_nothing(live):
    """Thousands of reconnects between two gateways, 20 runs × 100 events/s: nothing lost, nothing doubled."""
    live.worker()
    ports = [free_port(), free_port()]
    for n, port in enumerate(ports):
        live.stack.enter_context(gateway(live.env, live.directory, port, f"gateway{n}"))
    for port in ports:
        wait_until(lambda p=port: is_ready(p), description="the gateways", timeout_s=30)
    async with client(live) as runs:
        body = {"tokens": TOKENS, "interval_ms": 1000 / RATE}
        started = [(await runs.start(f"t{n}", "demo", body)).run_id for n in range(RUNS)]
        readers = [Reader(run_id, seed) for run_id in started for seed in range(READERS)]
        async with asyncio.timeout(90), asyncio.TaskGroup() as group:
            for reader in readers:
                group.create_task(reader.follow(ports))
        late = [Reader(run_id, seed) for seed, run_id in enumerate(started)]
        for reader in late:  # over, and trimmed by the snapshots of their workers
            await reader.follow(ports)
    reconnects = sum(reader.connections - 1 for reader in readers)
    assert reconnects >= 3 * len(
        readers
    )  # some 3,000 in all; fewer where a slow machine has readers catch up
    assert any(reader.snapshots for reader in late), "the start of each log was trimmed: a snapshot stood in"
    assert all(reader.fold.text == demo_text(TOKENS) for reader in (*readers, *late))


def is_ready(port: int) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).is_success
    return False
