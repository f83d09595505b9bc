"""Readers that drop and come back, to any gateway, while runs stream: every event once, in order."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random

import httpx

from clients import client
from demowords import demo_text
from mainstem_shared import cursors
from mainstem_shared.events import STATES, Entry, Type
from mainstem_shared.folds import Fold
from processes import gateway
from servers import free_port
from waiting import wait_until

RUNS, RATE, SECONDS = 20, 100, 14
TOKENS = RATE * SECONDS
READERS = 3  # for each run


class Reader:
    """One reader of one run: keeps its cursor and its fold over any number of connections."""

    def __init__(self, run_id: str, seed: int) -> None:
        self.run_id = run_id
        self.random = random.Random(seed)
        self.cursor: cursors.Cursor | None = None
        self.fold = Fold()
        self.seen: set[cursors.Cursor] = set()
        self.connections = self.snapshots = 0
        self.over = False

    async def follow(self, ports: list[int]) -> None:
        while not self.over:
            await self.connect(self.random.choice(ports), drop_after=self.random.randint(1, 120))

    async def connect(self, port: int, *, drop_after: int) -> None:
        """Read some events, then drop the connection without a word, as a closed lid does."""
        self.connections += 1
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
        last = f"Last-Event-ID: {self.cursor}\r\n" if self.cursor else ""
        path = f"/v1/runs/{self.run_id}/events"
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{last}\r\n".encode())
        event: dict[bytes, bytes] = {}
        try:
            while drop_after and (line := await reader.readline()):
                name, _, value = line.rstrip(b"\r\n").partition(b": ")
                if name in (b"id", b"event", b"data"):
                    event[name] = value
                elif line == b"\n" and event:
                    self.take(event)
                    event, drop_after = {}, drop_after - 1
                    if self.over:
                        return
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def take(self, event: dict[bytes, bytes]) -> None:
        cursor, kind = cursors.parse(event[b"id"]), event[b"event"].decode()
        assert cursor not in self.seen, f"{cursor} came twice"
        self.seen.add(cursor)
        entry = Entry(cursor=cursor, type=kind, data=event[b"data"])
        if kind == Type.SNAPSHOT:
            self.snapshots += 1
            assert self.cursor is None or cursor > self.cursor
        elif self.cursor is not None:
            assert entry.follows(self.cursor), f"{cursor} does not follow {self.cursor}"
        self.cursor = cursor
        payload = json.loads(event[b"data"])
        if kind == Type.FINISHED:
            self.over = True
            assert self.fold.text == payload["text"], "what was read is not what the run is"
            assert self.fold.dump()["content"] == payload["content"]
        elif kind in STATES or kind == Type.MESSAGE_DELTA:
            self.fold.apply(kind, payload)


async def test_a_storm_of_reconnects_loses_and_doubles_nothing(live):
    """1,000+ reconnects between two gateways, 20 runs × 100 events/s: nothing lost, nothing doubled."""
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
    assert reconnects >= 1000
    assert any(reader.snapshots for reader in late), "the start of each log was trimmed: a snapshot stood in"
    assert all(reader.fold.text == demo_text(TOKENS) for reader in (*readers, *late))


def is_ready(port: int) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).is_success
    return False
