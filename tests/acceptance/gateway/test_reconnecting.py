"""A thousand reconnects under load, between two gateways: nothing lost, nothing doubled."""

from __future__ import annotations

import asyncio
import random

import httpx
import pytest

from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.clients.checking_reader import Reader
from support.models.logs import RunLog
from support.processes.gateways import GatewayProcess, open_stream

RUNS = 20
EVENTS_PER_S = 100
READERS_PER_RUN = 2
RECONNECTS = 1000
GROUP = 5  # events per write, as a loaded writer groups them
SNAPSHOT_EVERY = 150  # events


class Load:
    """Runs that are written at a steady rate until readers have come back often enough, and late enough."""

    def __init__(self, logs: list[RunLog], clients: list[httpx.AsyncClient]) -> None:
        self.logs, self.clients = logs, clients
        self.readers = [Reader(log) for log in logs for _ in range(READERS_PER_RUN)]
        self.reconnects = 0
        self.random = random.Random(1)

    async def write(self, log: RunLog) -> None:
        """Write one run: it starts while its readers are there already, and ends when all have seen enough."""
        await asyncio.sleep(self.random.random())
        await log.claim()
        loop = asyncio.get_running_loop()
        due = loop.time()
        # How many reconnects it takes until one is late enough to need a snapshot is the machine's.
        while self.reconnects < RECONNECTS or not any(reader.snapshots for reader in self.readers):
            await log.say(GROUP)
            if len(log.entries) % SNAPSHOT_EVERY < GROUP:
                await log.snapshot()
            due += GROUP / EVENTS_PER_S
            await asyncio.sleep(max(0.0, due - loop.time()))
        await log.finish()

    async def read(self, reader: Reader) -> None:
        """Follow a run over many connections, dropping each at a random moment, some for long."""
        while not reader.finished:
            client = self.random.choice(self.clients)
            try:
                async with asyncio.timeout(self.random.expovariate(4)):
                    await self._stream(client, reader)
            except TimeoutError:
                self.reconnects += 1
            if self.random.random() < 0.05:
                await asyncio.sleep(3)  # long enough for snapshots to trim what it has not seen

    async def _stream(self, client: httpx.AsyncClient, reader: Reader) -> None:
        async with open_stream(client, reader.log.run_id, last=reader.cursor) as stream:
            assert stream.response.status_code == 200
            async for event in stream:
                reader.take(*event)
            assert stream.ended == "clean"
            assert reader.finished


@pytest.mark.slow
async def test_a_thousand_reconnects_between_two_gateways_lose_and_double_nothing(
    store_url: str, broker_url: str
) -> None:
    """Starting, streaming, trimmed and finished runs; every reader ends with exactly its run."""
    store = Store(store_url)
    with GatewayProcess(store_url, broker_url) as one, GatewayProcess(store_url, broker_url) as two:
        async with one.client() as first, two.client() as second:
            await store.client.set(
                keys.lease("w1"), "worker", ex=120
            )  # else sweepers end its runs in the meantime
            load = Load([await RunLog.start(store) for _ in range(RUNS)], [first, second])
            async with asyncio.timeout(90), asyncio.TaskGroup() as group:
                for log in load.logs:
                    group.create_task(load.write(log))
                for reader in load.readers:
                    group.create_task(load.read(reader))
    for reader in load.readers:
        reader.check_end()
    assert load.reconnects >= RECONNECTS
    assert sum(reader.snapshots for reader in load.readers) > 0
    await store.close()


@pytest.mark.slow
async def test_readers_survive_a_gateway_that_dies(store_url: str, broker_url: str) -> None:
    """SIGKILL and SIGTERM in mid-stream break the stream, which is never taken for the end."""
    store = Store(store_url)
    log = await RunLog.start(store)
    await log.claim()
    reader = Reader(log)
    for end in ("kill", "terminate"):
        with GatewayProcess(store_url, broker_url) as gateway:
            async with (
                gateway.client() as client,
                open_stream(client, log.run_id, last=reader.cursor) as stream,
            ):
                await log.say(10)
                while reader.cursor != log.top:
                    reader.take(*await anext(stream))
                if end == "kill":
                    gateway.kill()
                else:
                    assert await asyncio.to_thread(gateway.terminate) in (0, -15)
                with pytest.raises(StopAsyncIteration):
                    await anext(stream)
                assert stream.ended == "reset"
    await log.finish()
    with GatewayProcess(store_url, broker_url) as gateway:
        async with gateway.client() as client, open_stream(client, log.run_id, last=reader.cursor) as stream:
            async for event in stream:
                reader.take(*event)
            assert stream.ended == "clean"
    reader.check_end()
    await store.close()
