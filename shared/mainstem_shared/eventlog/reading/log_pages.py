"""Reading a run's log page by page: the direct reads of readers that catch up, and their look at idle runs.

Used by `subscriptions` and `tail_connections`. What belongs to one moment (status, the log's end, the
entries) comes from one atomic script. Whole runs are read with `transitions.read`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from mainstem_shared.model import cursors, events
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.events import Entry
from mainstem_shared.model.runs import Spec, Status
from mainstem_shared.store import keys, raw_connections
from mainstem_shared.store.client import Script, Store
from mainstem_shared.transitions import Gone

PAGE: Final = Script("page")
COUNT: Final = 256
"""Entries of one page: a few milliseconds of the server's time at most."""
PATIENCE_S: Final = 30.0
"""How long readers wait for a store that is away before they are told."""
MAX_BYTES: Final = 512 * 1024
"""A page is full at this size: what one reader that catches up may hold in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peek:
    """Where a run is: its status and the id of its log's top entry (START if the log is missing)."""

    status: Status
    epoch: int
    top: Cursor


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Peek):
    """A page of a run's log, and the run's glance at the same moment."""

    spec: Spec
    entries: list[Entry]


async def page(store: Store, run_id: str, *, after: Cursor, count: int = COUNT) -> Page | Gone:
    """Read the entries after a cursor.

    Raises:
        NotFound: it cannot be a run id.
        StoreUnavailable: the store does not answer.
    """
    k = keys.run(run_id)
    reply = await store.verb(PAGE, [k.record, k.log], [str(after), count, MAX_BYTES])
    if not reply:
        return Gone()
    return Page(
        status=Status(reply[0].decode()),
        epoch=int(reply[1]),
        top=cursors.parse(reply[2]),
        spec=Spec.model_validate_json(reply[3]),
        entries=[events.entry(raw_id, fields) for raw_id, fields in reply[4]],
    )


async def look(store: Store, run_id: str) -> Peek | Gone:
    """Return where a run is, without its content.

    Raises:
        NotFound: it cannot be a run id.
        StoreUnavailable: the store does not answer.
    """
    k = keys.run(run_id)
    return peek(await store.verb(PAGE, [k.record, k.log], ["0-0", 0, 0]))


def peek_command(run_id: str) -> bytes:
    """Return the packed command whose reply `peek` reads."""
    k = keys.run(run_id)
    return raw_connections.pack(
        b"EVALSHA", PAGE.digest.encode(), b"2", k.record.encode(), k.log.encode(), b"0-0", b"0", b"0"
    )


def peek(reply: Any) -> Peek | Gone:
    """Read the reply to a `peek_command`."""
    if not reply:
        return Gone()
    return Peek(status=Status(reply[0].decode()), epoch=int(reply[1]), top=cursors.parse(reply[2]))
