"""A node writer sends the events of all runs of one server over one connection, in groups.

It decides when groups go out (`pacing`), keeps the connection, and on every reconnect asks the log of each
run what became of it. `writer.Writer` makes one for each server, and gives a run to another one when its slot
has moved. What a run's events go through is in `channels`.
"""

# what clients and providers send is checked by models or by hand, not by types.
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from mainstem_shared import errors, transitions
from mainstem_shared.eventlog.writing.channels import Channel, Phase
from mainstem_shared.eventlog.writing.groups import Group
from mainstem_shared.eventlog.writing.pacing import Pace
from mainstem_shared.model import ids, jsontext
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.snapshot_pacing import Patch
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys, raw_connections
from mainstem_shared.store.client import FIRST_DELAY_S, LONGEST_DELAY_S, Store
from mainstem_shared.store.failures import RedisError

logger = logging.getLogger(__name__)

BATCH: Final = 256
"""Channels sent in one go: then other work of the loop has its turn."""
STALL_S: Final = 10.0
"""A connection whose oldest command waits so long is given up: the server may have been replaced."""
RETRY_S: Final = 0.2
ON_ITS_WAY_S: Final = 0.03
"""Pause before a run is looked for again whose bucket is on its way to another shard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """A run's whole state, written as the first entry of a new epoch by the owner that had `control`."""

    control: transitions.Control
    nonce: str
    state: bytes
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterContext:
    """What the node writers of a process share: the store, the settings, and the writer's callbacks."""

    store: Store
    settings: Settings
    pace: Pace
    may_write: Callable[[], bool]
    on_suspended: Callable[[], None]
    on_reached: Callable[[], None]
    before_probing: Callable[[], Awaitable[None]] | None
    on_repaired: Callable[[Repair], None]
    """Called with what was written anew of a run whose acknowledged events were lost."""
    on_connection: Callable[[], None]
    """Called when a connection is there, or is lost."""
    on_unreachable: Callable[[NodeWriter], None]
    """Called when a server cannot be reached: its runs may be another server's by now."""
    has_run_of: Callable[[NodeWriter, Channel], bool]
    """Whether a writer's server has the run of a channel, as far as is known."""
    on_homeless: Callable[[Channel], None]
    """Called with a channel in doubt whose run may be another server's: to be probed there."""


class NodeWriter:
    """Carries the channels of one server. `start` and `stop` frame its life on one loop."""

    def __init__(self, url: str, context: WriterContext) -> None:
        self.url = url
        self._context = context
        self._channels: dict[Channel, bytes] = {}
        self._announces = context.store.topology.by_slot
        """Whether followers are woken: nobody can wait for logs of several slots."""
        self._dirty: dict[Channel, None] = {}
        self._timer: asyncio.Handle | None = None
        self._connection: raw_connections.RawConnection | None = None
        self._refused = False
        self._keeper: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.is_connected = False
        self.groups_sent = 0
        self.bytes_sent = 0

    def start(self) -> None:
        """Begin to connect; events are accepted at once and wait for the connection."""
        self._keep()

    def _keep(self) -> None:
        self._keeper = asyncio.create_task(self._keep_connected(), name="mainstem-writer")
        self._keeper.add_done_callback(self._keeper_ended)

    def _keeper_ended(self, keeper: asyncio.Task[None]) -> None:
        if keeper is not self._keeper:
            return  # stopped
        failure = None if keeper.cancelled() else keeper.exception()
        noted = {"action": "writer_keeper_ended"}
        logger.critical("the writer's connection was let go; taking it up", extra=noted, exc_info=failure)
        if self._connection is not None:
            self._connection.abort()
            self._connection = None
            self._connected(is_connected=False)
        self._probe_all()
        asyncio.get_running_loop().call_later(RETRY_S, self._keep)

    async def stop(self) -> None:
        """Close the connection. Channels must have been closed before: what they hold is dropped."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for channel in list(self._channels):
            channel.discard()  # whoever still waits for it is told
        if self._timer is not None:
            self._timer.cancel()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
            await connection.lost

    @property
    def channels(self) -> list[Channel]:
        """The runs whose events it carries."""
        return list(self._channels)

    @property
    def is_idle(self) -> bool:
        """Whether nothing would be lost with it."""
        return not self._channels and not self._tasks

    def take(self, channel: Channel) -> None:
        """Carry a channel from now on."""
        wake = keys.appended(channel.control.run_id) if self._announces else b""
        self._channels[channel] = raw_connections.pack(b"SPUBLISH", wake, b"") if wake else b""
        channel.writer = self

    def give_up(self) -> None:
        """Drop the connection: the server has nothing of this store any more."""
        if self._connection is not None:
            self._connection.abort()

    # -- sending

    def mark(self, channel: Channel) -> None:
        self._dirty[channel] = None
        if self._timer is None:
            self._timer = self._schedule()

    def _schedule(self) -> asyncio.Handle:
        loop = asyncio.get_running_loop()
        window = self._context.pace.window_s
        return loop.call_later(window, self._send) if window else loop.call_soon(self._send)

    def _send(self) -> None:
        self._timer = None
        if self._connection is None:
            return  # every channel is probed and marked when the connection is back
        if not self._context.may_write():
            self._context.on_suspended()
            if self._dirty:
                self._timer = asyncio.get_running_loop().call_later(RETRY_S, self._send)
            return
        batch = list(self._dirty)[:BATCH]
        packed: list[bytes] = []
        for channel in batch:
            del self._dirty[channel]
            group = self._group_of(channel)
            if group is not None:
                packed.append(group.packed)
                self._connection.expect(channel.replied, replies=group.replies)
        groups = len(packed)
        if packed:
            if self._announces:
                self._announce(batch, packed)
            data = b"".join(packed)
            self._connection.write(data)
            self.groups_sent += groups
            self.bytes_sent += len(data)
        self._context.pace.measure(groups)
        if self._dirty:
            self._timer = (
                self._schedule() if len(batch) < BATCH else asyncio.get_running_loop().call_soon(self._send)
            )

    def _announce(self, batch: list[Channel], packed: list[bytes]) -> None:
        """Wake the followers of the buckets of a batch, once each, after its groups."""
        wakes = {wake for channel in batch if (wake := self._channels.get(channel))}
        packed += wakes
        assert self._connection is not None
        self._connection.expect(_ignore, replies=len(wakes))

    @staticmethod
    def _group_of(channel: Channel) -> Group | None:
        try:
            return channel.next_group() if channel.ready else None
        except Exception as error:
            # A run whose events cannot be encoded must not take the others with it: replies are matched to
            # runs by their order alone.
            logger.exception(
                "cannot encode a run's events; dropping the run",
                extra={"action": "encode_failed", "run_id": channel.control.run_id},
            )
            channel.lose(error)
            return None

    def retry_later(self, channel: Channel) -> None:
        def again() -> None:
            if channel.phase is Phase.WAITING:
                channel.again()

        logger.warning(
            "the store refuses writes; events wait",
            extra={"action": "write_refused", "run_id": channel.control.run_id},
        )
        asyncio.get_running_loop().call_later(RETRY_S * random.uniform(0.5, 1.5), again)

    # -- connection

    async def _keep_connected(self) -> None:
        delay = FIRST_DELAY_S
        while True:
            self._refused = True
            try:
                connection = await raw_connections.open_to_primary(self.url)
            except (RedisError, OSError, TimeoutError) as error:
                logger.warning(
                    "cannot reach the store; events wait",
                    extra={"action": "writer_connect_failed", "error": repr(error)},
                )
                self._context.on_unreachable(self)
            else:
                await self._carry_over(connection)
            if not self._refused:
                delay = FIRST_DELAY_S
                continue
            await asyncio.sleep(delay * random.uniform(0.5, 1.5))
            delay = min(2 * delay, LONGEST_DELAY_S)

    async def _carry_over(self, connection: raw_connections.RawConnection) -> None:
        """Send over one connection until it is lost, or leads to a server that takes no writes."""
        self._connection, self._refused = connection, False
        self._context.on_reached()
        if (repair := self._context.before_probing) is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(repair(), STALL_S)
        self._probe_all()
        self._connected(is_connected=True)
        await self._until_lost(connection)
        self._connection = None
        self._connected(is_connected=False)
        self._probe_all()
        self._context.on_unreachable(self)

    def _connected(self, *, is_connected: bool) -> None:
        self.is_connected = is_connected
        self._context.on_connection()

    def _probe_all(self) -> None:
        for channel in list(self._channels):
            self.probe(channel)

    async def _until_lost(self, connection: raw_connections.RawConnection) -> None:
        while not connection.lost.done():
            await asyncio.wait({connection.lost}, timeout=1.0)
            if connection.silence_s > STALL_S:
                logger.warning("the store is silent; reconnecting", extra={"action": "writer_stalled"})
                connection.abort()

    def probe(self, channel: Channel) -> None:
        if channel.phase in (Phase.RESYNC, Phase.LOST):
            return
        channel.phase = Phase.PROBING
        if self._connection is None:
            return  # the next connection asks
        if not self._context.has_run_of(self, channel):
            self.moved(channel, delay_s=ON_ITS_WAY_S)
            return
        channel.question = question = object()

        def on_reply(replies: list[raw_connections.Reply]) -> None:
            if channel.question is not question or channel.phase is not Phase.PROBING or not replies:
                return  # no reply: the next connection asks again; another question: another server is asked
            if channel not in self._channels:
                return  # closed: its run's end is not a loss
            found = transitions.probed(channel.control.run_id, replies)
            if found is None:
                self.moved(channel, delay_s=RETRY_S)
                return
            channel.probed(found)

        command = transitions.probe_command(channel.control.run_id)
        self._connection.send(command, on_reply, replies=transitions.PROBE_REPLIES)

    def moved(self, channel: Channel, *, delay_s: float = 0.0) -> None:
        """Have a channel probed that is in doubt, by the server that has its run then."""

        def again() -> None:
            if channel.phase is Phase.PROBING:
                self._context.on_homeless(channel)

        asyncio.get_running_loop().call_later(delay_s, again)

    # -- verbs on behalf of channels

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("the writer failed a run", extra={"action": "writer_failed"}, exc_info=error)

    def reconnect(self) -> None:
        self._refused = True  # not at once: the next server may refuse as well
        if self._connection is not None:
            self._connection.abort()

    def resync(self, channel: Channel) -> None:
        self._spawn(self._resync(channel))

    async def _resync(self, channel: Channel) -> None:
        logger.error(
            "the store lost acknowledged events; writing the whole state again",
            extra={"action": "resync", "run_id": channel.control.run_id},
        )
        self._context.on_reached()
        nonce = ids.nonce()
        while channel.phase is Phase.RESYNC:
            control = channel.control
            try:
                state = jsontext.dumps(channel.fold.dump())
                outcome = await transitions.resync(
                    self._context.store,
                    control,
                    nonce=nonce,
                    state=state,
                    live_ttl_ms=self._context.settings.live_ttl_ms,
                )
            except errors.StoreUnavailable:
                continue
            except ValueError as error:  # the state cannot be encoded
                channel.lose(error)
                break
            if isinstance(outcome, int):
                self._context.on_repaired(Repair(control=control, nonce=nonce, state=state, epoch=outcome))
                channel.resynced(outcome, nonce=nonce)
                channel.writer.probe(channel)
            elif isinstance(outcome, transitions.Refused):  # taken, or set back once more: its record tells
                channel.phase = Phase.PROBING
                channel.writer.probe(channel)
            else:
                channel.lose()

    def snapshot(self, channel: Channel, cursor: Cursor, state: bytes) -> None:
        self._spawn(self._snapshot(channel, cursor, state))

    async def _snapshot(self, channel: Channel, cursor: Cursor, state: bytes) -> None:
        stored = False
        try:
            stored = await transitions.snapshot(
                self._context.store,
                channel.control,
                cursor=cursor,
                state=state,
                live_ttl_ms=self._context.settings.live_ttl_ms,
            )
        except errors.StoreUnavailable:
            pass  # a snapshot saves memory and time, it is not required: the next one will do
        finally:
            channel.snapshotted(stored=stored)

    def patch(self, channel: Channel, cursor: Cursor, text: bytes, patch: Patch) -> None:
        """Extend the stored snapshot, over the connection of the events: a tenth of a verb's cost."""
        if self._connection is None:
            channel.snapshotted(stored=False)
            return

        def on_reply(replies: list[raw_connections.Reply]) -> None:
            # Refused, unknown, or the server lost its scripts: the next snapshot is a whole one.
            reply = replies[0] if replies else None
            channel.snapshotted(stored=isinstance(reply, list) and reply[0] == b"stored")

        ttl_ms = self._context.settings.live_ttl_ms
        command = transitions.snapshot_command(channel.control, cursor, text, patch, live_ttl_ms=ttl_ms)
        self._connection.send(command, on_reply)

    def forget(self, channel: Channel) -> None:
        self._channels.pop(channel, None)
        self._dirty.pop(channel, None)


def _ignore(replies: list[raw_connections.Reply]) -> None:
    """Take replies that nobody needs: followers that were not woken look by themselves."""
