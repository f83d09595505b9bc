"""Lost seconds, wrong clocks and strangers who hold connections, under load: no healthy run is lost.

Each disturbance once in `make test`; MAINSTEM_CHAOS_DISTURBANCES, which `make chaos` sets, says how often.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest

from chaos.fleets import MARGIN_S, SEED, TOKENS, Fleet, disturbed
from support.processes.servers import ValkeyProcess
from support.processes.wall_clocks import WallClock

TIMES = int(os.environ.get("MAINSTEM_CHAOS_DISTURBANCES", "1"))
SHORT = TIMES == 1
LENGTHS = (80, 160) if SHORT else TOKENS
LOST_S = 1.0
STEPS_S = (7200.0, -7200.0, 60.0, 0.0)
STEP_LASTS_S = 1.5 if SHORT else 5.0
HELD = 60
"""Connections of each kind to each gateway: sixty times a stranger who costs 256 KB would show."""
HOLD_S = 3.0 if SHORT else 20.0
TRICKLE_S = 0.5
GROWTH_MB = 300.0
ANSWER_S = 5.0


@dataclass(kw_only=True)
class Disturbances:
    """What is done to a fleet under load; counts itself, and what strangers got."""

    fleet: Fleet
    store: ValkeyProcess
    clocks: tuple[WallClock, WallClock]
    dice: random.Random
    counts: collections.Counter[str] = field(default_factory=collections.Counter[str])

    @property
    def kinds(self) -> dict[str, Callable[[], Awaitable[None]]]:
        return {
            "last second lost": self.lose_a_second,
            "clock set": self.set_clock,
            "gateways held": self.hold,
        }

    async def lose_a_second(self) -> None:
        """Kill the store, and take from it what it wrote last."""
        written, since = self.store.written, time.monotonic()
        await asyncio.sleep(LOST_S)
        await asyncio.to_thread(self.store.go_back, written)
        self.fleet.lost_spans.append((since - MARGIN_S, time.monotonic() + MARGIN_S))

    async def set_clock(self) -> None:
        """Set the clock of a worker's and a gateway's machine: hours away, a minute away, right again."""
        clock = self.dice.choice(self.clocks)
        clock.set_ahead(self.dice.choice(STEPS_S))
        await asyncio.sleep(STEP_LASTS_S)

    async def hold(self) -> None:
        """Have strangers hold connections to all gateways, while a healthy client is answered as ever."""
        gateways = [psutil.Process(child.pid) for child in self.fleet.children[-len(self.fleet.ports) :]]
        before = [process.memory_info().rss for process in gateways]
        async with contextlib.AsyncExitStack() as held:
            for port in self.fleet.ports:
                for kind in STRANGERS:
                    for _ in range(HELD):
                        held.push_async_callback(await self._stranger(kind, port))
            slowest = await self._slowest_answer()
        grown_mb = max(
            (process.memory_info().rss - rss) / 2**20 for process, rss in zip(gateways, before, strict=True)
        )
        self.counts["slowest answer, ms"] = max(self.counts["slowest answer, ms"], int(slowest * 1000))
        self.counts["gateway grew, MB"] = max(self.counts["gateway grew, MB"], int(grown_mb))
        assert grown_mb < GROWTH_MB

    async def _stranger(self, kind: str, port: int) -> Callable[[], Awaitable[None]]:
        """Open a connection, send what the kind begins with, then trickle; returns how to end it."""
        stranger = await asyncio.open_connection("127.0.0.1", port, limit=2**14)  # whose reader nobody reads
        path = f"/v1/runs/{self.dice.choice(list(self.fleet.tokens) or ['none'])}/events"
        (head, drop), writer = STRANGERS[kind], stranger[1]
        writer.write(head.replace(b"PATH", path.encode()))

        async def trickle() -> None:
            with contextlib.suppress(OSError):
                while not writer.is_closing():
                    await asyncio.sleep(TRICKLE_S)
                    writer.write(drop)
                    await writer.drain()
            self.counts[f"closed: {kind}"] += 1

        task = asyncio.create_task(trickle())

        async def end() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            stranger[1].transport.abort()

        return end

    async def _slowest_answer(self) -> float:
        slowest, until = 0.0, time.monotonic() + HOLD_S
        async with httpx.AsyncClient(trust_env=False, timeout=ANSWER_S) as http:
            while time.monotonic() < until:
                for port in self.fleet.ports:
                    asked = time.monotonic()
                    assert (await http.get(f"http://127.0.0.1:{port}/healthz")).is_success
                    slowest = max(slowest, time.monotonic() - asked)
                await asyncio.sleep(0.1)
        return slowest


_HOST = b"Host: localhost\r\n"
STRANGERS: dict[str, tuple[bytes, bytes]] = {
    "no end of head": (b"GET / HTTP/1.1\r\n" + _HOST, b"X-A: b\r\n"),
    "refused body": (
        b"POST /v1/threads/t/runs HTTP/1.1\r\n" + _HOST + b"Content-Length: 90000000\r\n\r\n",
        b"x",
    ),
    "slow body": (
        b"POST /v1/threads/t/runs HTTP/1.1\r\n" + _HOST + b"Content-Type: application/json\r\n"
        b"Content-Length: 900000\r\n\r\n{",
        b" ",
    ),
    "events unread": (b"GET PATH HTTP/1.1\r\n" + _HOST + b"\r\n", b""),
}
"""How each kind of stranger begins, and what it sends every TRICKLE_S from then on."""


@contextlib.asynccontextmanager
async def disturbances(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[tuple[Disturbances, collections.Counter[str]]]:
    clocks = (WallClock(directory / "clock0"), WallClock(directory / "clock1"))
    with ValkeyProcess(directory / "store") as store, ValkeyProcess(directory / "broker") as broker:
        env = {
            "MAINSTEM_REDIS_URL": store.url(0),
            "MAINSTEM_BROKER_URL": broker.url(0),
            "MAINSTEM_COMPACT_AFTER_S": "3600",
        }
        async with disturbed(
            "disturbances", directory, env, capsys, own_env=tuple(c.env for c in clocks), lengths=LENGTHS
        ) as (fleet, faults):
            dice = random.Random(SEED + 3)
            yield Disturbances(fleet=fleet, store=store, clocks=clocks, dice=dice, counts=faults), faults


@pytest.mark.slow
@pytest.mark.timeout(120 + 60 * TIMES)
async def test_disturbances_lose_no_healthy_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The store loses its last second, clocks are set by hours, strangers hold every gateway: all runs complete."""
    async with disturbances(tmp_path, capsys) as (disturbing, faults):
        plan = [name for name in disturbing.kinds for _ in range(TIMES)]
        disturbing.dice.shuffle(plan)
        for name in plan:
            await asyncio.sleep(disturbing.dice.uniform(0.5, 1.5))
            await disturbing.kinds[name]()
            faults[name] += 1
