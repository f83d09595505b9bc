"""Event streams over real HTTP: exact, resumable, never ended before their run, and cheap to leave."""

from __future__ import annotations

import asyncio
import inspect
import json

import httpx
import pytest

from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.events import Type
from mainstem_shared.model.runs import Reason
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.clients.checking_reader import Reader
from support.models.logs import RunLog
from support.processes.gateways import GatewayThread, check_problem, open_stream
from support.waiting import wait_until_async


async def follow(http: httpx.AsyncClient, reader: Reader, **params: str) -> str:
    """Read one stream until it ends or breaks; returns how."""
    async with open_stream(http, reader.log.run_id, last=reader.cursor, **params) as stream:
        assert stream.response.status_code == 200
        async for event in stream:
            reader.take(*event)
        return stream.ended


async def reached(reader: Reader, log: RunLog) -> None:
    await wait_until_async(lambda: reader.cursor == log.top, description=f"the reader at {log.top}")


async def test_a_stream_carries_the_run_and_ends_cleanly_after_its_end(
    http: httpx.AsyncClient, store: Store, gateway: GatewayThread
) -> None:
    """Live, in order, byte for byte; a clean end only after run.finished."""
    log = await RunLog.start(store)
    reader = Reader(log)
    async with asyncio.TaskGroup() as group:
        following = group.create_task(follow(http, reader))
        await reached(reader, log)
        await log.claim()
        await log.say(100)
        await reached(reader, log)
        await log.finish()
    assert following.result() == "clean"
    reader.check_end()
    assert reader.ids == [entry.cursor for entry in log.entries]
    await wait_until_async(lambda: gateway.subscriptions == 0, description="no reader to be left")


def climbs(task: asyncio.Task[None]) -> list[str]:
    """The coroutines that every wake-up of a task goes through, the outermost first."""
    found, awaited = [], task.get_coro()
    while inspect.iscoroutine(awaited):
        found.append(awaited.__qualname__)
        awaited = awaited.cr_await
    return found


async def test_an_event_does_not_climb_through_the_layers_of_the_app(
    http: httpx.AsyncClient, store: Store, gateway: GatewayThread
) -> None:
    """What waits for a run's next event is a stream alone: below the app's twenty layers each would cost more."""
    log = await RunLog.start(store)
    async with open_stream(http, log.run_id) as stream:
        assert (await anext(stream)).cursor == log.top
        loop = gateway.server.servers[0].get_loop()

        def waiting() -> list[list[str]]:
            return [path for path in map(climbs, asyncio.all_tasks(loop)) if "Subscription.batch" in path]

        [streaming] = await wait_until_async(waiting, description="the stream to wait for the next event")
    assert streaming == ["EventStream._stream", "EventStream._send_all", "Subscription.batch"]


async def test_the_headers_keep_proxies_from_buffering(http: httpx.AsyncClient, store: Store) -> None:
    log = await RunLog.start(store)
    async with open_stream(http, log.run_id) as stream:
        headers = stream.response.headers
    assert headers["content-type"].startswith("text/event-stream")
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"


async def test_a_silent_stream_carries_heartbeats(http: httpx.AsyncClient, store: Store) -> None:
    """As comments, which no client takes for an event."""
    log = await RunLog.start(store)
    reader = Reader(log)
    async with open_stream(http, log.run_id) as stream, asyncio.TaskGroup() as group:

        async def drink() -> None:
            async for event in stream:
                reader.take(*event)

        group.create_task(drink())
        await wait_until_async(lambda: stream.heartbeats >= 2, description="two heartbeats")
        await log.claim()
        await log.finish()
    reader.check_end()


async def test_who_waits_for_an_end_outlives_heartbeats(http: httpx.AsyncClient, store: Store) -> None:
    """A request without a body is told the end as well, however long it takes; white space comes meanwhile."""
    log = await RunLog.start(store, thread_id="waited-for")
    await log.claim()
    path = f"/v1/langgraph/threads/waited-for/runs/{log.run_id}/join"
    async with http.stream("GET", path) as response:
        assert response.status_code == 200
        pieces = response.aiter_raw()
        assert [await anext(pieces) for _ in range(2)] == [b" ", b" "]
        await log.finish()
        assert isinstance(json.loads(b"".join([piece async for piece in pieces])), dict)


async def test_who_leaves_before_the_end_is_not_waited_for(
    http: httpx.AsyncClient, store: Store, gateway: GatewayThread
) -> None:
    """A2A's blocking call gets white space while its run waits; once its client is gone, nobody follows the run."""
    await store.client.hset(keys.ENGINES, "demo", "{}")
    message = {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "hello"}]}
    body = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": message}}
    async with http.stream("POST", "/v1/a2a/demo", json=body) as response:
        assert response.headers["content-type"] == "application/json"
        pieces = response.aiter_raw()
        assert [await anext(pieces) for _ in range(2)] == [b" ", b" "]
        assert gateway.subscriptions == 1
    await wait_until_async(lambda: gateway.subscriptions == 0, description="nobody to follow the run")


async def test_last_event_id_beats_after(http: httpx.AsyncClient, store: Store) -> None:
    """A browser reconnects to the same address, with the header."""
    log = await RunLog.start(store)
    await log.claim()
    await log.say(5)
    for last, after, expected in (
        (Cursor(2, 3), "2-1", Cursor(2, 4)),
        (None, "2-1", Cursor(2, 2)),
        (None, "0-0", Cursor(1, 0)),
        (Cursor(0, 0), "2-1", Cursor(1, 0)),
    ):
        async with open_stream(http, log.run_id, last=last, after=after) as stream:
            assert (await anext(stream)).cursor == expected


async def test_from_snapshot(http: httpx.AsyncClient, store: Store) -> None:
    log = await RunLog.start(store)
    await log.claim()
    await log.say(5)
    reader = Reader(log)
    async with open_stream(http, log.run_id, **{"from": "snapshot"}) as stream:
        reader.take(*await anext(stream))
    assert reader.types == [Type.SNAPSHOT]
    await log.finish()
    assert await follow(http, reader, **{"from": "snapshot"}) == "clean"
    assert reader.types == [Type.SNAPSHOT, Type.FINISHED]
    reader.check_end()
    response = await http.get(f"/v1/runs/{log.run_id}/events", params={"from": "nowhere"})
    check_problem(response, 422, "invalid_request")


async def test_a_reconnect_after_the_end_is_answered_204(http: httpx.AsyncClient, store: Store) -> None:
    log = await RunLog.start(store)
    await log.claim()
    await log.finish(Reason.ENGINE_ERROR)
    for compacted in (False, True):
        if compacted:
            await log.compact()
        response = await http.get(f"/v1/runs/{log.run_id}/events", headers={"Last-Event-ID": str(log.top)})
        assert (response.status_code, response.content) == (204, b"")


async def test_a_reader_that_leaves_is_forgotten(
    http: httpx.AsyncClient, store: Store, gateway: GatewayThread
) -> None:
    """Also while nothing happens on the run."""
    log = await RunLog.start(store)
    for _ in range(3):
        async with open_stream(http, log.run_id) as stream:
            await anext(stream)
            assert gateway.subscriptions == 1
        await wait_until_async(lambda: gateway.subscriptions == 0, description="no reader to be left")
    assert gateway.app.state.holder.gateway.tailer.followed_runs == 0


async def test_a_reader_that_does_not_read_stops_nobody(
    http: httpx.AsyncClient, store: Store, gateway: GatewayThread
) -> None:
    """Its connection is full; the others go on, and its memory is bounded. Later it gets everything."""
    log = await RunLog.start(store)
    await log.claim()
    quick, stuck = Reader(log), Reader(log)
    big = "x" * 30_000
    async with open_stream(http, log.run_id) as stream, asyncio.TaskGroup() as group:
        group.create_task(follow(http, quick))
        stuck.take(*await anext(stream))
        for _ in range(20):
            await log.append(*[(Type.MESSAGE_DELTA, {"part": 0, "text": big})] * 20)
            await reached(quick, log)
        [slow_topic] = gateway.app.state.holder.gateway.tailer._followed.values()
        assert max(subscription._queued for subscription in slow_topic.subscriptions) <= 1024 * 1024
        await log.finish()
        async for event in stream:
            stuck.take(*event)
        assert stream.ended == "clean"
    quick.check_end()
    stuck.check_end()


async def test_shutdown_resets_streams_at_once(
    store: Store, store_url: str, broker_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Readers of runs that are not over must not see an end; and nothing is logged as an error."""
    log = await RunLog.start(store)
    with GatewayThread(store_url, broker_url) as gateway:
        async with gateway.client() as http, open_stream(http, log.run_id) as stream:
            await anext(stream)
            loop = asyncio.get_running_loop()
            began = loop.time()
            stopping = loop.run_in_executor(None, gateway.stop)
            with pytest.raises(StopAsyncIteration):
                await anext(stream)
            assert stream.ended == "reset"
            await stopping
            assert loop.time() - began < 5
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_run_that_disappears_resets_its_streams(http: httpx.AsyncClient, store: Store) -> None:
    """The reconnect then learns that it is gone."""
    log = await RunLog.start(store)
    async with open_stream(http, log.run_id) as stream:
        await anext(stream)
        await store.client.delete(log.keys.record, log.keys.log)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        assert stream.ended == "reset"
    check_problem(await http.get(f"/v1/runs/{log.run_id}/events"), 404, "not_found")


async def test_an_old_stream_is_reset_and_goes_on_elsewhere(
    store_url: str, broker_url: str, store: Store
) -> None:
    """Before a proxy cuts it: a break, not an end, and the reader that reconnects has every event once."""
    log = await RunLog.start(store)
    reader = Reader(log)
    ends: list[str] = []
    with GatewayThread(store_url, broker_url, stream_max_s=0.3) as gateway:
        async with gateway.client() as http:
            while len(ends) < 3:
                await log.say()
                ends.append(await follow(http, reader))
            await log.finish()
            while ends[-1] == "reset":
                ends.append(await follow(http, reader))
    assert (ends[:3], ends[-1]) == (["reset"] * 3, "clean")
    reader.check_end()
