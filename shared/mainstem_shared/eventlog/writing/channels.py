"""A channel carries one run's events into its log: it merges, encodes, and learns what became of each group.

A channel belongs to the segment that claimed the run; the process's one `writer` moves its bytes. Written
down as a state machine before it was code:

    OPEN ──encode──▶ IN_FLIGHT ──acknowledged──▶ OPEN
      ▲                 │ refused for want of memory, disk or rights: WAITING, then the same bytes again
      │                 │ connection lost, no primary, moved, or "equal or smaller": outcome unknown
      │                 ▼
      │              PROBING: the record and the log's top entry decide (also idle channels, after reconnects)
      ├── landed ───────┤
      ├── not there ────┤ the same bytes again
      │                 ├── another's control: LOST (fenced; cancel the engine, write nothing more)
      │                 └── an acknowledged tail is missing: RESYNC
      └── new epoch ◀── RESYNC: the whole fold, as a verb; refused: LOST

Ids and bytes are fixed when a group is encoded. At most one group is in flight: one XADD, or MULTI/EXEC
for several, so that no error in the middle can leave a hole.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from enum import Enum, auto
from typing import Any, Final, Protocol

from mainstem_shared import errors, transitions
from mainstem_shared.eventlog.writing.groups import Delta, Event, Group, deltas_of, failure_of, release
from mainstem_shared.model import contents, events, jsontext
from mainstem_shared.model.contents import PART_SIZE, Content, type_of_delta, utf8_size
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.events import Type
from mainstem_shared.model.snapshot_pacing import Patch, Snapshots
from mainstem_shared.store import failures, keys, raw_connections

BUFFER_LIMIT: Final = 128 * 1024
"""Bytes a run may have waiting before its engine is slowed down."""
GROUP_LIMIT: Final = 256 * 1024
"""Bytes of payload after which a group is full."""
ENTRY_OVERHEAD: Final = 16
"""Bytes a stream entry takes beside its payload; an estimate for pacing snapshots."""

_NOMKSTREAM: Final = raw_connections.bulk(b"NOMKSTREAM")
_MULTI: Final = raw_connections.pack(b"MULTI")
_EXEC: Final = raw_connections.pack(b"EXEC")


class Phase(Enum):
    """Where a channel is in the state machine of this module's docstring."""

    OPEN = auto()
    IN_FLIGHT = auto()
    WAITING = auto()
    PROBING = auto()
    RESYNC = auto()
    LOST = auto()


_UNCERTAIN: Final = frozenset({Phase.PROBING, Phase.RESYNC})  # what the log holds is unknown: flushing waits

# Looking up an enum's member, or making a frozen dataclass, costs what a step of a token's way may cost: the
# states that every token passes through have names of their own, and groups are tuples.
_OPEN: Final = Phase.OPEN
_IN_FLIGHT: Final = Phase.IN_FLIGHT
_LOST: Final = Phase.LOST
_FIELDS: Final = {kind: raw_connections.bulk(events.field(kind).encode()) for kind in type_of_delta}


class ChannelWriter(Protocol):
    """What a channel needs of the writer that carries it."""

    @property
    def url(self) -> str:
        """The address of the server that it writes to."""
        ...

    def moved(self, channel: Channel) -> None:
        """Have a channel in doubt probed by the server that has its run by now."""
        ...

    def mark(self, channel: Channel) -> None:
        """Note that the channel has something to send."""
        ...

    def retry_later(self, channel: Channel) -> None:
        """Send the channel's group again after a delay."""
        ...

    def probe(self, channel: Channel) -> None:
        """Ask for the top entry of the channel's log, and for who has control."""
        ...

    def reconnect(self) -> None:
        """Give the connection up: it leads to a server that no longer takes writes."""
        ...

    def resync(self, channel: Channel) -> None:
        """Write the channel's fold as a new epoch."""
        ...

    def snapshot(self, channel: Channel, cursor: Cursor, state: bytes) -> None:
        """Store a snapshot, off the channel's path; `channel.snapshotted` with what became of it."""
        ...

    def patch(self, channel: Channel, cursor: Cursor, text: bytes, patch: Patch) -> None:
        """Do the same by extending the stored one."""
        ...

    def forget(self, channel: Channel) -> None:
        """Carry the channel no more."""
        ...


class Channel:
    """Emit a run's events. All methods belong to the loop of the writer."""

    def __init__(self, writer: ChannelWriter, control: transitions.Control, fold: Content) -> None:
        self.control = control
        self._former: list[transitions.Control] = []  # what it had before, newest first
        self.fold = fold
        self.phase = Phase.OPEN
        self.acknowledged = Cursor(control.epoch, 0)
        self.group: Group | None = None
        self.on_lost: Callable[[], None] | None = None
        self.failure: Exception | None = None
        self.question: object = None
        """The latest probe: answers to former ones, perhaps of another server, count no more."""
        self.writer = writer
        """Who carries it: another one, when its slot has moved."""
        self._pending: deque[Delta | Event] = deque()
        self._merging: Delta | None = None
        """The last that waits, if the next text of its kind extends it."""
        self._room = events.CONTENT_LIMIT - fold.weight  # bytes that may be buffered
        self._closed = self.snapshot_pending = False
        self.first_emit = 0.0  # when (monotonic) the engine first emitted content; 0: not yet
        self._last_emit = time.monotonic()
        self.buffered = 0  # bytes that wait to be acknowledged
        self._part_kind: Type | None = None
        self._parts, self._keys = len(fold.parts), fold.keys
        self._enqueued = self._acknowledged = 0
        self._flushes: list[tuple[int, asyncio.Future[None]]] = []
        self._drains: list[asyncio.Future[None]] = []
        self._snapshots = Snapshots(fold.size)
        self.key = keys.run(control.run_id).log
        xadd = raw_connections.bulk(b"XADD") + raw_connections.bulk(self.key.encode())
        self._xadd = b"*6\r\n" + xadd + _NOMKSTREAM

    # -- emitting

    def text(self, kind: Type, text: str) -> None:
        """Append to the open part of this kind; a new part begins when the last one is of another kind.

        Raises:
            ChannelClosed, Fenced: the segment must not write (any more).
            ContentTooLarge: the run's content would pass its limit.
        """
        merging = self._merging
        if merging is not None and kind is merging.kind and text:
            # Most tokens take this way: what waits is marked, admitted and of the same part already.
            length = merging.length + len(text)
            size = len(text) if text.isascii() else utf8_size(text)
            if length <= events.MERGE_LIMIT and self.buffered + size <= self._room:
                merging.pieces.append(text)
                merging.length = length
                merging.size += size
                self.buffered += size
                self._last_emit = time.monotonic()
                return
        self._append(kind, text)

    def _append(self, kind: Type, text: str) -> None:
        """Append a text as deltas of its own."""
        weight = size = utf8_size(text)
        if kind is not self._part_kind and self._parts:
            weight += PART_SIZE  # a million tiny parts are not tiny as a whole
        self._admit(weight)
        if not text:
            self._last_emit = time.monotonic()
            return  # an empty delta opens no part: its number would be taken, but no entry would say so
        if kind is not self._part_kind:
            self.first_emit = self.first_emit or time.monotonic()
            self._part_kind = kind
            self._parts += 1
        deltas = deltas_of(kind, self._parts - 1, text, size)
        self._pending.extend(deltas)
        self._enqueued += len(deltas)
        self._merging = deltas[-1]
        self._emitted(weight)

    def emit(self, kind: str, payload: dict[str, Any]) -> None:
        """Append any other event.

        Raises:
            ChannelClosed, Fenced: the segment must not write (any more).
            EventTooLarge, ContentTooLarge: the event or the run's content would pass its limit.
            ValueError: no fold could take the payload.
        """
        data = events.check_size(jsontext.dumps(payload))
        decoded = contents.check(kind, jsontext.checked(data))
        weight = contents.weight_of(kind, decoded, len(data))
        self._admit(weight)
        if (key := contents.opened_by(kind, decoded)) is not None:
            self._opens(key)
        elif kind == Type.INPUT_ACCEPTED:
            self._part_kind = None  # what follows is another part: readers can tell its place
        self._pending.append(Event(kind=kind, data=data, payload=decoded, weight=weight))
        self._merging = None
        self._enqueued += 1
        self._emitted(weight)

    def _opens(self, key: tuple[str, str]) -> None:
        if key not in self._keys:
            self.first_emit = self.first_emit or time.monotonic()
            self._keys.add(key)
            self._parts += 1
            self._part_kind = None

    def _admit(self, size: int) -> None:
        if self.phase is _LOST:
            raise errors.Fenced(run_id=self.control.run_id)
        if self._closed:
            raise errors.ChannelClosed
        if self.buffered + size > self._room:
            raise errors.ContentTooLarge(limit=events.CONTENT_LIMIT)

    def _emitted(self, size: int) -> None:
        self.buffered += size
        self._last_emit = time.monotonic()
        if self.phase is _OPEN:
            self.writer.mark(self)

    @property
    def last_emit(self) -> float:
        """When (monotonic) the engine last emitted; now, while it waits for the store: that is no silence."""
        if any(not waiter.done() for waiter in (*self._drains, *(waiter for _, waiter in self._flushes))):
            return time.monotonic()
        return self._last_emit

    @property
    def idle(self) -> bool:
        """Whether everything emitted is acknowledged: silence is then the engine's, not the store's."""
        return self._acknowledged == self._enqueued

    @property
    def congested(self) -> bool:
        """Whether the engine should wait (`drained`) before it emits more."""
        return self.buffered > BUFFER_LIMIT

    async def drained(self) -> None:
        """Wait until the buffer has room again.

        Raises:
            Fenced: the run was lost meanwhile.
        """
        while self.congested:
            self._raise_if_lost()
            waiter = asyncio.get_running_loop().create_future()
            self._drains.append(waiter)
            await waiter
        self._last_emit = time.monotonic()
        self._raise_if_lost()

    async def flush(self) -> Cursor:
        """Wait until everything emitted so far is acknowledged; return the log's top.

        While the connection is unavailable this waits even if nothing is pending: what was acknowledged may
        be gone when the store is back, and then `control` and the log's top are others.

        Raises:
            Fenced: the run was lost meanwhile.
        """
        self._raise_if_lost()
        if self._acknowledged < self._enqueued or self.phase in _UNCERTAIN:
            waiter = asyncio.get_running_loop().create_future()
            self._flushes.append((self._enqueued, waiter))
            await waiter
            self._last_emit = time.monotonic()
        self._raise_if_lost()
        return self.acknowledged

    def _raise_if_lost(self) -> None:
        if self.phase is _LOST:
            raise errors.Fenced(run_id=self.control.run_id)

    async def complete(self) -> Cursor:
        """Refuse further events, and flush; afterwards `fold` covers the returned cursor.

        The writer looks after it until `leave`. Raises as `flush`.
        """
        self._closed, self._merging = True, None
        return await self.flush()

    async def verified(self) -> Cursor:
        """Ask the store who has control now, and return the log's top, as `flush` does: both may be new."""
        if self.phase is _OPEN:
            self.writer.probe(self)
        return await self.flush()

    def leave(self) -> None:
        """Leave the writer: what becomes of the run is no longer this channel's."""
        self.writer.forget(self)

    async def close(self) -> Cursor:
        """Complete the channel, and leave the writer. Raises as `flush`."""
        try:
            return await self.complete()
        finally:
            self.leave()

    def discard(self) -> None:
        """Drop what is not sent and leave the writer: for a segment that must write nothing more."""
        self._closed = True
        self.on_lost = None  # the caller knows
        self.lose()

    # -- sending (called by the writer)

    @property
    def ready(self) -> bool:
        """Whether a group may be sent now."""
        return self.phase is _OPEN and (self.group is not None or bool(self._pending))

    def next_group(self) -> Group:
        """Return the group to send: the one that must go again, or a new one, encoded and folded now."""
        group = self.group
        if group is None:
            group = self.group = self._encode()
        self.phase = _IN_FLIGHT
        return group

    def _encode(self) -> Group:
        cursor, commands, size = self.acknowledged, list[bytes](), 0
        pending = self._pending
        while pending and size < GROUP_LIMIT:
            item = pending.popleft()
            cursor = Cursor(cursor.epoch, cursor.seq + 1)
            field, data = self._folded(item)
            size += len(data)
            cid = b"%d-%d" % cursor
            commands.append(
                b"%b$%d\r\n%b\r\n%b$%d\r\n%b\r\n" % (self._xadd, len(cid), cid, field, len(data), data)
            )
        self._room = events.CONTENT_LIMIT - self.fold.weight
        if not pending:
            self._merging = None
        items = len(commands)
        if items == 1:
            return Group(commands[0], 1, 1, cursor, size + ENTRY_OVERHEAD)
        packed = b"".join((_MULTI, *commands, _EXEC))
        return Group(packed, items + 2, items, cursor, size + items * ENTRY_OVERHEAD)

    def _folded(self, item: Delta | Event) -> tuple[bytes, bytes]:
        """Fold an item now that it is sent; returns its packed field and its payload."""
        if isinstance(item, Delta):
            text = item.pieces[0] if len(item.pieces) == 1 else "".join(item.pieces)
            size = item.size
            if 0 < len(self.fold.parts) <= item.part:
                self.buffered -= PART_SIZE  # it opens a part
            self.fold.append_text(type_of_delta[item.kind], item.part, text, size=size)
            self.buffered -= size
            encoded = jsontext.dumps(text)
            self._snapshots.text(item.part, encoded)
            return _FIELDS[item.kind], b'{"part":%d,"text":%b}' % (item.part, encoded)
        self.fold.apply(item.kind, item.payload)
        self._snapshots.other()
        self.buffered -= item.weight
        return raw_connections.bulk(events.field(item.kind).encode()), item.data

    # -- outcomes (called by the writer)

    def replied(self, replies: list[raw_connections.Reply]) -> None:
        """Take the server's answer to the group in flight; no replies at all: the outcome is unknown."""
        if self.phase is not _IN_FLIGHT:
            return
        if not replies:
            self.phase = Phase.PROBING  # the writer probes every channel when it is connected again
            return
        failure = failure_of(replies)
        if failure is None:
            self.landed()
        elif failure == "" or "equal or smaller" in failure:
            self.writer.probe(self)
        elif failures.is_elsewhere(failure):
            self.phase = Phase.PROBING  # a fail-over: the new primary is behind another connection
            self.writer.reconnect()
        elif failures.has_moved(failure):
            self.phase = Phase.PROBING
            self.writer.moved(self)
        else:
            self.phase = Phase.WAITING
            self.writer.retry_later(self)

    def landed(self) -> None:
        """The group is in the log."""
        group = self.group
        if group is not None:
            self.acknowledged = group.last
            self._acknowledged += group.items
            self._snapshots.log += group.size
            self.group = None
        self._open()

    def _open(self) -> None:
        self.phase = _OPEN
        if self._flushes:
            release([waiter for target, waiter in self._flushes if target <= self._acknowledged])
            self._flushes = [waiting for waiting in self._flushes if waiting[0] > self._acknowledged]
        if self._drains and not self.congested:
            release(self._drains)
        if self._snapshots.log > self._snapshots.due and self._may_snapshot():
            self._take_snapshot()
        if self._pending or self.group is not None:
            self.writer.mark(self)

    def _may_snapshot(self) -> bool:
        return self.group is None and not self.snapshot_pending and not self._closed

    def _take_snapshot(self) -> None:
        try:
            due = self._snapshots.take(self.acknowledged, self.fold)
        except ValueError as error:  # in the middle of a reply: other runs' replies must not be lost with it
            due = self.lose(error)
        if due is None:
            return
        self.snapshot_pending = True
        if due.patch is None:
            self.writer.snapshot(self, self.acknowledged, due.state)
        else:
            self.writer.patch(self, self.acknowledged, due.state, due.patch)

    def snapshotted(self, *, stored: bool) -> None:
        """Take what became of the snapshot under way."""
        self.snapshot_pending = False
        self._snapshots.stored(stored)

    def again(self) -> None:
        """Send the same bytes again: they are known not to have landed."""
        self.phase = Phase.OPEN
        self._open()

    def probed(self, found: transitions.Probe) -> None:
        """Decide what became of the run, by its record, and of the group in flight, by the log's top entry.

        Ids alone do not tell: a server that lost its last writes may have given them to somebody else.
        And what somebody without control appended takes no run from its owner, who writes the fold anew.
        """
        held = self._held(found.control)
        if held is None:
            self.lose()
        elif held is not self.control:  # the store lost a repair: nobody has had the run since
            self._take(held)
            self._repair()
        elif self.group is not None and found.top == self.group.last:
            self.landed()
        elif found.top == self.acknowledged:
            self.again()
        else:
            self._repair()

    def _held(self, recorded: transitions.Control | None) -> transitions.Control | None:
        """Return the control that this channel has, or had before a repair, if it is the recorded one."""
        mine = (self.control, *(former for former in self._former if former.nonce))
        return next((one for one in mine if recorded is not None and recorded.is_held_by(one)), None)

    def _take(self, control: transitions.Control) -> None:
        """Have another control; the present one may be what the record says again."""
        self._former.insert(0, self.control)
        self.control = control

    def _repair(self) -> None:
        self.phase = Phase.RESYNC
        self.writer.resync(self)

    def resynced(self, epoch: int, *, nonce: str = "") -> None:
        """The fold, the group in flight included, is the log's first entry in a new epoch."""
        self._take(replace(self.control, epoch=epoch, nonce=nonce))
        if self.group is not None:
            self._acknowledged += self.group.items
            self.group = None
        self.acknowledged = Cursor(epoch, 0)
        self._snapshots.reset(self.fold.size)
        self._open()

    def lose(self, failure: Exception | None = None) -> None:
        """Drop everything, tell everybody who waits: somebody else has control, or it cannot be written."""
        if self.phase is Phase.LOST:
            return
        self.phase, self.failure = Phase.LOST, failure
        self._pending.clear()
        self._merging = self.group = None
        self.writer.forget(self)
        release([waiter for _, waiter in self._flushes])
        self._flushes.clear()
        release(self._drains)
        if self.on_lost is not None:
            self.on_lost()
