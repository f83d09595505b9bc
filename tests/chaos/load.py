"""The load under chaos: runs started over HTTP with idempotency keys, each followed by reconnecting readers."""

from __future__ import annotations

import asyncio
import functools
import itertools
import random
from dataclasses import dataclass, field
from typing import Any

import httpx

from chaos.system import System
from support.clients.reconnecting import Reader
from support.engines.demowords import demo_text

READERS = 2  # for each run
SILENCE_S = 6.0
RETRY_S = 0.1
SHORT_TOKENS = (20, 150)
LONG_TOKENS = (300, 900)
"""Runs whose logs are trimmed behind snapshots on the way: one of EACH_LONG."""
EACH_LONG = 7


@dataclass(kw_only=True)
class Started:
    """A run whose start was acknowledged."""

    run_id: str
    thread_id: str
    tokens: int
    engine: str
    resumes: bool
    readers: list[Reader] = field(default_factory=list[Reader])
    abort_reached: str | None = None

    @property
    def over(self) -> bool:
        return all(reader.over for reader in self.readers)

    def check_text(self, text: str) -> None:
        assert demo_text(self.tokens).startswith(text), (
            f"{self.run_id}: the text is not a prefix: …{text[-60:]!r}"
        )


class Load:
    """Keeps `at_once` runs going until it is told to stop and has had `at_least` so many; then the last ones end."""

    def __init__(
        self,
        system: System,
        dice: random.Random,
        *,
        at_once: int,
        at_least: int,
        long_tokens: tuple[int, int] = LONG_TOKENS,
    ) -> None:
        self.system = system
        self.dice = dice
        self.started: list[Started] = []
        self.retries = 0
        self.approved = 0
        self._long_tokens = long_tokens
        self._at_once = at_once
        self._at_least = at_least
        self._numbers = itertools.count()
        self._stopping = asyncio.Event()
        self._following: asyncio.TaskGroup
        self._client = httpx.AsyncClient(trust_env=False, timeout=10)

    @property
    def live(self) -> list[Started]:
        return [run for run in self.started if not run.over]

    def stop(self) -> None:
        self._stopping.set()

    async def run(self) -> None:
        """Start and follow runs until stopped, and the last ones to their end."""
        async with self._client, asyncio.TaskGroup() as self._following:
            while not self._stopping.is_set() or len(self.started) < self._at_least:
                if len(self.live) < self._at_once:
                    await self.start(f"thread-{next(self._numbers)}")
                else:
                    await asyncio.sleep(RETRY_S / 2)

    async def start(self, thread_id: str, if_active: str = "reject") -> Started:
        """Start a run, repeating the request until it is acknowledged, and have it followed."""
        dice = self.dice
        is_long = len(self.started) % EACH_LONG == 0  # counted, so that there are some
        tokens = dice.randint(*(self._long_tokens if is_long else SHORT_TOKENS))
        engine = dice.choice(("demo", "counting"))
        wanted: dict[str, Any] = {"tokens": tokens, "interval_ms": dice.choice((5, 15, 40))}
        if engine == "demo" and dice.random() < 0.4:
            wanted["approve_at"] = [tokens // 2]
        resumes = dice.random() < 0.5
        body = {
            "engine": engine,
            "input": wanted,
            "if_active": if_active,
            "on_worker_lost": "resume" if resumes else "fail",
        }
        answer = await self._post(f"/v1/threads/{thread_id}/runs", body, key=f"key-{dice.getrandbits(64)}")
        run = Started(
            run_id=answer.json()["run_id"], thread_id=thread_id, tokens=tokens, engine=engine, resumes=resumes
        )
        for _ in range(READERS):
            reader = Reader(run.run_id, dice.getrandbits(32), silence_s=SILENCE_S)
            reader.check_text = run.check_text
            reader.on_action = functools.partial(self._decide, run)
            run.readers.append(reader)
            self._following.create_task(reader.follow(self.system.ports))
        self.started.append(run)
        return run

    def _decide(self, run: Started, action: dict[str, Any]) -> None:
        """Approve what a run asks; all of its readers do, at once."""
        decisions = [{"call_id": call["call_id"], "type": "approve"} for call in action["calls"]]
        body = {"action_id": action["action_id"], "decisions": decisions}
        self._following.create_task(self._approve(run, body))

    async def _approve(self, run: Started, body: dict[str, Any]) -> None:
        # 409: it was aborted meanwhile; then it must not be the other reader's success.
        response = await self._post(f"/v1/runs/{run.run_id}/resume", body, key="", expected=(200, 202, 409))
        if response.status_code != 409:
            self.approved += 1

    async def _post(
        self, path: str, body: dict[str, Any], *, key: str, expected: tuple[int, ...] = (202,)
    ) -> httpx.Response:
        """Send a request to any gateway, again and again until it is answered."""
        headers = {"Idempotency-Key": key} if key else {}
        while True:
            url = f"http://127.0.0.1:{self.dice.choice(self.system.ports)}{path}"
            try:
                response = await self._client.post(url, json=body, headers=headers)
            except httpx.TransportError:
                pass
            else:
                if response.status_code in expected:
                    return response
                assert response.status_code == 503, f"{response.text}\n{self.system.tracebacks()}"
            self.retries += 1
            await asyncio.sleep(RETRY_S)
