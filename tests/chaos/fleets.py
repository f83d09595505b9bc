"""Two workers and two gateways under load over servers that a test disturbs: no healthy run may be lost.

Workers and gateways are not touched: a run that does not complete was lost by the disturbance alone.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import os
import random
import re
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
from support.processes.servers import free_port
from support.waiting import wait_until_async

SEED = int(os.environ.get("MAINSTEM_CHAOS_SEED") or random.SystemRandom().getrandbits(32))
AT_ONCE = 8
TOKENS = (300, 900)
INTERVAL_MS = 25
END_S = 90.0
REPAIR_S = 20.0
MARGIN_S = 0.5
"""An answer to a start whose writes were lost may have been on its way for so long."""


@dataclass(kw_only=True)
class Fleet:
    """Two workers and two gateways over servers that somebody else disturbs, and the runs that they have."""

    env: dict[str, str]
    own_env: tuple[dict[str, str], dict[str, str]] = ({}, {})
    """What the processes of each half (a worker and a gateway) have besides."""
    lengths: tuple[int, int] = TOKENS
    directory: Path
    stack: contextlib.ExitStack
    dice: random.Random
    children: list[Child] = field(default_factory=list[Child])
    ports: list[int] = field(default_factory=list[int])
    tokens: dict[str, int] = field(default_factory=dict[str, int])
    answers: collections.Counter[int] = field(default_factory=collections.Counter[int])
    failures: list[str] = field(default_factory=list[str])
    """Answers that were failures of ours: an outage is a 503."""
    started_at: dict[str, float] = field(default_factory=dict[str, float])
    forgotten: list[str] = field(default_factory=list[str])
    lost_spans: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    """What the store was made to lose: a start within is gone, and that was promised."""
    ended: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])

    async def start(self) -> None:
        self.ports = [free_port(), free_port()]
        envs = [{**self.env, **own} for own in self.own_env]
        workers = [worker(env, self.directory, f"worker{n}") for n, env in enumerate(envs)]
        gateways = [
            gateway(env, self.directory, port, f"gateway{n}")
            for n, (env, port) in enumerate(zip(envs, self.ports, strict=True))
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
        await self._look_again()

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
        tokens = self.dice.randint(*self.lengths)
        body = {"engine": "demo", "input": {"tokens": tokens, "interval_ms": INTERVAL_MS}}
        while True:
            answer = await self._ask(http, "POST", f"/v1/threads/{thread}/runs", json=body, key=key)
            if answer is not None and answer.status_code == 202:
                run_id = answer.json()["run_id"]
                self.tokens[run_id], self.started_at[run_id] = tokens, time.monotonic()
                return run_id
            await asyncio.sleep(0.3)

    async def _is_over(self, http: httpx.AsyncClient, run_id: str) -> bool:
        answer = await self._ask(http, "GET", f"/v1/runs/{run_id}")
        if answer is not None and answer.status_code == 404:
            self.forgotten.append(run_id)  # its start was acknowledged, and lost before it was safe
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
        if answer.status_code >= 500 and answer.status_code != 503:
            self.failures.append(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
        return answer

    async def _look_again(self) -> None:
        """What was seen to be over stays as it was seen, also if the store lost that."""

        async def stands(http: httpx.AsyncClient, run_id: str, seen: dict[str, Any]) -> bool:
            answer = await self._ask(http, "GET", f"/v1/runs/{run_id}")
            kept = ("status", "reason", "content")
            return answer is not None and all(answer.json().get(name) == seen[name] for name in kept)

        async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
            for run_id, seen in self.ended.items():
                await wait_until_async(
                    lambda r=run_id, s=seen: stands(http, r, s),
                    description=f"{run_id} to be as it was seen",
                    timeout_s=REPAIR_S,
                )

    def _was_lost(self, run_id: str) -> bool:
        return any(since <= self.started_at[run_id] <= until for since, until in self.lost_spans)

    def check(self) -> None:
        """No process ended, no answer was a failure of ours, every run completed and says all of its text."""
        for child in self.children:
            assert child.running, child.log[-3000:]
        assert not self.failures, "\n".join((*self.failures, *self._tracebacks()))
        lost = {run_id: run for run_id, run in self.ended.items() if run["reason"] != "completed"}
        assert not lost, lost
        gone = [run_id for run_id in self.forgotten if not self._was_lost(run_id)]
        assert not gone, "a start that was acknowledged is not there"
        for run_id, run in self.ended.items():
            text = "".join(part["text"] for part in run["content"] if part["type"] == "text")
            assert text == demo_text(self.tokens[run_id])

    def _tracebacks(self) -> list[str]:
        """Return what gateways logged of the first requests that failed by a fault of ours."""
        logs = [child.log for child in self.children]
        return [
            log[match.start() : match.start() + 6000]
            for log in logs
            for match in itertools.islice(re.finditer("action=request_failed", log), 2)
        ]

    def report(self, title: str, faults: collections.Counter[str], took_s: float) -> str:
        reasons = collections.Counter(run["reason"] for run in self.ended.values())
        logs = "".join(child.log for child in self.children)
        counts = {name: logs.count(f"action={name}") for name in ("resync", "run_lost", "primary_moved")}
        return (
            f"\n{title}: seed {SEED}, {took_s:.0f} s, faults {dict(faults)}\n"
            f"  runs {len(self.ended)}: {dict(reasons)}; starts lost {len(self.forgotten)}; answers {dict(self.answers)}; {counts}\n"
        )


@contextlib.asynccontextmanager
async def disturbed(
    title: str, directory: Path, env: dict[str, str], capsys: pytest.CaptureFixture[str], **options: Any
) -> AsyncIterator[tuple[Fleet, collections.Counter[str]]]:
    """A fleet under load inside the block; afterwards it is judged, and its figures are printed."""
    begun, faults = time.monotonic(), collections.Counter[str]()
    with contextlib.ExitStack() as stack:
        fleet = Fleet(env=env, directory=directory, stack=stack, dice=random.Random(SEED), **options)
        try:
            await fleet.start()
            async with fleet.under_load():
                yield fleet, faults
            fleet.check()
        finally:
            with capsys.disabled():
                sys.stdout.write(fleet.report(title, faults, time.monotonic() - begun))
