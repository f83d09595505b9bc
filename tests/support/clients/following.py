"""Following runs through a tailer, in process: to the end, to an event, to the moment where nothing is left."""

from __future__ import annotations

import asyncio

from mainstem_shared.eventlog.reading.frames import Frame
from mainstem_shared.eventlog.reading.subscriptions import End, Subscription
from mainstem_shared.eventlog.reading.tailer import Tailer
from mainstem_shared.model.cursors import Cursor
from support.clients.checking_reader import Reader
from support.models.logs import RunLog
from support.waiting import wait_until_async


async def follow(tailer: Tailer, reader: Reader, *, from_snapshot: bool = False) -> End | None:
    """Read a run to the end of the feed, checking every event."""
    async with tailer.subscribe(
        reader.log.run_id, after=reader.cursor, from_snapshot=from_snapshot
    ) as subscription:
        await drink(subscription, reader)
        return subscription.end


async def drink(subscription: Subscription, reader: Reader) -> None:
    async for batch in subscription:
        assert batch
        for frame in batch:
            reader.take(frame.cursor, frame.type, frame.data)


async def reached(reader: Reader, cursor: Cursor) -> None:
    await wait_until_async(lambda: reader.cursor == cursor, description=f"the reader at {cursor}")


async def until(subscription: Subscription, cursor: Cursor) -> None:
    """Read a feed up to an event."""
    async with asyncio.timeout(10):
        while (await anext(subscription))[-1].cursor != cursor:
            pass


async def parked(subscription: Subscription, log: RunLog) -> asyncio.Future[list[Frame]]:
    """Read a feed to the log's top and leave it waiting for live events; returns what it waits for."""
    await until(subscription, log.top)
    waiting = asyncio.ensure_future(anext(subscription))
    await wait_until_async(lambda: is_read(subscription), description="the feed to be live and read for")
    return waiting


def is_read(subscription: Subscription) -> bool:
    """Whether the feed lives on a blocking read that is under way and knows its topic."""
    connection = subscription._followed.connection
    return subscription._live and connection is not None and connection._reading and not connection.blocked
