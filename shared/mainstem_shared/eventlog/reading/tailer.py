"""The tailer: follows any number of runs for any number of readers, at the store's cost of one reader each.

One per process and loop. `shards` hold the connections, `topics` the runs, `feeds` the readers:

    async with Tailer(store) as tailer:
        async with tailer.subscribe(run_id, after=cursor) as feed:
            async for batch in feed:      # list[Frame], never empty
                ...
        feed.end                          # End.FINISHED, End.GONE or End.CLOSED
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final, Self

from mainstem_shared import errors
from mainstem_shared.eventlog.reading.followed_runs import Topic
from mainstem_shared.eventlog.reading.subscriptions import End, Feed
from mainstem_shared.eventlog.reading.tail_connections import Shard
from mainstem_shared.model import cursors
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store

WAKE_TTL_MS: Final = 10_000
"""Outlives the blocked read that it interrupts, and not much more."""


class Tailer:
    """Made inside the loop that uses it. Entering it costs nothing: connections are made on first use."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._name = secrets.token_hex(8)
        self._topics: dict[str, Topic] = {}
        self._shards: dict[Shard, asyncio.Task[None]] = {}
        self._made = 0
        self._closed = False
        self._past_reads = self._past_events = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    @property
    def topics(self) -> int:
        """Runs that somebody follows."""
        return len(self._topics)

    @property
    def feeds(self) -> int:
        """Readers."""
        return sum(len(topic.feeds) for topic in self._topics.values())

    @property
    def shards(self) -> int:
        """Connections."""
        return len(self._shards)

    @property
    def events(self) -> int:
        """Entries read live, each once for all readers."""
        return self._past_events + sum(shard.events for shard in self._shards)

    @property
    def reads(self) -> int:
        """Blocking reads that were answered."""
        return self._past_reads + sum(shard.reads for shard in self._shards)

    @asynccontextmanager
    async def subscribe(
        self, run_id: str, *, after: Cursor | None = None, from_snapshot: bool = False
    ) -> AsyncGenerator[Feed]:
        """Follow a run: its events after `after`, then the live ones, until `run.finished`.

        Without a cursor the feed starts at the first event, or at a `snapshot` event where the log's
        beginning is gone; with `from_snapshot` it starts at the newest snapshot in any case. A cursor that
        the log cannot continue (a hole, a lost tail) gets a `snapshot` too. States (`snapshot`, `resync`,
        `run.finished`) replace everything before. A cursor of `run.finished` gives an empty feed that ended
        as FINISHED.

        Raises:
            NotFound: there is no such run.
            StoreUnavailable: the store does not answer.
        """
        topic = self._topics.get(run_id)
        if topic is None:
            topic = self._topics[run_id] = Topic(self, run_id)
        feed = Feed(self._store, topic, after or cursors.START)
        topic.feeds.add(feed)  # before the first read: what comes after it is queued
        try:
            if self._closed:
                raise errors.StoreUnavailable("This process is shutting down; connect again.")
            await feed.open(from_snapshot=from_snapshot and after is None)
            yield feed
        finally:
            feed.close(End.CLOSED)
            topic.feeds.discard(feed)
            if not topic.feeds:
                self._topics.pop(run_id, None)
                self.unfollow(topic)

    async def follow(self, topic: Topic) -> None:
        """Give a topic to a shard, and interrupt the shard's blocking read so that it learns of it."""
        shard = next((shard for shard in self._shards if shard.has_room), None) or self._new_shard()
        topic.shard = shard
        shard.add(topic)
        if shard.blocked:
            shard.blocked = False
            await self._wake(shard)

    def unfollow(self, topic: Topic) -> None:
        """Take a topic from its shard: nobody follows it any more, or there is nothing more to come."""
        if topic.shard is not None:
            topic.shard.remove(topic)
            topic.shard = None

    async def _wake(self, shard: Shard) -> None:
        pipeline: Any = self._store.client.pipeline(transaction=False)
        pipeline.xadd(shard.wake_key, {"k": ""}, maxlen=1, approximate=False)
        pipeline.pexpire(shard.wake_key, WAKE_TTL_MS)
        with contextlib.suppress(errors.StoreUnavailable):  # the read ends by itself within two seconds
            await self._store.patiently(pipeline.execute, patience_s=0)

    def _new_shard(self) -> Shard:
        self._made += 1
        shard = Shard(self._store.url, keys.wake(f"{self._name}.{self._made}"))
        task = asyncio.create_task(shard.run(), name="tailer-shard")
        self._shards[shard] = task
        task.add_done_callback(lambda _: self._retire(shard))
        return shard

    def _retire(self, shard: Shard) -> None:
        self._shards.pop(shard, None)
        self._past_reads += shard.reads
        self._past_events += shard.events

    def drain(self) -> None:
        """End all feeds as CLOSED, and refuse new ones: for a process that is about to stop."""
        self._closed = True
        for topic in self._topics.values():
            topic.close(End.CLOSED)

    async def close(self) -> None:
        """Drain, and close all connections."""
        self.drain()
        pending = set(self._shards.values())
        while pending:  # Python 3.11's wait_for, which redis-py connects with, can swallow a cancellation
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=0.1)
