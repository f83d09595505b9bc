"""Connections over real sockets: none outlives its answer, none is closed before the answer could be read."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest

from mainstem_api.gateway.middleware import http_protocol, request_limits
from mainstem_shared.store.client import Store
from support.fakes.identity_provider import SETTINGS
from support.models.logs import RunLog
from support.processes.gateways import GatewayThread
from support.waiting import wait_until_async

LINGER_S = 0.4
START = b"POST /v1/threads/t/runs HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
HUGE = b"content-length: 3000000\r\n"
"""Over the limit of this file's gateways."""
CHUNKED = b"transfer-encoding: chunked\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"


@pytest.fixture
def gateway(store_url: str, broker_url: str) -> Iterator[GatewayThread]:
    """A gateway that takes bodies of 2 MB."""
    with GatewayThread(store_url, broker_url, heartbeat_s=0.3, max_body_mb=2) as running:
        yield running


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has minutes for this."""
    monkeypatch.setattr(http_protocol, "LINGER_S", LINGER_S)
    monkeypatch.setattr(request_limits, "BODY_S", 0.6)


class Wire:
    """A client's end of one connection, down to the byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def answer(self, status: int) -> bytes:
        """Read one answer, whose status it must be; returns its body."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 10)
        assert head.startswith(b"HTTP/1.1 %d " % status), head
        length = re.search(rb"content-length: (\d+)", head)
        assert length, head
        return await asyncio.wait_for(self.reader.readexactly(int(length[1])), 10)

    async def trickle(self, piece: bytes, *, within_s: float) -> None:
        """Send a little again and again; the server must end the connection within the time."""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(within_s):
                while not self.reader.at_eof():
                    self.writer.write(piece)
                    await self.writer.drain()
                    await asyncio.sleep(0.05)

    async def rest(self) -> bytes:
        """Read on until the server closes; an end while something of ours is unread shows as a reset."""
        received = b""
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionResetError):
                while piece := await self.reader.read(65536):
                    received += piece
        return received


@asynccontextmanager
async def connected(gateway: GatewayThread, *parts: bytes) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        for part in parts:
            writer.write(part)
        await writer.drain()
        yield Wire(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


# -- what outlives its answer


@pytest.mark.parametrize(
    ("request_head", "piece", "status"),
    [
        (START + HUGE + b"\r\n", b"x", 413),
        (START + HUGE + b"expect: 100-continue\r\n\r\n", b"x", 413),
        (START + HUGE + b"connection: close\r\n\r\n", b"x", 413),
        (START.replace(b"HTTP/1.1", b"HTTP/1.0") + HUGE + b"\r\n", b"x", 413),
        (b"GET /healthz HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\nx", b"x", 408),
        (b"POST /healthz HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\nx", b"x", 408),
        (b"POST / HTTP/1.1\r\nhost: evil\r\ncontent-length: 100000000\r\n\r\n", b"x", 421),
        (b"POST / HTTP/1.1\r\nhost: evil\r\n" + CHUNKED + b"\r\n", b"1\r\na\r\n", 421),
        (b"POST /nowhere HTTP/1.1\r\nhost: localhost\r\n" + CHUNKED + b"\r\n", b"1\r\na\r\n", 408),
        (b"POST /nowhere HTTP/1.1\r\nhost: localhost\r\n" + CHUNKED + b"\r\n", b"1;a=b\r\nx\r\n", 408),
        (b"POST /nowhere HTTP/1.1\r\nhost: localhost\r\n" + CHUNKED + b"\r\n5;a=", b"b", 408),
        (START + CHUNKED + b"\r\n2\r\n{}\r\n0\r\n", b"x-a: b\r\n", 408),
        (START + CHUNKED + b"\r\n2\r\n{}\r\n0\r\nx-a: ", b"b", 408),
        (START + HUGE + b"x-a: " + b"b" * 40_000 + b"\r\n\r\n", b"x", 431),
        (START + HUGE + b"host: localhost\r\n\r\n", b"x", 400),
        (START + HUGE + b"upgrade: websocket\r\nconnection: upgrade\r\n\r\n", b"x", 413),
        (b"OPTIONS /v1/runs HTTP/1.1\r\nhost: localhost\r\ncontent-length: 90\r\n\r\n", b"x", 408),
        (b"HEAD /healthz HTTP/1.1\r\nhost: localhost\r\ncontent-length: 90\r\n\r\n", b"x", 408),
    ],
)
async def test_a_body_that_outlives_its_answer_is_not_waited_for(
    gateway: GatewayThread, request_head: bytes, piece: bytes, status: int
) -> None:
    """However it trickles: the answer comes, and the connection ends soon after it."""
    async with connected(gateway, request_head) as wire:

        async def trickle() -> None:
            await wire.trickle(piece, within_s=8)

        trickling = asyncio.create_task(trickle())
        head = await asyncio.wait_for(wire.reader.readuntil(b"\r\n\r\n"), 10)
        assert head.startswith(b"HTTP/1.1 %d " % status), head
        await trickling
    await wait_until_async(
        lambda: not gateway.server.server_state.connections, description="nothing to be left of it"
    )


@pytest.mark.parametrize(("path", "status"), [("/v1/runs", 401), ("/v1/runs/x/events", 401)])
async def test_strangers_cannot_hold_a_connection(
    store_url: str, broker_url: str, path: str, status: int
) -> None:
    """Who has no token gets 401, and no longer an ear than others."""
    with GatewayThread(store_url, broker_url, **SETTINGS) as gateway:
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n".encode()
        async with connected(gateway, head) as wire:
            await wire.answer(status)
            await wire.trickle(b"x", within_s=5)


async def test_who_asked_too_often_cannot_hold_a_connection(store_url: str, broker_url: str) -> None:
    with GatewayThread(store_url, broker_url, max_requests_per_minute=1) as gateway:
        head = b"POST /v1/runs HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n"
        async with connected(gateway, b"GET /v1/runs HTTP/1.1\r\nhost: localhost\r\n\r\n", head) as wire:
            await wire.answer(200)
            await wire.answer(429)
            await wire.trickle(b"x", within_s=5)


async def test_a_large_body_is_refused_in_words_that_arrive(gateway: GatewayThread) -> None:
    """Also on connections that end with the answer: closing them at once would reset the client as it writes."""
    for line in (b"connection: close\r\n", b"", b"expect: 100-continue\r\n"):
        async with connected(gateway, START + HUGE + line + b"\r\n") as wire:
            if not line.startswith(b"expect"):
                for _ in range(30):
                    wire.writer.write(b"x" * 100_000)
                    await wire.writer.drain()
            assert b"body_too_large" in await wire.answer(413)


async def test_who_sends_the_rest_in_time_keeps_the_connection(gateway: GatewayThread) -> None:
    """An early answer is no reason to connect again; and an idle connection is closed after all."""
    async with connected(gateway, START + b"content-length: 3000000\r\n\r\n") as wire:
        await wire.answer(413)
        wire.writer.write(b"x" * 3_000_000 + HEALTH)
        assert b"ok" in await wire.answer(200)
        (connection,) = gateway.server.server_state.connections
        assert connection.timeout_keep_alive_task is not None
        wire.writer.write(START + b"content-length: 3000000\r\n\r\n")
        await wire.answer(413)
        wire.writer.write(b"x" * 3_000_000)
        await wait_until_async(
            lambda: connection._in_head and connection.timeout_keep_alive_task is not None,
            description="the connection to be idle, with an end",
        )
        assert connection._deadline is None


async def test_trailers_are_dropped(gateway: GatewayThread) -> None:
    """Those that end are harmless, those that are large are not stored."""
    head = START + CHUNKED + b"\r\n2\r\n{}\r\n0\r\n"
    async with connected(gateway, head + b"host: evil\r\nx: y\r\n\r\n" + HEALTH) as wire:
        await wire.answer(422)
        await wire.answer(200)
    async with connected(gateway, head) as wire:
        wire.writer.write((b"x-a: " + b"b" * 8000 + b"\r\n") * 20)
        assert b" 202 " not in await wire.rest()


async def test_a_slow_head_after_an_answer_is_not_waited_for(
    gateway: GatewayThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time for a head holds for every request of a connection; empty lines before it are part of it."""
    monkeypatch.setattr(http_protocol, "HEAD_S", 0.5)
    for piece in (b"\r\n", b"G"):
        async with connected(gateway, HEALTH) as wire:
            await wire.answer(200)
            await wire.trickle(piece, within_s=5)


# -- half-closed connections


async def test_half_closed_clients_get_their_answers(gateway: GatewayThread, store: Store) -> None:
    """`shutdown(SHUT_WR)` after a request, or after several, says that nothing more comes; not that nobody listens."""
    log = await RunLog.start(store)
    await log.claim()
    await log.say(3)
    run = f"GET /v1/runs/{log.run_id} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()
    for requests, statuses in (
        (HEALTH, [200]),
        (run, [200]),
        (HEALTH + run + HEALTH, [200, 200, 200]),
        (b"GET /nowhere HTTP/1.0\r\nhost: localhost\r\n\r\n", [404]),
        (START + b"content-length: 2\r\n\r\n{}", [422]),
        (HEALTH + b"GET /heal", [200]),
        (run + START + b"content-length: 20\r\n\r\n{", [200]),
    ):
        async with connected(gateway, requests) as wire:
            wire.writer.write_eof()
            for status in statuses:
                await wire.answer(status)
            assert await wire.rest() == b""
    await wait_until_async(
        lambda: not gateway.server.server_state.connections, description="all to be closed"
    )


async def test_half_closed_readers_get_the_whole_stream(gateway: GatewayThread, store: Store) -> None:
    """Events that come after the client closed its half, up to the end."""
    log = await RunLog.start(store)
    await log.claim()
    await log.say(3)
    async with connected(
        gateway, f"GET /v1/runs/{log.run_id}/events HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()
    ) as wire:
        await asyncio.wait_for(wire.reader.readuntil(b"w2"), 10)
        wire.writer.write_eof()
        await asyncio.wait_for(wire.reader.readuntil(b": hb\n\n"), 10)
        await log.say(1)
        await log.finish()
        rest = await wire.rest()
    assert b"w3" in rest
    assert b"run.finished" in rest
    assert rest.endswith(b"0\r\n\r\n")


async def test_readers_that_left_are_noticed_at_once(store: Store, store_url: str, broker_url: str) -> None:
    """A closed connection looks half-closed at first; no heartbeat has to come for the difference."""
    log = await RunLog.start(store)
    with GatewayThread(store_url, broker_url, heartbeat_s=60) as gateway:
        request = f"GET /v1/runs/{log.run_id}/events HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()
        async with connected(gateway, request) as wire:
            await asyncio.wait_for(wire.reader.readuntil(b"\r\n\r\n"), 10)
            assert gateway.subscriptions == 1
        await wait_until_async(
            lambda: not gateway.subscriptions, description="the reader to be forgotten", timeout_s=5
        )


async def test_a_body_that_is_cut_off_is_no_request(gateway: GatewayThread, http: httpx.AsyncClient) -> None:
    """Half a body and the client's end: nothing is started, nothing waits."""
    body = b'{"engine": "demo", "input": {}}'
    head = START + b"content-length: %d\r\n\r\n" % len(body)
    async with connected(gateway, head + body[:-1]) as wire:
        await wait_until_async(lambda: len(gateway.server.server_state.tasks) >= 1, description="the request")
        wire.writer.write_eof()
        assert await wire.rest() == b""
    assert (await http.get("/v1/runs")).json()["runs"] == []


async def test_garbage_after_a_request_lands_in_nobodys_answer(gateway: GatewayThread, store: Store) -> None:
    """Bytes that are no request end the connection after the answer before them, not within it."""
    log = await RunLog.start(store)
    await log.claim()
    request = f"GET /v1/runs/{log.run_id}/events HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()
    async with connected(gateway, request + b"\x00garbage\r\n\r\n") as wire:
        await asyncio.wait_for(wire.reader.readuntil(b"run.started"), 10)
        await log.say(2)
        await log.finish()
        rest = await wire.rest()
    assert b"Invalid HTTP" not in rest
    assert rest.endswith(b"0\r\n\r\n")


async def test_an_upgrade_is_not_made(gateway: GatewayThread) -> None:
    """The request is answered as any other, and the connection closed: what follows cannot be read as HTTP."""
    for kind in (b"websocket", b"h2c"):
        upgrade = (
            b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: %s\r\n\r\n" % kind
        )
        async with connected(gateway, upgrade) as wire:
            await wire.answer(200)
            assert await wire.rest() == b""
