"""The tailer on a real store: every reader gets every event once, in order, whatever happens in between."""

from __future__ import annotations

import asyncio

import pytest

from mainstem_shared.eventlog.reading import tail_connections
from mainstem_shared.eventlog.reading.subscriptions import End
from mainstem_shared.eventlog.reading.tailer import Tailer
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.events import Type
from mainstem_shared.store.client import Store
from support.clients.checking_reader import Reader
from support.clients.following import follow, parked, reached
from support.models.logs import RunLog
from support.waiting import wait_until_async


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
    assert tailer.followed_runs == tailer.subscriptions == 0


async def test_a_frame_is_one_sse_event_with_lf_only(store: Store, tailer: Tailer) -> None:
    """id, event, one data line, blank line."""
    log = await RunLog.start(store)
    await log.claim()
    await log.append((Type.MESSAGE_DELTA, {"part": 0, "text": "a\r\nb\u2028"}))
    async with tailer.subscribe(log.run_id, after=Cursor(2, 0)) as subscription:
        [frame] = await anext(subscription)
    expected = 'id: 2-1\nevent: message.delta\ndata: {"part":0,"text":"a\\r\\nb\\u2028"}\n\n'
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
        assert loop.time() - began < tail_connections.BLOCK_MS / 2000
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
    async with tailer.subscribe(log.run_id, from_snapshot=True) as subscription:
        batch = await anext(subscription)
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
    async with tailer.subscribe(log.run_id, from_snapshot=True) as subscription:
        [frame] = await anext(subscription)
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
    async with tailer.subscribe(log.run_id, after=log.top) as subscription:
        assert subscription.end is End.FINISHED
        assert [batch async for batch in subscription] == []


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
    async with tailer.subscribe(log.run_id, after=lost) as subscription:
        batch = await asyncio.wait_for(anext(subscription), 5)
    assert batch[0].type == Type.SNAPSHOT
    assert batch[0].payload()["text"] == "w0 w1 w2"
    assert batch[-1].cursor == log.top


async def test_live_readers_are_told_when_the_log_loses_its_tail(store: Store, tailer: Tailer) -> None:
    """An idle log is looked at: one that ends before what was delivered is answered with a snapshot."""
    log = await RunLog.start(store)
    await log.claim()
    await log.say(5)
    async with tailer.subscribe(log.run_id) as subscription, tailer.subscribe(log.run_id) as other:
        waiting = [await parked(following, log) for following in (subscription, other)]
        await log.lose_tail(2)
        for following in waiting:
            [frame] = await asyncio.wait_for(following, 6)
            assert (frame.type, frame.cursor) == (Type.SNAPSHOT, Cursor(2, 3))
            assert frame.payload()["text"] == "w0 w1 w2"


async def test_a_log_that_is_lost_before_the_end_is_noticed(store: Store, tailer: Tailer) -> None:
    """Also by live readers: the outcome comes from the record."""
    log = await RunLog.start(store)
    await log.claim()
    async with tailer.subscribe(log.run_id) as subscription:
        waiting = await parked(subscription, log)
        ended = {"status": "failed", "reason": "worker_lost", "finished": 1, "epoch": 3}
        async with store.client.pipeline(transaction=True) as pipe:
            pipe.delete(log.keys.log)
            pipe.hset(log.keys.record, mapping=ended)
            await pipe.execute()
        [frame] = await asyncio.wait_for(waiting, 6)
        assert (frame.type, frame.payload()["status"]) == (Type.FINISHED, "failed")
        assert subscription.end is End.FINISHED


async def test_a_log_that_is_lost_while_the_run_goes_on_is_repaired(store: Store, tailer: Tailer) -> None:
    """Readers wait for the owner's resync; it is the next thing they get."""
    log = await RunLog.start(store)
    await log.claim()
    await log.say(3)
    async with tailer.subscribe(log.run_id) as subscription:
        waiting = await parked(subscription, log)
        await store.client.delete(log.keys.log)
        async with tailer.subscribe(log.run_id, after=log.top) as late:
            also = asyncio.ensure_future(anext(late))
            await wait_until_async(lambda: late._live, description="the late reader to be live")
            await log.resync()
            for following in (waiting, also):
                [frame] = await asyncio.wait_for(following, 6)
                assert (frame.type, frame.payload()["text"]) == (Type.RESYNC, "w0 w1 w2")


@pytest.mark.parametrize("name", [b"custom", b"\xff\xfe"], ids=["payload", "type"])
async def test_a_malformed_entry_hides_nothing_else(store: Store, tailer: Tailer, name: bytes) -> None:
    """It is left out: the readers of its own run, and those of the other runs of the connection, go on."""
    bad, good = await RunLog.start(store), await RunLog.start(store)
    async with tailer.subscribe(bad.run_id) as one, tailer.subscribe(good.run_id) as other:
        waiting, also = await parked(one, bad), await parked(other, good)
        await bad.claim()
        assert (await waiting)[-1].cursor == bad.top
        epoch = bad.top.epoch
        await store.client.xadd(bad.keys.log, {name: "no JSON"}, id=f"{epoch}-1")
        await store.client.xadd(bad.keys.log, {"custom": '{"name":"x","data":1}'}, id=f"{epoch}-2")
        seen: list[Cursor] = []
        while Cursor(epoch, 2) not in seen:
            seen += [frame.cursor for frame in await asyncio.wait_for(anext(one), 10)]
        await good.claim()
        assert (await also)[0].cursor == good.top


async def test_a_reader_that_breaks_harms_no_other_run(
    store: Store, tailer: Tailer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever fails while an event is handed over ends the readers of that run; the connection's other runs go on."""
    broken, good = await RunLog.start(store), await RunLog.start(store)
    async with tailer.subscribe(broken.run_id) as one, tailer.subscribe(good.run_id) as other:
        waiting, also = await parked(one, broken), await parked(other, good)

        def offer(batch: object) -> None:
            raise MemoryError

        monkeypatch.setattr(one, "offer", offer)
        await broken.claim()
        with pytest.raises(MemoryError):
            await asyncio.wait_for(waiting, 10)
        await good.claim()
        assert (await asyncio.wait_for(also, 10))[0].cursor == good.top
        assert one.end is None, "it failed; nothing told it an end"


async def test_a_resync_reaches_live_readers(store: Store, tailer: Tailer) -> None:
    """The owner's repair replaces what readers have, also for those beyond the log."""
    log = await RunLog.start(store)
    await log.claim()
    await log.say(5)
    async with tailer.subscribe(log.run_id) as subscription:
        waiting = await parked(subscription, log)
        await log.lose_tail(2)
        await log.resync()
        batch = await asyncio.wait_for(waiting, 6)
    assert [frame.type for frame in batch][-1] == Type.RESYNC
    assert batch[-1].payload()["text"] == "w0 w1 w2 w3 w4"


async def test_a_deleted_run_ends_its_feeds(store: Store, tailer: Tailer) -> None:
    """Silence proves nothing: a run that is gone is noticed within seconds."""
    log = await RunLog.start(store)
    async with tailer.subscribe(log.run_id) as subscription:
        waiting = await parked(subscription, log)
        await store.client.delete(log.keys.record, log.keys.log)
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(waiting, 6)
        assert subscription.end is End.GONE


async def test_a_finished_run_without_a_log_says_so(store: Store, tailer: Tailer) -> None:
    """The outcome is in the record; the content is lost, and the event says it."""
    log = await RunLog.start(store)
    await log.claim()
    await log.say(2)
    await log.finish()
    await store.client.delete(log.keys.log)
    async with tailer.subscribe(log.run_id, after=Cursor(2, 1)) as subscription:
        [frame] = await anext(subscription)
        assert subscription.end is End.FINISHED
    assert frame.cursor == log.top
    assert (frame.payload()["status"], frame.payload()["error"]["code"]) == ("succeeded", "log_lost")
    async with tailer.subscribe(log.run_id, after=log.top) as subscription:
        assert subscription.end is End.FINISHED
