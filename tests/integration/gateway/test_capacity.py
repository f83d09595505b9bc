"""What readers cost a gateway: bounded memory for those who do not read, no connection more for many."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack

import httpx
import pytest

from mainstem_api.gateway import server
from mainstem_shared.eventlog.reading import subscriptions
from mainstem_shared.model.events import Type
from mainstem_shared.store.client import Store
from support.clients.checking_reader import Reader
from support.models.logs import RunLog
from support.processes.gateways import GatewayThread, Stream, check_problem, open_stream
from support.processes.servers import ValkeyProcess
from support.waiting import wait_until_async

EVENT = 30_000
STUCK = 8


def held(gateway: GatewayThread) -> tuple[int, int]:
    """Bytes and frames that wait in this gateway for readers: in queues, and written but not sent."""
    followed_runs = gateway.app.state.holder.gateway.tailer._followed.values()
    followed = [
        subscription
        for followed_run in list(followed_runs)
        for subscription in list(followed_run.subscriptions)
    ]
    written = sum(
        connection.transport.get_write_buffer_size()
        for connection in list(gateway.server.server_state.connections)
    )
    ready = sum(len(frame.wire) for subscription in followed for frame in subscription._ready)
    queued = sum(subscription._queued for subscription in followed)
    return written + ready + queued, sum(len(subscription._queue) for subscription in followed)


async def test_clients_that_stop_reading_cost_bounded_memory_and_nobody_else_anything(
    gateway: GatewayThread, store: Store
) -> None:
    """However much happens on their run: a queue and a write buffer each. One that reads on gets it all."""
    log = await RunLog.start(store)
    await log.claim()
    quick, back = Reader(log), Reader(log)
    stuck: list[socket.socket] = []
    most = 0
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(gateway.client())
        resting = await stack.enter_async_context(open_stream(http, log.run_id))
        for _ in range(STUCK):
            one = stack.enter_context(socket.socket())
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.connect(("127.0.0.1", gateway.port))
            one.sendall(f"GET /v1/runs/{log.run_id}/events HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
            stuck.append(one)
        await wait_until_async(lambda: gateway.subscriptions == STUCK + 1, description="all to be connected")

        async def read() -> None:
            async with open_stream(http, log.run_id) as stream:
                async for event in stream:
                    quick.take(*event)

        reading = asyncio.create_task(read())
        for _ in range(30):
            await log.append(*[(Type.MESSAGE_DELTA, {"part": 0, "text": "x" * EVENT})] * 20)
            await wait_until_async(lambda: quick.cursor == log.top, description="the quick reader")
            most = max(most, held(gateway)[0])
        assert held(gateway)[1] <= (STUCK + 2) * subscriptions.QUEUE_FRAMES
        whole = len(log.entries) * EVENT
        bound = (
            2 * subscriptions.QUEUE_BYTES + 256 * 1024
        )  # what is queued, what is being sent, what the server buffers
        assert (STUCK + 1) * bound < whole * STUCK / 3, "the bound would hold without any bounds"
        assert most <= (STUCK + 1) * bound
        await log.finish()
        async for event in resting:
            back.take(*event)
        await reading
    quick.check_end()
    back.check_end()
    assert quick.snapshots == 0
    await wait_until_async(lambda: gateway.subscriptions == 0, description="those who left to be forgotten")


async def test_connections_do_not_grow_with_clients(
    gateway: GatewayThread, store: Store, empty_server: ValkeyProcess
) -> None:
    """Ten times the readers of the same runs: not one connection more; and none is left when they are gone."""
    logs = [await RunLog.start(store) for _ in range(10)]
    streams: list[Stream] = []

    def connections() -> int:
        with empty_server.client() as client:
            return len(client.client_list())

    async with gateway.client() as http, AsyncExitStack() as stack:
        limits = httpx.Limits(max_connections=None)
        many = await stack.enter_async_context(
            httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=20, limits=limits)
        )

        async def follow(log: RunLog) -> None:
            streams.append(await stack.enter_async_context(open_stream(many, log.run_id)))
            await anext(streams[-1])

        for log in logs:
            await follow(log)
        assert (await http.get("/readyz")).status_code == 200
        few = connections()
        for _ in range(9):
            for log in logs:
                await follow(log)
        assert gateway.subscriptions == 100
        assert (await http.get("/readyz")).status_code == 200
        assert connections() == few
        assert gateway.app.state.holder.gateway.tailer.tail_connections == 1
    await wait_until_async(lambda: gateway.subscriptions == 0, description="all readers to be gone")


async def test_a_frozen_broker_is_not_ready(store_url: str, private_valkey: ValkeyProcess) -> None:
    """A server that accepts connections and says nothing is no broker; the store's health does not hide it."""
    with GatewayThread(store_url, private_valkey.url()) as gateway:
        async with gateway.client() as http:
            assert (await http.get("/readyz")).status_code == 200
            private_valkey.freeze()
            try:
                check_problem(await http.get("/readyz"), 503, "broker_unavailable")
                assert (await http.get("/healthz")).status_code == 200
            finally:
                private_valkey.thaw()
            await wait_until_async(lambda: _ready(http), description="readiness after the thaw")


async def _ready(http: httpx.AsyncClient) -> bool:
    return (await http.get("/readyz")).status_code == 200


async def test_a_stop_waits_for_requests_but_not_for_ever(
    store: Store, store_url: str, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streams are reset at once; a request that does not end is cut off after SHUTDOWN_S."""
    monkeypatch.setattr(server, "SHUTDOWN_S", 1)
    log = await RunLog.start(store)
    with GatewayThread(store_url, broker_url) as gateway:
        async with gateway.client() as http, open_stream(http, log.run_id) as stream:
            await anext(stream)
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(
                b"POST /v1/threads/t/runs HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\nhalf"
            )
            await wait_until_async(
                lambda: len(gateway.server.server_state.tasks) == 2, description="the request to wait"
            )
            await asyncio.to_thread(gateway.stop)
            with pytest.raises(StopAsyncIteration):
                await anext(stream)
            assert stream.ended == "reset"
            assert b" 202 " not in await asyncio.wait_for(reader.read(), 10)
            writer.close()
