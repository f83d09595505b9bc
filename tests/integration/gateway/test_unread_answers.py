"""Answers that nobody reads: what they hold is bounded for each, shared by all, and ends after a while."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator

import httpx
import psutil
import pytest

from mainstem_api.gateway import outgoing, server
from mainstem_api.gateway.middleware import http_protocol
from mainstem_api.gateway.outgoing import Outgoing, UnreadError
from mainstem_shared import errors
from mainstem_shared.eventlog.reading.joined_reads import JoinedReads
from mainstem_shared.model.events import Type
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.models.logs import RunLog
from support.processes.gateways import GatewayProcess, GatewayThread, check_problem
from support.waiting import wait_until_async

MB = 2**20


async def large_run(store: Store, *, megabytes: int = 7, finish: bool = True, letter: str = "x") -> RunLog:
    log = await RunLog.start(store)
    await log.claim()
    for _ in range(megabytes * 4):
        await log.append(*[(Type.MESSAGE_DELTA, {"part": 0, "text": letter * 32_768})] * 8)
    if finish:
        await log.finish()
    return log


@contextlib.contextmanager
def unread(port: int, path: str, count: int, *, buffer: int = 4096) -> Iterator[list[socket.socket]]:
    """Connections that ask for something, and never read the answer."""
    with contextlib.ExitStack() as stack:
        stuck: list[socket.socket] = []
        for _ in range(count):
            one = stack.enter_context(socket.socket())
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            one.connect(("127.0.0.1", port))
            one.sendall(f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
            stuck.append(one)
        yield stuck


@pytest.mark.slow
@pytest.mark.parametrize("finish", [True, False])
async def test_memory_is_that_of_one_answer(
    store: Store, store_url: str, broker_url: str, *, finish: bool
) -> None:
    """40 readers each of a run of 7 MB, of its stream and of its snapshot, none of whom reads: a few copies, not 120."""
    log = await large_run(store, finish=finish)
    await store.client.set(keys.lease("w1"), "worker", ex=120)  # else a sweeper ends the run in the meantime
    with GatewayProcess(store_url, broker_url) as gateway:
        process = psutil.Process(gateway.pid)
        async with gateway.client() as http:
            size = len((await http.get(f"/v1/runs/{log.run_id}")).content)
            assert size > 14 * MB
            before = process.memory_info().rss
            with contextlib.ExitStack() as stack:
                for path in ("", "/events?from=snapshot", "/events"):
                    stack.enter_context(unread(gateway.port, f"/v1/runs/{log.run_id}{path}", 40))
                    for _ in range(8):
                        await asyncio.sleep(0.5)
                        assert process.memory_info().rss - before < 45 * size  # 120 copies, and more, without
                        assert (await http.get("/healthz")).status_code == 200
                await asyncio.sleep(2)
                grown = process.memory_info().rss - before
                assert grown < 16 * size, grown / size
            assert len((await http.get(f"/v1/runs/{log.run_id}")).content) == size


@pytest.mark.parametrize(
    "path", ["/v1/runs/{run}", "/v1/runs/{run}/events", "/v1/runs/{run}/events?from=snapshot"]
)
async def test_who_does_not_read_is_cut_off(
    store: Store, store_url: str, broker_url: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After WRITE_S without any progress; whoever reads slowly is not."""
    for module in (outgoing, http_protocol):
        monkeypatch.setattr(module, "WRITE_S", 2.0)
    monkeypatch.setattr(server, "WATCH_S", 0.3)
    log = await large_run(store)
    with GatewayThread(store_url, broker_url) as gateway:
        path = path.format(run=log.run_id)
        with unread(gateway.port, path, 5), unread(gateway.port, path, 1, buffer=65_536) as (slow,):
            slow.setblocking(False)
            loop = asyncio.get_running_loop()
            got = 0
            for _ in range(60):
                got += len(await loop.sock_recv(slow, 40_000))
                await asyncio.sleep(0.1)
            assert got < 3 * MB
            assert len(gateway.server.server_state.connections) == 1
            while piece := await loop.sock_recv(slow, 1_000_000):
                got += len(piece)
                if got > 7 * MB and path.endswith("events"):
                    break
                if not path.endswith("events") and got > 14 * MB:
                    break
        await wait_until_async(
            lambda: not gateway.server.server_state.connections, description="all to be gone"
        )
        assert gateway.app.state.holder.gateway.outgoing.bytes == 0


async def test_all_answers_together_have_a_limit(
    store: Store, store_url: str, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Different runs, so that nothing can be shared: readers that take nothing make room for one who reads."""
    monkeypatch.setattr(outgoing, "STALLED_S", 0.3)
    logs = [await large_run(store, megabytes=3, letter=letter) for letter in "abcdefgh"]
    with GatewayThread(store_url, broker_url, max_unread_mb=16) as gateway, contextlib.ExitStack() as stack:
        held = gateway.app.state.holder.gateway.outgoing
        for log in logs[:-1]:
            stack.enter_context(unread(gateway.port, f"/v1/runs/{log.run_id}", 1))
        await wait_until_async(lambda: held.bytes > 5 * MB, description="the first answers")
        async with gateway.client() as http:
            for _ in range(10):
                answer = await http.get(f"/v1/runs/{logs[-1].run_id}")
                assert answer.status_code == 200
                assert len(answer.json()["text"]) == 3 * MB
                assert held.bytes <= 16 * MB


async def test_without_room_a_request_is_refused(
    store: Store, store_url: str, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 with the time to wait, as a problem document with the headers of safety; small answers do not notice."""
    monkeypatch.setattr(outgoing, "PATIENCE_S", 0.2)
    logs = [await large_run(store, megabytes=2, letter=letter) for letter in "ab"]
    with GatewayThread(store_url, broker_url, max_unread_mb=1) as gateway:
        held = gateway.app.state.holder.gateway.outgoing
        with unread(gateway.port, f"/v1/runs/{logs[0].run_id}", 1):
            await wait_until_async(lambda: held.bytes > 0, description="the first answer")
            async with gateway.client() as http:
                refused = await http.get(f"/v1/runs/{logs[1].run_id}")
                check_problem(refused, 503, "overloaded")
                assert refused.headers["retry-after"]
                assert refused.headers["x-content-type-options"] == "nosniff"
                assert (await http.get("/v1/runs?limit=1")).status_code == 200
                assert (
                    await http.get(f"/v1/runs/{logs[0].run_id}")
                ).status_code == 200  # shared: no room needed


@pytest.mark.parametrize("path", ["/openapi.json", "/v1/runs?limit=100"])
async def test_other_large_answers_are_bounded_too(
    http: httpx.AsyncClient, gateway: GatewayThread, path: str
) -> None:
    """Whatever is larger than a piece; and it arrives whole."""
    for number in range(40):
        body = {"engine": "demo", "metadata": {"n": str(number), "x": "y" * 3000}}
        assert (await http.post(f"/v1/threads/t{number}/runs", json=body)).status_code == 202
    whole = (await http.get(path)).content
    assert len(whole) > outgoing.PIECE
    json.loads(whole)
    held = gateway.app.state.holder.gateway.outgoing
    await wait_until_async(lambda: not held.bytes and not held._bodies, description="nothing to be held")


# -- the parts


async def test_equal_answers_share_a_buffer() -> None:
    held = Outgoing(10 * MB)
    gate = asyncio.Event()
    seen: list[bytes] = []

    async def send(message: dict[str, object]) -> None:
        seen.append(message["body"])  # type: ignore[arg-type]
        await gate.wait()

    sending = [asyncio.create_task(held.send(b"x" * MB, send)) for _ in range(50)]  # type: ignore[arg-type]
    await asyncio.sleep(0.1)
    assert held.bytes == MB
    gate.set()
    await asyncio.gather(*sending)
    assert b"".join(seen) == b"x" * MB * 50
    assert held.bytes == 0


async def test_a_reader_that_stalls_is_ended_and_only_that_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "STALLED_S", 0.1)
    monkeypatch.setattr(outgoing, "PATIENCE_S", 0.5)
    held = Outgoing(MB)

    async def never(_: object) -> None:
        await asyncio.Event().wait()

    async def slowly(_: object) -> None:
        await asyncio.sleep(0.02)

    stuck = asyncio.create_task(held.send(b"a" * MB, never))
    await asyncio.sleep(0.15)
    await held.send(b"b" * MB, slowly)
    with pytest.raises(UnreadError):
        await stuck
    slow = asyncio.create_task(held.send(b"c" * MB * 8, slowly))  # takes longer than others have patience
    await asyncio.sleep(0.2)
    with pytest.raises(errors.Overloaded):
        await held.send(b"d" * MB, slowly)
    await slow


async def test_joined_reads_begin_after_their_callers() -> None:
    """A caller never gets what was read before it came; any number of callers cost two reads."""
    reads, number = JoinedReads(), 0

    async def read() -> int:
        nonlocal number
        number += 1
        mine = number
        await asyncio.sleep(0.1)
        return mine

    first = asyncio.create_task(reads.read("k", read))
    await asyncio.sleep(0.05)
    later = [asyncio.create_task(reads.read("k", read)) for _ in range(20)]
    later[0].cancel()
    assert await first == 1
    assert await asyncio.gather(*later[1:]) == [2] * 19
    assert number == 2

    async def fail() -> int:
        raise errors.NotFound

    results = await asyncio.gather(*[reads.read("k", fail) for _ in range(3)], return_exceptions=True)
    assert {type(one) for one in results} == {errors.NotFound}
    assert await reads.read("k", read) == 3
    assert not reads._running
    assert not reads._next
