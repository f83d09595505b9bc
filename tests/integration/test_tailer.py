"""The tailer on a real store: every reader gets every event once, in order, whatever happens in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from redis.exceptions import RedisError

from logs import RunLog
from mainstem_shared import cursors, errors, feeds, ids, keys, pages, shards
from mainstem_shared.cursors import Cursor
from mainstem_shared.events import Type
from mainstem_shared.feeds import End, Feed
from mainstem_shared.frames import Frame
from mainstem_shared.store import Script, Store
from mainstem_shared.tailer import Tailer
from readers import Reader
from servers import ValkeyProcess
from waiting import wait_until_async


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[Store]:
    connected = Store(store_url)
    yield connected
    await connected.close()


@pytest.fixture
async def tailer(store: Store) -> AsyncIterator[Tailer]:
    async with Tailer(store) as made:
        yield made


async def follow(tailer: Tailer, reader: Reader, *, from_snapshot: bool = False) -> End | None:
    """Read a run to the end of the feed, checking every event."""
    async with tailer.subscribe(reader.log.run_id, after=reader.cursor, from_snapshot=from_snapshot) as feed:
        await drink(feed, reader)
        return feed.end


async def drink(feed: Feed, reader: Reader) -> None:
    async for batch in feed:
        assert batch
        for frame in batch:
            reader.take(frame.cursor, frame.type, frame.data)


async def reached(reader: Reader, cursor: Cursor) -> None:
    await wait_until_async(lambda: reader.cursor == cursor, description=f"the reader at {cursor}")


async def test_a_reader_from_the_start_gets_every_event_of_a_live_run(store: Store, tailer: Tailer) -> None:
    """What was written before and after the subscription arrives once, in order; then the feed ends."""
    log = await RunLog.start(store)
    reader = Reader(log)
    async with asyncio.TaskGroup() as group:
        following = group.create_task(follow(tailer, reader))
        await reached(reader, log.top)
        await log.claim()
        await log.say(3)
        await reached(reader, log.top)
        await log.say(500)
        await log.finish()
    assert following.result() is End.FINISHED
    assert reader.ids == [entry.cursor for entry in log.entries]
    reader.check_end()
    assert tailer.topics == tailer.feeds == 0


async def test_a_frame_is_one_sse_event_with_lf_only(store: Store, tailer: Tailer) -> None:
    """id, event, one data line, blank line."""
    log = await RunLog.start(store)
    await log.claim()
    await log.append((Type.MESSAGE_DELTA, {"part": 0, "text": "a\r\nb\u2028"}))
    async with tailer.subscribe(log.run_id, after=Cursor(2, 0)) as feed:
        [frame] = await anext(feed)
    expected = 'id: 2-1\nevent: message.delta\ndata: {"part":0,"text":"a\\r\\nb\u2028"}\n\n'
    assert frame.wire == expected.encode()


async def test_a_new_topic_need_not_wait_for_a_blocked_read(store: Store, tailer: Tailer) -> None:
    """While the shard blocks for one run, another run's events come at once, not at the block's end."""
    first, second = await RunLog.start(store), await RunLog.start(store)
    async with tailer.subscribe(first.run_id) as one, tailer.subscribe(second.run_id) as two:
        silent = await parked(one, first)
        loop = asyncio.get_running_loop()
        began = loop.time()
        waiting = await parked(two, second)
        await second.claim()
        [frame] = await waiting
        assert frame.cursor == second.top
        assert loop.time() - began < shards.BLOCK_MS / 2000
        silent.cancel()


@pytest.mark.parametrize("state", ["live", "snapshot", "trimmed", "finished", "compacted", "resync"])
async def test_a_reader_without_a_cursor_gets_the_whole_run(store: Store, tailer: Tailer, state: str) -> None:
    """Whatever is left of the log: the events from the first one, or a snapshot and what follows it."""
    log = await RunLog.start(store)
    await log.claim()
    await log.say(5)
    if state in ("snapshot", "trimmed"):
        await log.snapshot()
        await log.say(5)
    if state == "trimmed":
        await log.snapshot()
        await log.say(5)
    if state == "resync":
        await log.lose_tail(2)
        await log.resync()
        log.forget_lost()
    if state != "live":
        await log.say(2)
    if state in ("finished", "compacted"):
        await log.finish()
    if state == "compacted":
        await log.compact()
    reader = Reader(log)
    async with asyncio.TaskGroup() as group:
        following = group.create_task(follow(tailer, reader))
        await reached(reader, log.top)
        if state not in ("finished", "compacted"):
            await log.finish()
    assert following.result() is End.FINISHED
    assert reader.snapshots == (state in ("trimmed", "compacted"))
    reader.check_end()


async def test_from_snapshot_starts_with_the_stored_snapshot_and_its_tail(
    store: Store, tailer: Tailer
) -> None:
    """The snapshot's id is the cursor it covers; the events after it follow."""
    log = await RunLog.start(store)
    await log.claim()
    await log.say(5)
    await log.snapshot()
    covered = log.top
    await log.say(2)
    reader = Reader(log)
    async with tailer.subscribe(log.run_id, from_snapshot=True) as feed:
        batch = await anext(feed)
        for frame in batch:
            reader.take(frame.cursor, frame.type, frame.data)
    assert reader.ids == [covered, covered.next(), covered.next().next()]
    assert reader.types[0] == Type.SNAPSHOT
    assert reader.fold.dump() == log.fold.dump()


async def test_from_snapshot_of_a_run_without_one_is_folded_to_the_top(store: Store, tailer: Tailer) -> None:
    """A young run has no stored snapshot: one is made."""
    log = await RunLog.start(store)
    await log.claim()
    await log.say(5)
    async with tailer.subscribe(log.run_id, from_snapshot=True) as feed:
        [frame] = await anext(feed)
    assert (frame.cursor, frame.type) == (log.top, Type.SNAPSHOT)
    assert frame.payload()["text"] == log.fold.text


async def test_a_cursor_within_a_trimmed_range_gets_a_snapshot(store: Store, tailer: Tailer) -> None:
    """A reader that was away for long continues from the stored snapshot."""
    log = await RunLog.start(store)
    await log.claim()
    await log.say(3)
    reader = Reader(log)
    for entry in log.entries[:3]:
        reader.take(entry.cursor, entry.type, entry.data)
    await log.say(3)
    await log.snapshot()
    await log.say(3)
    await log.snapshot()
    await log.say(3)
    await log.finish()
    assert await follow(tailer, reader) is End.FINISHED
    assert reader.snapshots == 1
    reader.check_end()


async def test_the_cursor_of_the_end_gives_an_empty_feed(store: Store, tailer: Tailer) -> None:
    """Nothing comes after run.finished, and the feed knows it at once."""
    log = await RunLog.start(store)
    await log.claim()
    await log.finish()
    async with tailer.subscribe(log.run_id, after=log.top) as feed:
        assert feed.end is End.FINISHED
        assert [batch async for batch in feed] == []


@pytest.mark.parametrize("finished", [True, False])
async def test_a_reader_ahead_of_the_log_gets_a_snapshot(
    store: Store, tailer: Tailer, *, finished: bool
) -> None:
    """A fail-over lost a tail that this reader has seen: it is told, not left waiting."""
    log = await RunLog.start(store)
    await log.claim()
    await log.say(3)
    lost = Cursor(2, 9)
    if finished:
        await log.finish()
        lost = Cursor(9, 9)
    async with tailer.subscribe(log.run_id, after=lost) as feed:
        batch = await asyncio.wait_for(anext(feed), 5)
    assert batch[0].type == Type.SNAPSHOT
    assert batch[0].payload()["text"] == "w0 w1 w2"
    assert batch[-1].cursor == log.top


async def test_live_readers_are_told_when_the_log_loses_its_tail(store: Store, tailer: Tailer) -> None:
    """An idle log is looked at: one that ends before what was delivered is answered with a snapshot."""
    log = await RunLog.start(store)
    await log.claim()
    await log.say(5)
    async with tailer.subscribe(log.run_id) as feed, tailer.subscribe(log.run_id) as other:
        waiting = [await parked(following, log) for following in (feed, other)]
        await log.lose_tail(2)
        for following in waiting:
            [frame] = await asyncio.wait_for(following, 6)
            assert (frame.type, frame.cursor) == (Type.SNAPSHOT, Cursor(2, 3))
            assert frame.payload()["text"] == "w0 w1 w2"


async def until(feed: Feed, cursor: Cursor) -> None:
    """Read a feed up to an event."""
    async with asyncio.timeout(10):
        while (await anext(feed))[-1].cursor != cursor:
            pass


async def parked(feed: Feed, log: RunLog) -> asyncio.Future[list[Frame]]:
    """Read a feed to the log's top and leave it waiting for live events; returns what it waits for."""
    await until(feed, log.top)
    waiting = asyncio.ensure_future(anext(feed))
    await wait_until_async(lambda: is_read(feed), description="the feed to be live and read for")
    return waiting


def is_read(feed: Feed) -> bool:
    """Whether the feed lives on a blocking read that is under way and knows its topic."""
    shard = feed._topic.shard
    return feed._live and shard is not None and shard._reading and not shard.blocked


async def test_a_log_that_is_lost_before_the_end_is_noticed(store: Store, tailer: Tailer) -> None:
    """Also by live readers: the outcome comes from the record."""
    log = await RunLog.start(store)
    await log.claim()
    async with tailer.subscribe(log.run_id) as feed:
        waiting = await parked(feed, log)
        ended = {"status": "failed", "reason": "worker_lost", "finished": 1, "epoch": 3}
        async with store.client.pipeline(transaction=True) as pipe:
            pipe.delete(log.keys.log)
            pipe.hset(log.keys.record, mapping=ended)
            await pipe.execute()
        [frame] = await asyncio.wait_for(waiting, 6)
        assert (frame.type, frame.payload()["status"]) == (Type.FINISHED, "failed")
        assert feed.end is End.FINISHED


async def test_a_log_that_is_lost_while_the_run_goes_on_is_repaired(store: Store, tailer: Tailer) -> None:
    """Readers wait for the owner's resync; it is the next thing they get."""
    log = await RunLog.start(store)
    await log.claim()
    await log.say(3)
    async with tailer.subscribe(log.run_id) as feed:
        waiting = await parked(feed, log)
        await store.client.delete(log.keys.log)
        async with tailer.subscribe(log.run_id, after=log.top) as late:
            also = asyncio.ensure_future(anext(late))
            await wait_until_async(lambda: late._live, description="the late reader to be live")
            await log.resync()
            for following in (waiting, also):
                [frame] = await asyncio.wait_for(following, 6)
                assert (frame.type, frame.payload()["text"]) == (Type.RESYNC, "w0 w1 w2")


async def test_a_malformed_entry_ends_only_its_own_feeds(store: Store, tailer: Tailer) -> None:
    """The other runs of the shard go on."""
    bad, good = await RunLog.start(store), await RunLog.start(store)
    async with tailer.subscribe(bad.run_id) as one, tailer.subscribe(good.run_id) as other:
        waiting, also = await parked(one, bad), await parked(other, good)
        await store.client.xadd(bad.keys.log, {"resync": "no JSON"}, id="2-0")
        with pytest.raises(ValueError, match="Expecting"):
            await waiting
        await good.claim()
        assert (await also)[0].cursor == good.top


async def test_a_resync_reaches_live_readers(store: Store, tailer: Tailer) -> None:
    """The owner's repair replaces what readers have, also for those beyond the log."""
    log = await RunLog.start(store)
    await log.claim()
    await log.say(5)
    async with tailer.subscribe(log.run_id) as feed:
        waiting = await parked(feed, log)
        await log.lose_tail(2)
        await log.resync()
        batch = await asyncio.wait_for(waiting, 6)
    assert [frame.type for frame in batch][-1] == Type.RESYNC
    assert batch[-1].payload()["text"] == "w0 w1 w2 w3 w4"


async def test_a_deleted_run_ends_its_feeds(store: Store, tailer: Tailer) -> None:
    """Silence proves nothing: a run that is gone is noticed within seconds."""
    log = await RunLog.start(store)
    async with tailer.subscribe(log.run_id) as feed:
        waiting = await parked(feed, log)
        await store.client.delete(log.keys.record, log.keys.log)
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(waiting, 6)
        assert feed.end is End.GONE


async def test_a_finished_run_without_a_log_says_so(store: Store, tailer: Tailer) -> None:
    """The outcome is in the record; the content is lost, and the event says it."""
    log = await RunLog.start(store)
    await log.claim()
    await log.say(2)
    await log.finish()
    await store.client.delete(log.keys.log)
    async with tailer.subscribe(log.run_id, after=Cursor(2, 1)) as feed:
        [frame] = await anext(feed)
        assert feed.end is End.FINISHED
    assert frame.cursor == log.top
    assert (frame.payload()["status"], frame.payload()["error"]["code"]) == ("succeeded", "log_lost")
    async with tailer.subscribe(log.run_id, after=log.top) as feed:
        assert feed.end is End.FINISHED


@pytest.mark.parametrize("run_id", [ids.run_id("default", "t", ids.uuid7()), "x", "../etc", "a\0b", ""])
async def test_an_unknown_run_is_not_found(tailer: Tailer, run_id: str) -> None:
    """Also one that could not exist; nothing is left behind."""
    with pytest.raises(errors.NotFound):
        async with tailer.subscribe(run_id):
            pass
    assert tailer.topics == 0


async def test_a_slow_reader_loses_nothing_and_delays_nobody(
    store: Store, tailer: Tailer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its queue is bounded; when that is full, it reads the log (or a snapshot) again when it is ready."""
    monkeypatch.setattr(feeds, "QUEUE_FRAMES", 20)
    log = await RunLog.start(store)
    await log.claim()
    quick, slow, slower = Reader(log), Reader(log), Reader(log)
    async with (
        tailer.subscribe(log.run_id) as slow_feed,
        tailer.subscribe(log.run_id) as slower_feed,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(follow(tailer, quick))
        for feed, reader in ((slow_feed, slow), (slower_feed, slower)):
            for frame in await anext(feed):
                reader.take(frame.cursor, frame.type, frame.data)
            await live(feed, reader)
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


async def live(feed: Feed, reader: Reader) -> None:
    """Bring a feed to the live flow: wait for the next batch until it would have to wait."""
    try:
        async with asyncio.timeout(0.2):
            for frame in await anext(feed):
                reader.take(frame.cursor, frame.type, frame.data)
    except TimeoutError:
        pass
    assert feed._live


async def drink_until(feed: Feed, reader: Reader, cursor: Cursor) -> None:
    while reader.cursor != cursor:
        for frame in await anext(feed):
            reader.take(frame.cursor, frame.type, frame.data)


class GatedStore(Store):
    """A real store whose answers to pages can be held back: what a busy loop does to a reader."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.gate = asyncio.Event()
        self.gate.set()
        self.held = 0

    async def verb(self, script: Script, *args: Any, **options: Any) -> Any:
        reply = await super().verb(script, *args, **options)
        if script is pages.PAGE:
            self.held += 1
            await self.gate.wait()
        return reply


@pytest.mark.parametrize("missed", [5, 7])
async def test_what_overflows_while_a_reader_catches_up_is_read_again(
    store_url: str, monkeypatch: pytest.MonkeyPatch, missed: int
) -> None:
    """Live events fill its queue before the page it asked for is here: whether the queue is empty again
    then (5), or holds later events (7), nothing is missing.
    """
    monkeypatch.setattr(feeds, "QUEUE_FRAMES", 4)
    store = GatedStore(store_url)
    async with Tailer(store) as tailer:
        log = await RunLog.start(store)
        await log.claim()
        quick, late = Reader(log), Reader(log)
        async with asyncio.TaskGroup() as group:
            group.create_task(follow(tailer, quick))
            await reached(quick, log.top)
            await wait_until_async(
                lambda: any(is_read(feed) for topic in tailer._topics.values() for feed in topic.feeds),
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
    async with tailer.subscribe(log.run_id, after=Cursor(2, 4)) as feed:
        seen = [(frame.cursor, frame.type) for frame in await anext(feed) + await anext(feed)]
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


async def test_a_store_that_stays_away_is_reported(
    private_valkey: ValkeyProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond their patience readers are told; a new one is told at once."""
    monkeypatch.setattr(feeds, "PATIENCE_S", 0.5)
    store = Store(private_valkey.url(), patience_s=0.2)
    async with Tailer(store) as tailer:
        log = await RunLog.start(store)
        async with tailer.subscribe(log.run_id) as feed:
            waiting = await parked(feed, log)
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
    async with tailer.subscribe(log.run_id) as feed:
        waiting = await parked(feed, log)
        tailer.drain()
        with pytest.raises(StopAsyncIteration):
            await waiting
        assert feed.end is End.CLOSED
    assert tailer.topics == 0


async def test_many_runs_share_connections(
    store: Store, tailer: Tailer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most so many keys on one connection, and every run's events arrive."""
    monkeypatch.setattr(shards, "KEYS", 8)
    logs = [await RunLog.start(store) for _ in range(20)]
    readers = [Reader(log) for log in logs]
    async with asyncio.TaskGroup() as group:
        for reader in readers:
            group.create_task(follow(tailer, reader))
        for log, reader in zip(logs, readers, strict=True):
            await reached(reader, log.top)
        await wait_until_async(lambda: tailer.shards == 3, description="three connections")
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
        async with tailer.subscribe(log.run_id) as feed:
            await until(feed, log.top)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(feed), 0.05)
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
    async with tailer.subscribe(log.run_id, after=largest) as feed:
        [frame] = await anext(feed)
    assert frame.type == Type.SNAPSHOT
