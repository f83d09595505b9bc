"""Fail-overs and refusals: servers are killed, stopped, demoted and filled under load, and no healthy run is lost.

Workers and gateways are never touched here: a run that does not complete was lost by the fail-over alone.
MAINSTEM_CHAOS_FAILOVERS and MAINSTEM_CHAOS_REFUSALS say how often; `make chaos` sets the long form.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import os
import random
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from chaos.system import gateway_is_ready, worker_is_ready
from mainstem_shared.model.runs import Status
from support.engines.demowords import demo_text
from support.processes.processes import Child, gateway, worker
from support.processes.refusals import REFUSALS, refusing
from support.processes.sentinels import Group, Member, group
from support.processes.servers import ValkeyProcess, free_port
from support.waiting import wait_until_async

FAILOVERS = int(os.environ.get("MAINSTEM_CHAOS_FAILOVERS", "2"))
REFUSED = int(os.environ.get("MAINSTEM_CHAOS_REFUSALS", "0"))
SEED = int(os.environ.get("MAINSTEM_CHAOS_SEED") or random.SystemRandom().getrandbits(32))
STALL_S = (4.0, 20.0)
REFUSAL_S = (1.0, 4.0)
AT_ONCE = 8
TOKENS = (300, 900)
INTERVAL_MS = 25
END_S = 90.0
SERVERS = ("store", "broker", "both")


@dataclass(kw_only=True)
class Fleet:
    """Two workers and two gateways over servers that somebody else disturbs, and the runs that they have."""

    env: dict[str, str]
    directory: Path
    stack: contextlib.ExitStack
    dice: random.Random
    children: list[Child] = field(default_factory=list[Child])
    ports: list[int] = field(default_factory=list[int])
    tokens: dict[str, int] = field(default_factory=dict[str, int])
    answers: collections.Counter[int] = field(default_factory=collections.Counter[int])
    forgotten: int = 0
    ended: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])

    async def start(self) -> None:
        self.ports = [free_port(), free_port()]
        workers = [worker(self.env, self.directory, f"worker{n}") for n in range(2)]
        gateways = [
            gateway(self.env, self.directory, port, f"gateway{n}") for n, port in enumerate(self.ports)
        ]
        self.children = [self.stack.enter_context(child) for child in (*workers, *gateways)]
        for child in workers:
            await wait_until_async(lambda c=child: worker_is_ready(c), description=child.name, timeout_s=60)
        async with httpx.AsyncClient(trust_env=False) as client:
            for port in self.ports:
                await wait_until_async(
                    lambda p=port: gateway_is_ready(client, p), description="a gateway", timeout_s=60
                )

    @contextlib.asynccontextmanager
    async def under_load(self) -> AsyncIterator[None]:
        """Keep AT_ONCE runs going inside the block; after it, wait for the end of the last."""
        stopping = asyncio.Event()
        async with httpx.AsyncClient(trust_env=False, timeout=30) as http, asyncio.TaskGroup() as going:
            numbers = itertools.count()
            for lane in range(AT_ONCE):
                going.create_task(self._keep_busy(http, lane, numbers, stopping))
            yield
            stopping.set()

    async def _keep_busy(
        self, http: httpx.AsyncClient, lane: int, numbers: itertools.count[int], stopping: asyncio.Event
    ) -> None:
        while not stopping.is_set():
            run_id = await self._started(http, f"lane {lane}", f"key {next(numbers)}")
            begun = time.monotonic()
            while not await self._is_over(http, run_id):
                assert time.monotonic() - begun < END_S, f"{run_id} does not end"
                await asyncio.sleep(0.5)

    async def _started(self, http: httpx.AsyncClient, thread: str, key: str) -> str:
        """Start a run however long it takes; the key makes it one."""
        tokens = self.dice.randint(*TOKENS)
        body = {"engine": "demo", "input": {"tokens": tokens, "interval_ms": INTERVAL_MS}}
        while True:
            answer = await self._ask(http, "POST", f"/v1/threads/{thread}/runs", json=body, key=key)
            if answer is not None and answer.status_code == 202:
                run_id = answer.json()["run_id"]
                self.tokens[run_id] = tokens
                return run_id
            await asyncio.sleep(0.3)

    async def _is_over(self, http: httpx.AsyncClient, run_id: str) -> bool:
        answer = await self._ask(http, "GET", f"/v1/runs/{run_id}")
        if answer is not None and answer.status_code == 404:
            self.forgotten += 1  # its start was acknowledged by a primary that was cut off, and never ran
            return True
        if answer is None or answer.status_code != 200:
            return False
        run = answer.json()
        if Status(run["status"]).is_terminal:
            self.ended[run_id] = run
        return run_id in self.ended

    async def _ask(
        self, http: httpx.AsyncClient, method: str, path: str, *, key: str = "", **options: Any
    ) -> httpx.Response | None:
        headers = {"Idempotency-Key": key} if key else {}
        url = f"http://127.0.0.1:{self.dice.choice(self.ports)}{path}"
        try:
            answer = await http.request(method, url, headers=headers, **options)
        except httpx.TransportError:
            return None
        self.answers[answer.status_code] += 1
        return answer

    def check(self) -> None:
        """No process ended, no answer was a failure of ours, every run completed and says all of its text."""
        for child in self.children:
            assert child.running, child.log[-3000:]
        assert not [status for status in self.answers if status >= 500 and status != 503], self.answers
        lost = {run_id: run for run_id, run in self.ended.items() if run["reason"] != "completed"}
        assert not lost, lost
        assert not self.forgotten, "a start that was acknowledged is not there"
        for run_id, run in self.ended.items():
            text = "".join(part["text"] for part in run["content"] if part["type"] == "text")
            assert text == demo_text(self.tokens[run_id])

    def report(self, title: str, faults: collections.Counter[str], took_s: float) -> str:
        reasons = collections.Counter(run["reason"] for run in self.ended.values())
        logs = "".join(child.log for child in self.children)
        counts = {name: logs.count(f"action={name}") for name in ("resync", "run_lost", "primary_moved")}
        return (
            f"\n{title}: seed {SEED}, {took_s:.0f} s, faults {dict(faults)}\n"
            f"  runs {len(self.ended)}: {dict(reasons)}; forgotten {self.forgotten}; answers {dict(self.answers)}; {counts}\n"
        )


@contextlib.asynccontextmanager
async def disturbed(
    title: str, directory: Path, env: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[tuple[Fleet, collections.Counter[str]]]:
    """A fleet under load inside the block; afterwards it is judged, and its figures are printed."""
    begun, faults = time.monotonic(), collections.Counter[str]()
    with contextlib.ExitStack() as stack:
        fleet = Fleet(env=env, directory=directory, stack=stack, dice=random.Random(SEED))
        try:
            await fleet.start()
            async with fleet.under_load():
                yield fleet, faults
            fleet.check()
        finally:
            with capsys.disabled():
                sys.stdout.write(fleet.report(title, faults, time.monotonic() - begun))


@pytest.mark.slow
@pytest.mark.timeout(120 + 75 * FAILOVERS)
async def test_failovers_lose_no_healthy_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Store and broker behind Sentinels; the primary is killed, or stands still for 4 to 20 s and wakes up."""
    dice = random.Random(SEED + 1)
    with group(tmp_path / "group") as servers:
        env = {
            "MAINSTEM_REDIS_URL": servers.url(0),
            "MAINSTEM_BROKER_URL": servers.url(1),
            "MAINSTEM_COMPACT_AFTER_S": "3600",
        }
        async with disturbed("fail-overs", tmp_path, env, capsys) as (_, faults):
            for trial in range(FAILOVERS):
                await asyncio.sleep(dice.uniform(2, 5))
                if trial % 3 == 0:
                    await killed(servers)
                    faults["killed"] += 1
                else:
                    await stalled(servers, dice.uniform(*STALL_S))
                    faults["stalled"] += 1
                await asyncio.to_thread(servers.wait_until_whole)


async def killed(servers: Group) -> None:
    former = servers.primary
    former.sigkill()
    await asyncio.to_thread(servers.wait_for_other_primary, former)
    await asyncio.to_thread(follow, former, servers.primary)


def follow(former: Member, primary: Member) -> None:
    """Start a killed server again; the Sentinels make it follow, which takes them ten seconds less if it begins so."""
    former.options = (*former.options, "--replicaof", primary.host, str(primary.port))
    former.start()


async def stalled(servers: Group, seconds: float) -> None:
    former = servers.primary
    former.freeze()
    try:
        await asyncio.sleep(seconds)
    finally:
        former.thaw()


@pytest.mark.slow
@pytest.mark.timeout(120 + 60 * len(REFUSALS) * max(REFUSED, 1))
async def test_refusals_lose_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Store and broker refuse in each way there is, in random order, one or both at a time."""
    dice = random.Random(SEED + 2)
    with ValkeyProcess(tmp_path / "store") as store, ValkeyProcess(tmp_path / "broker") as broker:
        env = {"MAINSTEM_REDIS_URL": store.url(0), "MAINSTEM_BROKER_URL": broker.url(0)}
        async with disturbed("refusals", tmp_path, env, capsys) as (_, faults):
            plan = [(server, kind) for kind in REFUSALS for server in SERVERS for _ in range(REFUSED)]
            plan = plan or [(dice.choice(SERVERS), kind) for kind in REFUSALS]
            dice.shuffle(plan)
            for name, kind in plan:
                await asyncio.sleep(dice.uniform(0.5, 1.5))
                with contextlib.ExitStack() as refused:
                    for server in {"store": [store], "broker": [broker], "both": [store, broker]}[name]:
                        refused.enter_context(refusing(server, kind))
                    await asyncio.sleep(dice.uniform(*REFUSAL_S))
                faults[f"{name} {kind}"] += 1
