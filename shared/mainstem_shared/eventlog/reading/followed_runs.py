"""A followed run is read once for all of its subscriptions.

It belongs to one `TailConnection`, which reads its log and calls `deliver`; a subscription attaches it once
it has caught up. Its cursor is how far the tail connection has read.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Protocol

from mainstem_shared import transitions
from mainstem_shared.eventlog.reading.frames import Batch, Frame, continues
from mainstem_shared.eventlog.reading.joined_reads import JoinedReads
from mainstem_shared.eventlog.reading.state_frames import SharedState
from mainstem_shared.eventlog.reading.subscriptions import End, Subscription
from mainstem_shared.model.cursors import START, Cursor
from mainstem_shared.model.events import Entry, Type
from mainstem_shared.store import keys, raw_connections
from mainstem_shared.store.client import Store


class LogReader(Protocol):
    """Reads a followed run's log (`tail_connections.TailConnection`)."""

    url: str

    def remove(self, followed: FollowedRun) -> None: ...


class Follower(Protocol):
    """Assigns a followed run to a log reader, and removes it (`tailer.Tailer`)."""

    store: Store

    async def follow(self, followed: FollowedRun) -> None: ...
    def unfollow(self, followed: FollowedRun) -> None: ...


class FollowedRun:
    """A run's subscriptions, and how far its log was read for them. `cursor` is None until attached."""

    def __init__(self, tailer: Follower, run_id: str) -> None:
        self.run_id = run_id
        self.key = keys.run(run_id).log.encode()
        self.peek_command = transitions.peek_command(run_id)
        self.subscriptions: set[Subscription] = set()
        self.cursor: Cursor | None = None
        self.packed_cursor = b""
        self.heard = 0.0
        self.connection: LogReader | None = None
        self._tailer = tailer
        self._reads = JoinedReads()

    async def read_state(self) -> SharedState | transitions.Gone:
        """Read the run as of now, once for all subscriptions that ask meanwhile."""
        return await self._reads.read(None, self._read_state)

    async def _read_state(self) -> SharedState | transitions.Gone:
        state = await transitions.find(self._tailer.store, self.run_id)
        return state if isinstance(state, transitions.Gone) else SharedState(state)

    async def attach(self, cursor: Cursor) -> None:
        """Have the log read live from `cursor` on, unless it is read already."""
        if self.cursor is None:
            self._move(cursor)
            self.heard = time.monotonic()
            await self._tailer.follow(self)

    def _move(self, cursor: Cursor) -> None:
        self.cursor = cursor
        self.packed_cursor = raw_connections.bulk(b"%d-%d" % cursor)

    def deliver(self, entries: Iterable[Entry]) -> int:
        """Hand new entries to all subscriptions, encoded once; returns how many there were."""
        after, cursor, count = self.cursor, self.cursor or START, 0
        frames: list[Frame] = []
        for entry in entries:
            if not continues(cursor, entry):
                self._publish(after, frames)
                after, frames = None, []
            frames.append(Frame(entry))
            cursor = entry.cursor
            count += 1
        self._publish(after, frames)
        self._move(cursor)
        self.heard = time.monotonic()
        if frames and frames[-1].type == Type.FINISHED:
            self._tailer.unfollow(self)
        return count

    def _publish(self, after: Cursor | None, frames: list[Frame]) -> None:
        if frames:
            batch = Batch(after, frames)
            for subscription in self.subscriptions:
                subscription.offer(batch)

    def peeked(self, seen: transitions.Peek | transitions.Gone) -> None:
        """Judge a silent log: is the run still there, does the log still reach what was delivered."""
        self.heard = time.monotonic()
        if isinstance(seen, transitions.Gone):
            self.close(End.GONE)
        elif seen.top == START:
            if seen.status.is_terminal:
                self._lag_beyond(None)
        elif self.cursor is not None and seen.top < self.cursor:
            self.rewind(seen.top)

    def rewind(self, top: Cursor) -> None:
        """Note that the log lost its tail and ends at `top`: subscriptions beyond it need a snapshot."""
        self._move(top)
        self._lag_beyond(top)

    def _lag_beyond(self, top: Cursor | None) -> None:
        for subscription in self.subscriptions:
            if top is None or subscription.position > top:
                subscription.lag()

    def close(self, end: End) -> None:
        """End all subscriptions."""
        for subscription in self.subscriptions:
            subscription.close(end)

    def fail(self, error: Exception) -> None:
        """End all subscriptions with an error."""
        for subscription in self.subscriptions:
            subscription.fail(error)
