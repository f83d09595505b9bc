"""The tailer's limits: slow readers, many readers, many runs, and a store that goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.exceptions import RedisError

from mainstem_shared import errors, transitions
from mainstem_shared.eventlog.reading import subscriptions, tail_connections
from mainstem_shared.eventlog.reading.subscriptions import End, Subscription
from mainstem_shared.eventlog.reading.tailer import Tailer
from mainstem_shared.model import cursors, ids
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.events import Type
from mainstem_shared.store import keys
from mainstem_shared.store.client import Script, Store
from support.clients.checking_reader import Reader
from support.clients.following import drink, follow, is_read, parked, reached, until
from support.models.logs import RunLog
from support.processes.servers import ValkeyProcess
from support.waiting import wait_until_async


@pytest.mark.parametrize(
    "run_id", [pytest.param(ids.run_id("default", "t", ids.uuid7()), id="unknown"), "x", "../etc", "a\0b", ""]
)
async def test_an_unknown_run_is_not_found(tailer: Tailer, run_id: str) -> None:
    """Also one that could not exist; nothing is left behind."""
    with pytest.raises(errors.NotFound):
        async with tailer.subscribe(run_id):
            pass
    assert tailer.followed_runs == 0


async def test_a_slow_reader_loses_nothing_and_delays_nobody(
    store: Store, tailer: Tailer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its queue is bounded; when that is full, it reads the log (or a snapshot) again when it is ready."""
    monkeypatch.setattr(subscriptions, "QUEUE_FRAMES", 20)
    log = await RunLog.start(store)
    await log.claim()
    quick, slow, slower = Reader(log), Reader(log), Reader(log)
    async with (
        tailer.subscribe(log.run_id) as slow_feed,
        tailer.subscribe(log.run_id) as slower_feed,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(follow(tailer, quick))
        for subscription, reader in ((slow_feed, slow), (slower_feed, slower)):
            for frame in await anext(subscription):
                reader.take(frame.cursor, frame.type, frame.data)
            await live(subscription, reader)
        for _ in range(10):
            await log.say(10)
            await reached(quick, log.top)
        assert len(slow_feed._queue) <= 20
        await asyncio.wait_for(drink_until(slow_feed, slow, log.top), 5)
        await log.snapshot()
        await log.say(30)
        await log.snapshot()
        await log.say(30)
        await log.finish()
        await asyncio.gather(drink(slow_feed, slow), drink(slower_feed, slower))
    for reader in (quick, slow, slower):
        reader.check_end()
    assert (quick.snapshots, slower.snapshots) == (0, 1)


async def live(subscription: Subscription, reader: Reader) -> None:
    """Bring a feed to the live flow: wait for the next batch until it would have to wait."""
    try:
        async with asyncio.timeout(0.2):
            for frame in await anext(subscription):
                reader.take(frame.cursor, frame.type, frame.data)
    except TimeoutError:
        pass
    assert subscription._live


async def drink_until(subscription: Subscription, reader: Reader, cursor: Cursor) -> None:
    while reader.cursor != cursor:
        for frame in await anext(subscription):
            reader.take(frame.cursor, frame.type, frame.data)


class GatedStore(Store):
    """A real store whose pages, or the questions for them, can be held back: what a busy loop does to a reader."""

    def __init__(self, url: str, *, holds_questions: bool = False) -> None:
        super().__init__(url)
        self.gate = asyncio.Event()
        self.gate.set()
        self.held = 0
        self._holds_questions = holds_questions

    async def verb(self, script: Script, *args: Any, **options: Any) -> Any:
        if script is not transitions.PAGE:
            return await super().verb(script, *args, **options)
        if not self._holds_questions:
            reply = await super().verb(script, *args, **options)
        self.held += 1
        await self.gate.wait()
        return await super().verb(script, *args, **options) if self._holds_questions else reply


@pytest.mark.parametrize("missed", [5, 7])
async def test_what_overflows_while_a_reader_catches_up_is_read_again(
    store_url: str, monkeypatch: pytest.MonkeyPatch, missed: int
) -> None:
    """Live events fill its queue before the page it asked for is here: whether the queue is empty again
    then (5), or holds later events (7), nothing is missing.
    """
    monkeypatch.setattr(subscriptions, "QUEUE_FRAMES", 4)
    await overtaken(GatedStore(store_url), missed)


@pytest.mark.parametrize("holds_questions", [False, True], ids=["after the page", "in the page too"])
async def test_what_lands_while_a_reader_catches_up_comes_once(
    store_url: str, *, holds_questions: bool
) -> None:
    """Events that are queued while a page is read follow it; those that the page has as well come once."""
    await overtaken(GatedStore(store_url, holds_questions=holds_questions), 3)


async def overtaken(store: GatedStore, missed: int) -> None:
    """Let so many events land while a late reader waits for its page, and follow the run to its end."""
    async with Tailer(store) as tailer:
        log = await RunLog.start(store)
        await log.claim()
        quick, late = Reader(log), Reader(log)
        async with asyncio.TaskGroup() as group:
            group.create_task(follow(tailer, quick))
            await reached(quick, log.top)
            await wait_until_async(
                lambda: any(
                    is_read(subscription)
                    for followed_run in tailer._followed.values()
                    for subscription in followed_run.subscriptions
                ),
                description="the first reader to be live",
            )
            store.gate.clear()
            held = store.held
            group.create_task(follow(tailer, late))
            await wait_until_async(lambda: store.held > held, description="the page to be held back")
            for _ in range(missed):
                await log.say()
                await reached(quick, log.top)
            store.gate.set()
            await reached(late, log.top)
            await log.finish()
        quick.check_end()
        late.check_end()
    await store.close()


async def test_a_hole_behind_the_snapshot_is_bridged_to_the_top(store: Store, tailer: Tailer) -> None:
    """A stored snapshot before the reader's cursor would throw it back: it gets one of the whole log."""
    log = await RunLog.start(store)
    await log.claim()
    await log.say(3)
    await log.snapshot()
    await log.say(5)
    await store.client.xdel(log.keys.log, "2-6")
    async with tailer.subscribe(log.run_id, after=Cursor(2, 4)) as subscription:
        seen = [(frame.cursor, frame.type) for frame in await anext(subscription) + await anext(subscription)]
    assert seen == [(Cursor(2, 5), Type.MESSAGE_DELTA), (log.top, Type.SNAPSHOT)]


async def test_more_readers_of_a_run_cost_the_store_nothing(
    store: Store, tailer: Tailer, empty_server: ValkeyProcess
) -> None:
    """The live flow is read once: the same number of commands for 2 and for 40 readers."""

    async def commands(action: Callable[[], Awaitable[None]]) -> int:
        with empty_server.client() as client:
            before = sum(c["calls"] for c in client.info("commandstats").values())
            await action()
            return sum(c["calls"] for c in client.info("commandstats").values()) - before

    async def cost(readers: int) -> int:
        log = await RunLog.start(store)
        await log.claim()
        seen = [Reader(log) for _ in range(readers)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(follow(tailer, reader)) for reader in seen]
            for reader in seen:
                await reached(reader, log.top)

            async def stream() -> None:
                for _ in range(20):
                    await log.say(2)
                    await reached(seen[0], log.top)

            used = await commands(stream)
            for reader in seen:
                await reached(reader, log.top)
            for task in tasks:
                task.cancel()
        return used

    few, many = await cost(2), await cost(40)
    assert abs(many - few) <= 10  # reads that fell between two groups


async def test_a_killed_connection_loses_and_doubles_nothing(
    store: Store, tailer: Tailer, empty_server: ValkeyProcess
) -> None:
    """Readers continue from their cursors on a new connection."""
    log = await RunLog.start(store)
    await log.claim()
    reader = Reader(log)
    async with asyncio.TaskGroup() as group:
        following = group.create_task(follow(tailer, reader))
        for _ in range(5):
            await log.say(20)
            with empty_server.client() as client:
                client.client_kill_filter(_type="normal", skipme=True)
            await wait_until_async(lambda: can_write(log), description="the store to take an event")
            await reached(reader, log.top)
        await log.finish()
    assert following.result() is End.FINISHED
    reader.check_end()


async def can_write(log: RunLog) -> bool:
    try:
        await log.store.client.ping()
    except (OSError, RedisError):
        return False
    return True


async def test_readers_wait_for_a_store_that_restarts(private_valkey: ValkeyProcess) -> None:
    """SIGKILL and restart with the append-only file: the feed goes on where it was."""
    store = Store(private_valkey.url())
    async with Tailer(store) as tailer:
        log = await RunLog.start(store)
        await log.claim()
        await log.say(50)
        await store.client.bgrewriteaof()
        reader = Reader(log)
        async with asyncio.TaskGroup() as group:
            following = group.create_task(follow(tailer, reader))
            await reached(reader, log.top)
            await asyncio.to_thread(private_valkey.restart)
            await wait_until_async(lambda: can_write(log), description="the store to answer")
            await log.say(50)
            await reached(reader, log.top)
            await log.finish()
        assert following.result() is End.FINISHED
        reader.check_end()
    await store.close()


async def test_a_store_that_stays_unavailable_is_reported(
    private_valkey: ValkeyProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond their patience readers are told; a new one is told at once."""
    monkeypatch.setattr(subscriptions, "PATIENCE_S", 0.5)
    store = Store(private_valkey.url(), patience_s=0.2)
    async with Tailer(store) as tailer:
        log = await RunLog.start(store)
        async with tailer.subscribe(log.run_id) as subscription:
            waiting = await parked(subscription, log)
            await asyncio.to_thread(private_valkey.stop)
            with pytest.raises(errors.StoreUnavailable):
                await asyncio.wait_for(waiting, 10)
        with pytest.raises(errors.StoreUnavailable):
            async with tailer.subscribe(log.run_id):
                pass
    await store.close()


async def test_a_drained_tailer_ends_its_feeds_as_closed(store: Store, tailer: Tailer) -> None:
    """The runs go on; it is only this process that stops."""
    log = await RunLog.start(store)
    async with tailer.subscribe(log.run_id) as subscription:
        waiting = await parked(subscription, log)
        tailer.drain()
        with pytest.raises(StopAsyncIteration):
            await waiting
        assert subscription.end is End.CLOSED
    assert tailer.followed_runs == 0


async def test_many_runs_share_connections(
    store: Store, tailer: Tailer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most so many keys on one connection, and every run's events arrive."""
    monkeypatch.setattr(tail_connections, "KEYS", 8)
    logs = [await RunLog.start(store) for _ in range(20)]
    readers = [Reader(log) for log in logs]
    async with asyncio.TaskGroup() as group:
        for reader in readers:
            group.create_task(follow(tailer, reader))
        for log, reader in zip(logs, readers, strict=True):
            await reached(reader, log.top)
        await wait_until_async(lambda: tailer.tail_connections == 3, description="three connections")
        for log in logs:
            await log.claim()
            await log.say(3)
            await log.finish()
    for reader in readers:
        reader.check_end()


async def test_wake_keys_expire(store: Store, tailer: Tailer) -> None:
    """No key of a tailer outlives it for long."""
    for _ in range(2):
        log = await RunLog.start(store)
        async with tailer.subscribe(log.run_id) as subscription:
            await until(subscription, log.top)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(subscription), 0.05)
            other = await RunLog.start(store)
            async with tailer.subscribe(other.run_id) as second:
                await until(second, other.top)
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(anext(second), 0.05)
    found = [key async for key in store.client.scan_iter(f"{keys.PREFIX}:{{t:*")]
    assert found
    for key in found:
        assert await store.client.pttl(key) > 0


async def test_cursors_of_any_size_are_taken(store: Store, tailer: Tailer) -> None:
    """The largest cursor that a store can spell is ahead of every log, and no more than that."""
    log = await RunLog.start(store)
    largest = cursors.parse(f"{2**64 - 1}-{2**64 - 1}")
    async with tailer.subscribe(log.run_id, after=largest) as subscription:
        [frame] = await anext(subscription)
    assert frame.type == Type.SNAPSHOT
