"""A tail connection reads the logs of up to 256 followed runs with one blocking command.

Its loop is the tailer's hot path: commands are joined from parts that were packed once, an entry is decoded
and encoded once however many readers it has. `tailer.Tailer` makes it and gives it runs.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

from mainstem_shared import errors, transitions
from mainstem_shared.eventlog.reading import subscriptions
from mainstem_shared.eventlog.reading.followed_runs import FollowedRun
from mainstem_shared.model import events
from mainstem_shared.store import raw_connections
from mainstem_shared.store.client import FIRST_DELAY_S, LONGEST_DELAY_S
from mainstem_shared.store.failures import ConnectionLost, RedisError
from mainstem_shared.store.raw_connections import RawConnection, Reply

logger = logging.getLogger(__name__)

KEYS: Final = 256
"""Logs per connection: a wake-up of a blocked client costs the server time for every key it waits for."""
GAP_S: Final = 0.001
GAP_PER_KEY_S: Final = 20e-6
"""Least time between two reads that found events: a read costs by keys, not by events."""
BLOCK_MS: Final = 2000
IDLE_S: Final = 2.0
"""Silence after which a log is peeked at: an empty read proves nothing."""
SLACK_S: Final = 5.0
"""How much later than announced a reply may come before the connection counts as dead."""
LINGER_S: Final = 30.0
"""How long a tail connection without runs stays open."""
ENTRIES: Final = 64
"""Entries per log and read: one busy run must not fill the reply."""

_XREAD: Final = b"".join(
    map(raw_connections.bulk, (b"XREAD", b"COUNT", b"%d" % ENTRIES, b"BLOCK", b"%d" % BLOCK_MS, b"STREAMS"))
)


class _Keys(NamedTuple):
    """The part of a read that stays the same until a run comes or goes."""

    followed_runs: list[FollowedRun]
    by_key: dict[bytes, FollowedRun]
    packed: bytes


class TailConnection:
    """One connection and its followed runs. `run` is its task; everything else is synchronous."""

    def __init__(
        self, url: str, wake_key: str, *, on_lost: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """`on_lost` is awaited when the server does not answer: its slots may be another server's."""
        self.url = url
        self._on_lost = on_lost
        self.wake_key = wake_key
        self.followed_runs: dict[bytes, FollowedRun] = {}
        self.blocked = False
        """A read is under way that does not know the newest runs: somebody must write to `wake_key`."""
        self.events = 0
        self.reads = 0
        self._keys: _Keys | None = None
        self._woken_at = b"0-0"
        self._occupied = asyncio.Event()
        self._reading = False
        self._peeked_at = 0.0
        self._unavailable_since: float | None = None
        self._delay = FIRST_DELAY_S
        self._retired = False

    @property
    def has_room(self) -> bool:
        return not self._retired and len(self.followed_runs) < KEYS

    def add(self, followed: FollowedRun) -> None:
        self.followed_runs[followed.key] = followed
        self._keys = None
        self._occupied.set()
        self.blocked = self._reading

    def remove(self, followed: FollowedRun) -> None:
        if self.followed_runs.get(followed.key) is followed:
            del self.followed_runs[followed.key]
            self._keys = None
        if not self.followed_runs:
            self._occupied.clear()

    async def run(self) -> None:
        """Read until nobody has needed this connection for LINGER_S."""
        while await self._is_needed():
            try:
                connection = await raw_connections.open_raw_connection(self.url)
            except (RedisError, OSError, TimeoutError) as error:
                await self._lost(error)
                continue
            try:
                await self._read_on(connection)
            except (RedisError, TimeoutError) as error:
                await self._lost(error)
            finally:
                connection.abort()

    async def _is_needed(self) -> bool:
        if not self.followed_runs and not self._retired:
            try:
                async with asyncio.timeout(LINGER_S):
                    await self._occupied.wait()
            except TimeoutError:
                self._retired = not self.followed_runs  # from here on `has_room` is false
        return not self._retired

    async def _lost(self, error: Exception) -> None:
        now = time.monotonic()
        if self._unavailable_since is None:
            self._unavailable_since = now
            logger.warning(
                "lost the store; readers wait", extra={"action": "tailer_lost_store", "error": repr(error)}
            )
        if now - self._unavailable_since > subscriptions.PATIENCE_S:
            for followed in list(self.followed_runs.values()):
                followed.fail(errors.StoreUnavailable())
        if self._on_lost is not None:
            await self._on_lost()
        await asyncio.sleep(self._delay * random.uniform(0.5, 1.5))
        self._delay = min(2 * self._delay, LONGEST_DELAY_S)

    async def _read_on(self, connection: RawConnection) -> None:
        load = raw_connections.pack(b"SCRIPT", b"LOAD", transitions.PAGE.source.encode())
        await ask(connection, load, replies=1, timeout_s=SLACK_S)
        # A new connection may lead to a server that restarted with a shorter log: look at every run.
        await self._peek(connection, list(self.followed_runs.values()))
        self._unavailable_since, self._delay = None, FIRST_DELAY_S
        while await self._is_needed():
            if await self._read_once(connection):
                await asyncio.sleep(GAP_S + GAP_PER_KEY_S * len(self.followed_runs))
            now = time.monotonic()
            if now - self._peeked_at >= IDLE_S / 2:
                silent = [
                    followed
                    for followed in self.followed_runs.values()
                    if now - followed.heard >= IDLE_S * 0.9
                ]
                await self._peek(connection, silent)

    async def _read_once(self, connection: RawConnection) -> bool:
        known = self._keys = self._keys or self._pack_keys()
        parts = [
            known.packed,
            raw_connections.bulk(self._woken_at),
            *[t.packed_cursor for t in known.followed_runs],
        ]
        self._reading, self.blocked = True, False
        try:
            [reply] = await ask(connection, b"".join(parts), replies=1, timeout_s=BLOCK_MS / 1000 + SLACK_S)
        finally:
            self._reading = self.blocked = False
        self.reads += 1
        for key, entries in reply or ():
            followed = known.by_key.get(key)
            if followed is None:
                self._woken_at = entries[-1][0]
            elif self.followed_runs.get(key) is followed:
                self._deliver(followed, entries)
        return bool(reply)

    def _deliver(self, followed: FollowedRun, entries: list[Any]) -> None:
        try:
            self.events += followed.deliver([events.entry(raw_id, fields) for raw_id, fields in entries])
        except (
            Exception
        ) as error:  # one run's malformed entry must not stop the other runs of this connection
            logger.exception(
                "cannot read a run's log", extra={"action": "tailer_bad_entry", "run_id": followed.run_id}
            )
            self.remove(followed)
            followed.fail(error)

    def _pack_keys(self) -> _Keys:
        followed_runs = list(self.followed_runs.values())
        names = [self.wake_key.encode(), *[followed.key for followed in followed_runs]]
        head = b"*%d\r\n" % (6 + 2 * len(names))
        packed = b"".join((head, _XREAD, *map(raw_connections.bulk, names)))
        return _Keys(
            followed_runs=followed_runs,
            by_key={followed.key: followed for followed in followed_runs},
            packed=packed,
        )

    async def _peek(self, connection: RawConnection, followed_runs: list[FollowedRun]) -> None:
        """Check silent runs against record and log; one round trip for all of them."""
        self._peeked_at = time.monotonic()
        if not followed_runs:
            return
        commands = b"".join(followed.peek_command for followed in followed_runs)
        replies = await ask(connection, commands, replies=len(followed_runs), timeout_s=SLACK_S)
        for followed, reply in zip(followed_runs, replies, strict=True):
            followed.peeked(transitions.peeked(reply))


async def ask(
    connection: RawConnection,
    packed: bytes,
    *,
    replies: int,
    timeout_s: float,
    allow: Callable[[str], bool] = lambda _: False,
) -> list[Reply]:
    """Send packed commands and wait for their replies.

    Silence counts as a lost connection, and so does a refusal, unless the caller allows it.
    """
    answered: asyncio.Future[list[Reply]] = asyncio.get_running_loop().create_future()

    def on_reply(received: list[Reply]) -> None:
        if not answered.done():
            answered.set_result(received)

    connection.send(packed, on_reply, replies=replies)
    async with asyncio.timeout(timeout_s):
        received = await answered
    if not received:
        raise ConnectionLost("connection lost before the reply")
    for reply in received:
        if isinstance(reply, Exception) and not allow(str(reply)):
            raise ConnectionLost(str(reply)) from reply
    return received
