"""A TCP proxy on loopback that behaves like a bad network: cuts at any byte, delays, stalls. Seeded.

A cut aborts both sides at once, after exactly so many bytes in that direction: a command may arrive whole,
in part or not at all, and so may its reply.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self


@dataclass(kw_only=True)
class Plan:
    """What happens to one connection: bytes until it is cut, per direction; seconds that each chunk is late."""

    up: int | None = None
    down: int | None = None
    delay_s: float = 0


def healthy(dice: random.Random) -> Plan:
    """Let everything through."""
    del dice
    return Plan()


@dataclass
class Proxy:
    """Use as an async context manager; `url` leads to the server behind."""

    port: int
    seed: int = 0
    plan: Callable[[random.Random], Plan] = healthy
    cuts: int = 0
    connections: int = 0
    bytes_up: int = 0
    _links: set[asyncio.Task[None]] = field(default_factory=set)

    async def __aenter__(self) -> Self:
        self._dice = random.Random(self.seed)
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for link in list(self._links):
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    def stall(self) -> None:
        """Let nothing through, in either direction, on open and new connections, until `flow`."""
        self._flowing.clear()

    def flow(self) -> None:
        self._flowing.set()

    def cut_all(self) -> None:
        """Abort every open connection."""
        for link in list(self._links):
            link.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        plan = self.plan(self._dice)
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        writers = [writer]
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.port)
            writers.append(server_writer)
            ways = [
                asyncio.create_task(self._carry(reader, server_writer, plan.up, plan.delay_s, is_up=True)),
                asyncio.create_task(self._carry(server_reader, writer, plan.down, plan.delay_s, is_up=False)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # the server is unavailable, or `cut_all`: the client sees its connection go
        finally:
            self._links.discard(task)
            for side in writers:
                side.transport.abort()

    async def _carry(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        limit: int | None,
        delay_s: float,
        *,
        is_up: bool,
    ) -> None:
        left = limit
        while data := await source.read(65536):
            if delay_s:
                await asyncio.sleep(delay_s)
            await self._flowing.wait()
            if left is not None and len(data) >= left:
                sink.write(data[:left])
                await sink.drain()
                self.cuts += 1
                return
            left = None if left is None else left - len(data)
            self.bytes_up += len(data) if is_up else 0
            sink.write(data)
            await sink.drain()


def cutting(*, typical: int) -> Callable[[random.Random], Plan]:
    """Cut each connection, in one direction or the other, about every `typical` bytes.

    Some are cut at their first bytes; the others' lengths have a long (not endless) tail, so that whatever is
    sent again until it is through does get through.
    """

    def plan(dice: random.Random) -> Plan:
        is_early = dice.random() < 0.2
        limit = dice.randint(1, 300) if is_early else int(typical / 2 * min(dice.paretovariate(0.8), 100))
        return Plan(up=limit) if dice.random() < 0.5 else Plan(down=limit // 4 + 1)

    return plan
