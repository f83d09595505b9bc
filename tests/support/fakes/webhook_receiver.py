"""A receiver of webhooks: a real HTTP server on loopback that notes what it is sent and answers as it is told."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from mainstem_shared.model import jsontext

LOST = b""
"""An answer that never arrives: the connection ends instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float = field(default_factory=time.perf_counter)

    @property
    def event(self) -> dict:
        return jsontext.loads(self.body)


@dataclass(slots=True, kw_only=True)
class Receiver:
    """What came, and what is answered: the next of `answers`, then 204."""

    port: int = 0
    received: list[Received] = field(default_factory=list)
    answered: list[Received] = field(default_factory=list)
    """Those of the received ones whose sender was told so."""
    answers: list[bytes] = field(default_factory=list)
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def ids(self) -> list[str]:
        return [one.headers["webhook-id"] for one in self.received]

    def url(self, path: str = "/hook", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError), contextlib.closing(writer):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                first, *lines = head.strip().split("\r\n")
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                received = Received(path=first.split(" ")[1], headers=headers, body=body)
                self.received.append(received)
                await self.may_answer.wait()
                answer = self.answers.pop(0) if self.answers else b"204 No Content\r\n"
                if answer == LOST:
                    return
                writer.write(b"HTTP/1.1 " + answer + b"\r\n")
                if answer.startswith(b"2"):
                    self.answered.append(received)
                await writer.drain()


@contextlib.asynccontextmanager
async def receiving(host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Receiver]:
    """A receiver that listens at an address of loopback while the context lasts."""
    receiver = Receiver()
    receiver.may_answer.set()
    server = await asyncio.start_server(receiver.serve, host, port)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        receiver.may_answer.set()
        server.close()
