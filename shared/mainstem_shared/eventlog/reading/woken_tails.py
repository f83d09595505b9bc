"""A woken tail reads followed runs of one Cluster node when a message says that their logs have grown.

A blocking read cannot wait for logs of several slots. Whoever appends says so on the channel of the log's
bucket; a connection listens on the channels of all buckets that have a followed run, and what was woken is
read by one command each, in one round trip. A message that was lost costs time, no event: silent logs are
read, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from mainstem_shared import transitions
from mainstem_shared.eventlog.reading.followed_runs import FollowedRun
from mainstem_shared.eventlog.reading.tail_connections import (
    ENTRIES,
    GAP_PER_KEY_S,
    GAP_S,
    IDLE_S,
    SLACK_S,
    TailConnection,
    ask,
)
from mainstem_shared.model.cursors import START
from mainstem_shared.store import failures, keys, raw_connections
from mainstem_shared.store.client import FIRST_DELAY_S
from mainstem_shared.store.failures import ConnectionLost
from mainstem_shared.store.raw_connections import RawConnection, Reply, SubscribedConnection

RETRY_S: Final = 0.1
"""Pause before a log is read again whose slot is on its way to another node."""
_XREAD: Final = (b"XREAD", b"COUNT", b"%d" % ENTRIES, b"STREAMS")


class WokenTail(TailConnection):
    """Two connections to a node, and the followed runs whose slots it has."""

    def __init__(self, url: str, wake_key: str, *, on_lost: Callable[[], Awaitable[None]]) -> None:
        super().__init__(url, wake_key, on_lost=on_lost)
        self._seek = on_lost
        self._listener: SubscribedConnection | None = None
        self._by_channel: dict[bytes, set[FollowedRun]] = {}
        self._woken: dict[FollowedRun, None] = {}
        self._wake_up = asyncio.Event()
        self._told_at = 0.0
        self._is_stale = False

    def add(self, followed: FollowedRun) -> None:
        super().add(followed)
        self.blocked = False
        channel = keys.appended(followed.run_id)
        listening = self._by_channel.setdefault(channel, set())
        listening.add(followed)
        if len(listening) == 1:
            self._subscribe(channel)
        else:
            self._wake(followed)

    def remove(self, followed: FollowedRun) -> None:
        super().remove(followed)
        self._woken.pop(followed, None)
        channel = keys.appended(followed.run_id)
        listening = self._by_channel.get(channel, set())
        listening.discard(followed)
        if not listening and self._by_channel.pop(channel, None) is not None and self._listener is not None:
            self._listener.write(raw_connections.pack(b"SUNSUBSCRIBE", channel))

    def _subscribe(self, channel: bytes) -> None:
        """Listen on a channel; once the node says that it does, the bucket's logs are read."""
        if self._listener is not None:
            self._listener.write(raw_connections.pack(b"SSUBSCRIBE", channel))

    def _wake(self, followed: FollowedRun) -> None:
        self._woken[followed] = None
        self._wake_up.set()

    def _told(self, message: Reply) -> None:
        """Take what the node says on the listening connection."""
        self._told_at = time.monotonic()
        if isinstance(message, Exception):
            self._moved()
            return
        kind, channel, *_ = message
        if kind in (b"smessage", b"ssubscribe"):
            for followed in self._by_channel.get(channel, ()):
                self._wake(followed)
        elif kind == b"sunsubscribe" and channel in self._by_channel:
            self._moved()  # not as asked: the slot is another node's

    def _moved(self) -> None:
        self._is_stale = True
        self._wake_up.set()

    async def _read_on(self, connection: RawConnection) -> None:
        self._listener = listener = await raw_connections.open_subscribed_connection(self.url, self._told)
        try:
            for channel in list(self._by_channel):
                self._subscribe(channel)
            await self._read_woken(connection, listener)
        finally:
            self._listener = None
            listener.abort()

    async def _read_woken(self, connection: RawConnection, listener: SubscribedConnection) -> None:
        load = raw_connections.pack(b"SCRIPT", b"LOAD", transitions.PAGE.source.encode())
        await ask(connection, load, replies=1, timeout_s=SLACK_S)
        self._told_at = time.monotonic()
        await self._check(connection, listener, list(self.followed_runs.values()))
        self._unavailable_since, self._delay = None, FIRST_DELAY_S
        while await self._is_needed():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(IDLE_S / 2):
                    await self._wake_up.wait()
            self._wake_up.clear()
            if self._is_stale:
                self._is_stale = False
                await self._seek()
            if count := await self._read_once_woken(connection):
                await asyncio.sleep(GAP_S + GAP_PER_KEY_S * count)
            now = time.monotonic()
            if now - self._peeked_at >= IDLE_S / 2:
                silent = [run for run in self.followed_runs.values() if now - run.heard >= IDLE_S * 0.9]
                await self._check(connection, listener, silent)

    async def _check(
        self, connection: RawConnection, listener: SubscribedConnection, runs: list[FollowedRun]
    ) -> None:
        """Peek at silent runs and read their logs: a writer's message may have been lost."""
        if listener.lost.done() or time.monotonic() - self._told_at > SLACK_S + IDLE_S:
            raise ConnectionLost("the listening connection is lost")
        listener.write(raw_connections.pack(b"PING"))
        for followed in runs:
            self._wake(followed)
        self._peeked_at = time.monotonic()
        if runs:
            await self._peek_at(connection, runs)

    async def _peek_at(self, connection: RawConnection, runs: list[FollowedRun]) -> None:
        packed = b"".join(followed.peek_command for followed in runs)
        for followed, reply in zip(runs, await self._pipelined(connection, packed, len(runs)), strict=True):
            if self._is_answer(followed, reply):
                followed.peeked(transitions.peeked(reply))

    async def _read_once_woken(self, connection: RawConnection) -> int:
        """Read all logs that were woken; returns how many had something."""
        runs, self._woken = [(run, run.cursor or START) for run in self._woken], {}
        if not runs:
            return 0
        packed = b"".join(raw_connections.pack(*_XREAD, run.key, b"%d-%d" % after) for run, after in runs)
        replies = await self._pipelined(connection, packed, len(runs))
        found = 0
        for (followed, after), reply in zip(runs, replies, strict=True):
            if not self._is_answer(followed, reply) or not reply or followed.cursor != after:
                continue  # refused, nothing new, or read elsewhere meanwhile
            found += 1
            ((_, entries),) = reply
            self._deliver(followed, entries)
            if len(entries) == ENTRIES:
                self._wake(followed)
        self.reads += 1
        return found

    async def _pipelined(self, connection: RawConnection, packed: bytes, count: int) -> list[Any]:
        return await ask(connection, packed, replies=count, timeout_s=SLACK_S, allow=failures.has_moved)

    def _is_answer(self, followed: FollowedRun, reply: Any) -> bool:
        """Tell whether the node still reads this run here; if its slot has moved, it is looked for."""
        if isinstance(reply, Exception):
            self._moved()
            asyncio.get_running_loop().call_later(RETRY_S, self._again, followed)
            return False
        return self.followed_runs.get(followed.key) is followed

    def _again(self, followed: FollowedRun) -> None:
        if self.followed_runs.get(followed.key) is followed:
            self._wake(followed)
