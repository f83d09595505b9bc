"""Transitions of a run's log and snapshot: read as of one moment, page, snapshot, repair, compact.

`read` and `page` are atomic reads of record and log; the others are the owner's verbs, or a sweeper's once
the run is over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from mainstem_shared.model import cursors, events
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.events import Entry
from mainstem_shared.model.record import STATE, Record
from mainstem_shared.model.runs import Spec, Status
from mainstem_shared.model.snapshot_pacing import Patch
from mainstem_shared.model.time import now_ms
from mainstem_shared.store import keys, raw_connections
from mainstem_shared.store.client import Script, Store
from mainstem_shared.transitions.first_version import LOOKS, recognise
from mainstem_shared.transitions.results import Control, Gone, Refused, refused

SNAPSHOT: Final = Script("snapshot")
RESYNC: Final = Script("resync")
COMPACT: Final = Script("compact")
READ: Final = Script("read", large=True)
PAGE: Final = Script("page")
PAGE_ENTRIES: Final = 256
"""Entries of one page: a few milliseconds of the server's time at most."""
PAGE_BYTES: Final = 512 * 1024
"""A page is full at this size: what one reader that catches up may hold in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A run as of one moment: record fields, stored snapshot, and the log's entries after it."""

    record: Record
    snapshot_cursor: Cursor | None
    snapshot_state: bytes
    entries: list[Entry]
    inputs: list[bytes] = field(default_factory=list[bytes])
    """What users said to the run so far, in order; none once it is over."""

    @property
    def spec(self) -> Spec:
        return self.record.spec

    def check_version(self) -> None:
        """Raise NewerVersion if only later versions may change the run."""
        self.record.check_version()

    @property
    def status(self) -> Status:
        return self.record.status

    @property
    def epoch(self) -> int:
        return self.record.epoch

    @property
    def owner(self) -> str:
        return self.record.owner

    @property
    def control(self) -> Control:
        """The control that was in force at that moment, whoever has it."""
        record = self.record
        return Control(run_id=self.spec.run_id, epoch=self.epoch, owner=self.owner, nonce=record.nonce)

    @property
    def top(self) -> Cursor:
        """The cursor that snapshot and entries reach."""
        if self.entries:
            return self.entries[-1].cursor
        return self.snapshot_cursor or cursors.START


async def read(
    store: Store, run_id: str, *, patience_s: float | None = None, looks: int = LOOKS
) -> State | Gone:
    """Read a run as of now."""
    k = keys.run(run_id)
    reply = await store.verb(READ, [k.record, k.log, k.snapshot], patience_s=patience_s)
    if not reply:
        again = await recognise(store, run_id, looks=looks)
        return await read(store, run_id, patience_s=patience_s, looks=looks - 1) if again else Gone()
    flat = reply[0]
    stored = {name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}
    return State(
        record=Record(stored, (field.name for field in STATE)),
        snapshot_cursor=cursors.parse(reply[1]) if reply[1] else None,
        snapshot_state=reply[2],
        entries=[events.entry(raw_id, fields) for raw_id, fields in reply[3]],
        inputs=reply[4],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Peek:
    """Where a run is: its status and the id of its log's top entry (START if the log is missing)."""

    status: Status
    epoch: int
    top: Cursor


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Peek):
    """A page of a run's log, and where the run was at the same moment."""

    spec: Spec
    entries: list[Entry]


async def page(
    store: Store, run_id: str, *, after: Cursor, count: int = PAGE_ENTRIES, looks: int = LOOKS
) -> Page | Gone:
    """Read the entries after a cursor: what a reader that catches up gets next.

    Raises:
        NotFound: it cannot be a run id.
        StoreUnavailable: the store does not answer.
    """
    k = keys.run(run_id)
    reply = await store.verb(PAGE, [k.record, k.log], [str(after), count, PAGE_BYTES])
    if not reply:
        again = await recognise(store, run_id, looks=looks)
        return await page(store, run_id, after=after, count=count, looks=looks - 1) if again else Gone()
    return Page(
        status=Status(reply[0].decode()),
        epoch=int(reply[1]),
        top=cursors.parse(reply[2]),
        spec=Spec.model_validate_json(reply[3]),
        entries=[events.entry(raw_id, fields) for raw_id, fields in reply[4]],
    )


async def peek(store: Store, run_id: str) -> Peek | Gone:
    """Return where a run is, without its content: the verb `page`, of no entries.

    Raises:
        NotFound: it cannot be a run id.
        StoreUnavailable: the store does not answer.
    """
    k = keys.run(run_id)
    return peeked(await store.verb(PAGE, [k.record, k.log], ["0-0", 0, 0]))


def peek_command(run_id: str) -> bytes:
    """Return the packed command whose reply `peeked` reads, for a connection that readers share."""
    k = keys.run(run_id)
    return raw_connections.pack(
        b"EVALSHA", PAGE.digest.encode(), b"2", k.record.encode(), k.log.encode(), b"0-0", b"0", b"0"
    )


def peeked(reply: Any) -> Peek | Gone:
    """Read the reply to a `peek_command`."""
    if not reply:
        return Gone()
    return Peek(status=Status(reply[0].decode()), epoch=int(reply[1]), top=cursors.parse(reply[2]))


PROBE_REPLIES: Final = 4
"""Replies to a `probe_command`; the last one says it all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Where a run's log ends (`top`: None if it is empty or missing), and who has control."""

    top: Cursor | None
    control: Control | None
    """None if nobody runs it (any more)."""


_PROBED: Final = (Record.status, Record.epoch, Record.owner, Record.nonce)


def probe_command(run_id: str) -> bytes:
    """Return the packed commands by which a writer learns what became of its run, as of one moment.

    Plain commands: a server that was replaced does not know any script yet.
    """
    k = keys.run(run_id)
    record, log = k.record.encode(), k.log.encode()
    return b"".join(
        (
            raw_connections.pack(b"MULTI"),
            raw_connections.pack(b"HMGET", record, *(field.name.encode() for field in _PROBED)),
            raw_connections.pack(b"XREVRANGE", log, b"+", b"-", b"COUNT", b"1"),
            raw_connections.pack(b"EXEC"),
        )
    )


def probed(run_id: str, replies: list[Any]) -> Probe | None:
    """Read the replies to a `probe_command`; None if the server refused to say."""
    told = replies[-1]
    if not isinstance(told, list) or any(isinstance(reply, Exception) for reply in cast("list[Any]", told)):
        return None
    values, entries = cast("list[Any]", told)
    names = [field.name for field in _PROBED]
    record = Record({name: value for name, value in zip(names, values, strict=True) if value}, names)
    control = None
    if record.has(Record.status) and record.status is Status.RUNNING:
        control = Control(run_id=run_id, epoch=record.epoch, owner=record.owner, nonce=record.nonce)
    return Probe(top=cursors.parse(entries[0][0]) if entries else None, control=control)


async def snapshot(store: Store, control: Control, *, cursor: Cursor, state: bytes, live_ttl_ms: int) -> bool:
    """Store the owner's fold up to `cursor` and trim what the previous snapshot covered; False if refused."""
    k = keys.run(control.run_id)
    reply = await store.verb(
        SNAPSHOT,
        [k.record, k.log, k.snapshot],
        [control.epoch, control.owner, str(cursor), state, live_ttl_ms, "", 0, 0, control.nonce],
    )
    return reply[0] == b"stored"


def snapshot_command(
    control: Control, cursor: Cursor, text: bytes, patch: Patch, *, live_ttl_ms: int
) -> bytes:
    """Return the packed command of the same verb that extends the stored snapshot by `text`."""
    k = keys.run(control.run_id)
    args = (
        (control.epoch, control.owner, cursor),
        (live_ttl_ms, patch.base, patch.length, patch.at, control.nonce),
    )
    before, after = ([str(arg).encode() for arg in some] for some in args)
    names = [key.encode() for key in (k.record, k.log, k.snapshot)]
    return raw_connections.pack(b"EVALSHA", SNAPSHOT.digest.encode(), b"3", *names, *before, text, *after)


async def resync(
    store: Store,
    control: Control,
    *,
    nonce: str,
    state: bytes,
    live_ttl_ms: int,
    patience_s: float | None = None,
) -> int | Refused | Gone:
    """Repair a log that lost an acknowledged tail; returns the new epoch."""
    k = keys.run(control.run_id)
    reply = await store.verb(
        RESYNC,
        [k.record, k.log, k.snapshot],
        [now_ms(), nonce, control.epoch, control.owner, state, live_ttl_ms, control.nonce],
        patience_s=patience_s,
    )
    match reply[0]:
        case b"resynced":
            return int(reply[1])
        case b"refused":
            return refused(reply)
        case _:
            return Gone()


async def compact_all(store: Store, run_ids: Sequence[str], *, keep_due: bool = False) -> None:
    """Drop the deltas of finished runs, in two round trips; with `keep_due` they stay on the list."""
    named = [(keys.run(run_id), run_id) for run_id in run_ids]
    calls = [((k.record, k.log, k.spare, k.compact), (run_id, int(keep_due))) for k, run_id in named]
    await store.verbs(COMPACT, calls)


async def compact(store: Store, run_id: str) -> bool:
    """Drop a finished run's deltas; False if it is not finished or gone."""
    k = keys.run(run_id)
    reply = await store.verb(COMPACT, [k.record, k.log, k.spare, k.compact], [run_id, 0])
    return reply[0] == b"compacted"
