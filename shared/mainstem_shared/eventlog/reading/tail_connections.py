"""Shards: one dedicated connection each, reading the logs of up to 256 topics with one blocking command.

The loop of a shard is the tailer's hot path: its commands are joined from parts packed once, an entry is
decoded and spelled once however many readers it has. Made and fed by `tailer.Tailer`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import Any, Final, NamedTuple

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from mainstem_shared import errors
from mainstem_shared.eventlog.reading import log_pages, subscriptions
from mainstem_shared.eventlog.reading.followed_runs import Topic
from mainstem_shared.model import events
from mainstem_shared.store import raw_connections
from mainstem_shared.store.client import FIRST_DELAY_S, LONGEST_DELAY_S
from mainstem_shared.store.raw_connections import Pipe, Reply

logger = logging.getLogger(__name__)

KEYS: Final = 256
"""Logs per connection: a wake-up of a blocked client costs the server time for every key it waits for."""
GAP_S: Final = 0.001
GAP_PER_KEY_S: Final = 20e-6
"""Least time between two reads of a busy shard: events gather, and a read costs by keys, not by events."""
BLOCK_MS: Final = 2000
IDLE_S: Final = 2.0
"""Silence after which a log is looked at: an empty read proves nothing."""
SLACK_S: Final = 5.0
"""How much later than promised a reply may come before the connection counts as dead."""
LINGER_S: Final = 30.0
"""How long a shard without topics keeps its connection."""
ENTRIES: Final = 64
"""Entries per log and read: one busy run must not fill the reply."""

_XREAD: Final = b"".join(
    map(raw_connections.bulk, (b"XREAD", b"COUNT", b"%d" % ENTRIES, b"BLOCK", b"%d" % BLOCK_MS, b"STREAMS"))
)


class _Keys(NamedTuple):
    """The part of a read that stays the same until a topic comes or goes."""

    topics: list[Topic]
    by_key: dict[bytes, Topic]
    packed: bytes


class Shard:
    """One connection and its topics. `run` is its task; everything else is synchronous."""

    def __init__(self, url: str, wake_key: str) -> None:
        self.url = url
        self.wake_key = wake_key
        self.topics: dict[bytes, Topic] = {}
        self.blocked = False
        """A read is under way that does not know the newest topics: somebody must write to `wake_key`."""
        self.events = 0
        self.reads = 0
        self._keys: _Keys | None = None
        self._woken_at = b"0-0"
        self._occupied = asyncio.Event()
        self._reading = False
        self._looked = 0.0
        self._away_since: float | None = None
        self._delay = FIRST_DELAY_S
        self._retired = False

    @property
    def has_room(self) -> bool:
        return not self._retired and len(self.topics) < KEYS

    def add(self, topic: Topic) -> None:
        self.topics[topic.key] = topic
        self._keys = None
        self._occupied.set()
        self.blocked = self._reading

    def remove(self, topic: Topic) -> None:
        if self.topics.get(topic.key) is topic:
            del self.topics[topic.key]
            self._keys = None
        if not self.topics:
            self._occupied.clear()

    async def run(self) -> None:
        """Read until nobody has needed this shard for LINGER_S."""
        while await self._is_needed():
            try:
                pipe = await raw_connections.open_pipe(self.url)
            except (RedisError, OSError, TimeoutError) as error:
                await self._lost(error)
                continue
            try:
                await self._read_on(pipe)
            except (RedisError, TimeoutError) as error:
                await self._lost(error)
            finally:
                pipe.abort()

    async def _is_needed(self) -> bool:
        if not self.topics and not self._retired:
            try:
                async with asyncio.timeout(LINGER_S):
                    await self._occupied.wait()
            except TimeoutError:
                self._retired = not self.topics  # from here on `has_room` is false
        return not self._retired

    async def _lost(self, error: Exception) -> None:
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
            logger.warning(
                "lost the store; readers wait", extra={"action": "tailer_lost_store", "error": repr(error)}
            )
        if now - self._away_since > subscriptions.PATIENCE_S:
            for topic in list(self.topics.values()):
                topic.fail(errors.StoreUnavailable())
        await asyncio.sleep(self._delay * random.uniform(0.5, 1.5))
        self._delay = min(2 * self._delay, LONGEST_DELAY_S)

    async def _read_on(self, pipe: Pipe) -> None:
        load = raw_connections.pack(b"SCRIPT", b"LOAD", log_pages.PAGE.source.encode())
        await _ask(pipe, load, replies=1, timeout_s=SLACK_S)
        # A new connection may lead to a server that restarted with a shorter log: look at every topic.
        await self._look(pipe, list(self.topics.values()))
        self._away_since, self._delay = None, FIRST_DELAY_S
        while await self._is_needed():
            if await self._read_once(pipe):
                await asyncio.sleep(GAP_S + GAP_PER_KEY_S * len(self.topics))
            now = time.monotonic()
            if now - self._looked >= IDLE_S / 2:
                silent = [topic for topic in self.topics.values() if now - topic.heard >= IDLE_S * 0.9]
                await self._look(pipe, silent)

    async def _read_once(self, pipe: Pipe) -> bool:
        known = self._keys = self._keys or self._pack_keys()
        parts = [known.packed, raw_connections.bulk(self._woken_at), *[t.packed_cursor for t in known.topics]]
        self._reading, self.blocked = True, False
        try:
            [reply] = await _ask(pipe, b"".join(parts), replies=1, timeout_s=BLOCK_MS / 1000 + SLACK_S)
        finally:
            self._reading = self.blocked = False
        self.reads += 1
        for key, entries in reply or ():
            topic = known.by_key.get(key)
            if topic is None:
                self._woken_at = entries[-1][0]
            elif self.topics.get(key) is topic:
                self._deliver(topic, entries)
        return bool(reply)

    def _deliver(self, topic: Topic, entries: list[Any]) -> None:
        try:
            self.events += topic.deliver([events.entry(raw_id, fields) for raw_id, fields in entries])
        except Exception as error:  # one run's malformed entry must not stop the other runs of this shard
            logger.exception(
                "cannot read a run's log", extra={"action": "tailer_bad_entry", "run_id": topic.run_id}
            )
            self.remove(topic)
            topic.fail(error)

    def _pack_keys(self) -> _Keys:
        topics = list(self.topics.values())
        names = [self.wake_key.encode(), *[topic.key for topic in topics]]
        head = b"*%d\r\n" % (6 + 2 * len(names))
        packed = b"".join((head, _XREAD, *map(raw_connections.bulk, names)))
        return _Keys(topics=topics, by_key={topic.key: topic for topic in topics}, packed=packed)

    async def _look(self, pipe: Pipe, topics: list[Topic]) -> None:
        """Check silent topics against record and log; one round trip for all of them."""
        self._looked = time.monotonic()
        if not topics:
            return
        commands = b"".join(topic.glance_command for topic in topics)
        replies = await _ask(pipe, commands, replies=len(topics), timeout_s=SLACK_S)
        for topic, reply in zip(topics, replies, strict=True):
            topic.glanced(log_pages.glance(reply))


async def _ask(pipe: Pipe, packed: bytes, *, replies: int, timeout_s: float) -> list[Reply]:
    """Send packed commands and wait for their replies; a refusal or silence counts as a lost connection."""
    answered: asyncio.Future[list[Reply]] = asyncio.get_running_loop().create_future()

    def on_reply(received: list[Reply]) -> None:
        if not answered.done():
            answered.set_result(received)

    pipe.send(packed, on_reply, replies=replies)
    async with asyncio.timeout(timeout_s):
        received = await answered
    if not received:
        raise RedisConnectionError("connection lost before the reply")
    for reply in received:
        if isinstance(reply, Exception):
            raise RedisConnectionError(str(reply)) from reply
    return received
