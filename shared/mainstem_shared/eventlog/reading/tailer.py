"""The tailer follows any number of runs for any number of readers, reading each run once.

One per process and loop: it gives each `FollowedRun` to a `TailConnection`, and each reader a `Subscription`.

    async with Tailer(store) as tailer:
        async with tailer.subscribe(run_id, after=cursor) as subscription:
            async for batch in subscription:      # list[Frame], never empty
                ...
        subscription.end                          # End.FINISHED, End.GONE or End.CLOSED
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final, Self

from mainstem_shared import errors
from mainstem_shared.eventlog.reading.followed_runs import FollowedRun
from mainstem_shared.eventlog.reading.subscriptions import End, Subscription
from mainstem_shared.eventlog.reading.tail_connections import TailConnection
from mainstem_shared.eventlog.reading.woken_tails import WokenTail
from mainstem_shared.model import cursors
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.store import keys, topologies
from mainstem_shared.store.client import LONGEST_DELAY_S, Store
from mainstem_shared.store.failures import RedisError

SEEK_S: Final = 0.05
"""Pause before slots are looked for: many runs of a node that is gone are looked for at once."""
WAKE_TTL_MS: Final = 10_000
"""Outlives the blocked read that it interrupts, and not much more."""


class Tailer:
    """Made inside the loop that uses it. Entering it costs nothing: connections are made on first use."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._name = secrets.token_hex(8)
        self._followed: dict[str, FollowedRun] = {}
        self._connections: dict[TailConnection, asyncio.Task[None]] = {}
        self._made = 0
        self._closed = False
        self._past_reads = self._past_events = 0
        self._seeking: asyncio.Task[None] | None = None
        self._unplaced: set[FollowedRun] = set()
        """Runs whose server is not known: their buckets are on their way to another shard."""
        self._placing: asyncio.Task[None] | None = None
        store.topology.changed.append(self._slots_changed)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    @property
    def followed_runs(self) -> int:
        """Runs that somebody follows."""
        return len(self._followed)

    @property
    def subscriptions(self) -> int:
        """Readers."""
        return sum(len(followed.subscriptions) for followed in self._followed.values())

    @property
    def tail_connections(self) -> int:
        """Connections."""
        return len(self._connections)

    @property
    def events(self) -> int:
        """Entries read live, each once for all readers."""
        return self._past_events + sum(connection.events for connection in self._connections)

    @property
    def reads(self) -> int:
        """Blocking reads that were answered."""
        return self._past_reads + sum(connection.reads for connection in self._connections)

    @asynccontextmanager
    async def subscribe(
        self, run_id: str, *, after: Cursor | None = None, from_snapshot: bool = False
    ) -> AsyncGenerator[Subscription]:
        """Follow a run: its events after `after`, then the live ones, until `run.finished`.

        Without a cursor the subscription starts at the first event, or at a `snapshot` event where the log's
        beginning is gone; with `from_snapshot` it starts at the newest snapshot in any case. A cursor that
        the log cannot continue (a hole, a lost tail) gets a `snapshot` too. States (`snapshot`, `resync`,
        `run.finished`) replace everything before. A cursor of `run.finished` gives an empty subscription that
        ended as FINISHED.

        Raises:
            NotFound: there is no such run.
            StoreUnavailable: the store does not answer.
        """
        followed = self._followed.get(run_id)
        if followed is None:
            followed = self._followed[run_id] = FollowedRun(self, run_id)
        subscription = Subscription(self.store, followed, after or cursors.START)
        followed.subscriptions.add(subscription)  # before the first read: what comes after it is queued
        try:
            if self._closed:
                raise errors.StoreUnavailable("This process is shutting down; connect again.")
            await subscription.open(from_snapshot=from_snapshot and after is None)
            yield subscription
        finally:
            subscription.close(End.CLOSED)
            followed.subscriptions.discard(subscription)
            if not followed.subscriptions:
                self._followed.pop(run_id, None)
                self.unfollow(followed)

    def _give(self, followed: FollowedRun) -> TailConnection | None:
        """Give a run to a tail connection of its server; None: it gets one as soon as that is known."""
        try:
            url = self.store.topology.node_of(followed.key)
        except topologies.Unlearned:
            self._unplaced.add(followed)
            if self._placing is None:
                self._placing = asyncio.create_task(self._place_all(), name="tailer-placing")
            return None
        free = (it for it in self._connections if it.has_room and it.url == url)
        connection = next(free, None) or self._open_connection(url)
        followed.connection = connection
        connection.add(followed)
        return connection

    async def follow(self, followed: FollowedRun) -> None:
        """Give a run to a tail connection, and interrupt its blocking read so that it learns of it."""
        connection = self._give(followed)
        if connection is not None and connection.blocked:
            connection.blocked = False
            await self._wake(connection)

    def _slots_changed(self) -> None:
        """Have runs read where they are now; each goes on at its cursor.

        One whose place is not known is read nowhere: what its former server says of it is no longer true.
        """
        for followed in list(self._followed.values()):
            reader = followed.connection
            if reader is not None and reader.url != self._url_of(followed):
                self.unfollow(followed)
                self._give(followed)

    def _url_of(self, followed: FollowedRun) -> str | None:
        try:
            return self.store.topology.node_of(followed.key)
        except topologies.Unlearned:
            return None

    async def _place_all(self) -> None:
        """Look where runs are until all have a connection again."""
        delay = SEEK_S
        try:
            while self._unplaced:
                await asyncio.sleep(delay)
                delay = min(2 * delay, LONGEST_DELAY_S)
                with contextlib.suppress(RedisError, OSError, errors.Misconfigured):
                    await self.store.refresh()
                unplaced, self._unplaced = self._unplaced, set()
                for followed in unplaced:
                    if self._followed.get(followed.run_id) is followed and followed.connection is None:
                        await self.follow(followed)
        finally:
            self._placing = None

    async def _seek(self) -> None:
        """Look where slots are now, soon and once for all who ask."""
        if self._seeking is None:
            self._seeking = asyncio.create_task(self._refresh(), name="tailer-refresh")
        await asyncio.shield(self._seeking)

    async def _refresh(self) -> None:
        try:
            await asyncio.sleep(SEEK_S)
            with contextlib.suppress(RedisError, OSError):
                await self.store.refresh()
        finally:
            self._seeking = None

    def unfollow(self, followed: FollowedRun) -> None:
        """Take a run from its tail connection: nobody follows it any more, or nothing more will come."""
        self._unplaced.discard(followed)
        if followed.connection is not None:
            followed.connection.remove(followed)
            followed.connection = None

    async def _wake(self, connection: TailConnection) -> None:
        key = connection.wake_key
        wake = (("XADD", key, "MAXLEN", 1, "*", "k", ""), ("PEXPIRE", key, WAKE_TTL_MS))
        with contextlib.suppress(RedisError, OSError):  # the read ends by itself within two seconds
            await self.store.node(connection.url).send(wake)

    def _open_connection(self, url: str) -> TailConnection:
        self._made += 1
        wake_key = keys.wake(f"{self._name}.{self._made}")
        connection = (
            WokenTail(url, wake_key, on_lost=self._seek)
            if self.store.topology.by_slot
            else TailConnection(url, wake_key)
        )
        task = asyncio.create_task(connection.run(), name="tail-connection")
        self._connections[connection] = task
        task.add_done_callback(lambda _: self._retire(connection))
        return connection

    def _retire(self, connection: TailConnection) -> None:
        self._connections.pop(connection, None)
        self._past_reads += connection.reads
        self._past_events += connection.events

    def drain(self) -> None:
        """End all subscriptions as CLOSED, and refuse new ones: for a process that is about to stop."""
        self._closed = True
        for followed in self._followed.values():
            followed.close(End.CLOSED)

    async def close(self) -> None:
        """Drain, and close all connections."""
        self.drain()
        with contextlib.suppress(ValueError):
            self.store.topology.changed.remove(self._slots_changed)
        pending = {
            *self._connections.values(),
            *(it for it in (self._seeking, self._placing) if it is not None),
        }
        while pending:  # Python 3.11's wait_for, which redis-py connects with, can swallow a cancellation
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=0.1)
