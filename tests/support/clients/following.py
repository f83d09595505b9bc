"""Following runs through a tailer, in process: to the end, to an event, to the moment where nothing is left."""

from __future__ import annotations

import asyncio

from mainstem_shared.eventlog.reading.frames import Frame
from mainstem_shared.eventlog.reading.subscriptions import End, Feed
from mainstem_shared.eventlog.reading.tailer import Tailer
from mainstem_shared.model.cursors import Cursor
from support.clients.checking_reader import Reader
from support.models.logs import RunLog
from support.waiting import wait_until_async


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
