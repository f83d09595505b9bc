"""Transitions of steering: `steer` appends a user's input to the record, `inbox` hands it to the owner.

The record keeps inputs until the run is over, so that whoever runs it next hears them again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from mainstem_shared.model import digests, jsontext, runs
from mainstem_shared.model.time import now_ms
from mainstem_shared.store import keys
from mainstem_shared.store.client import Script, Store
from mainstem_shared.transitions import check_times
from mainstem_shared.transitions.results import Control, Gone, Refused, refused

STEER: Final = Script("steer")
INBOX: Final = Script("inbox")
INPUTS_WAITING_LIMIT: Final = 10
"""Inputs that may wait to be read: more would only tell that the engine does not listen."""
INPUTS_LIMIT: Final = 100
"""Inputs that a run takes in all: they are kept in its record, for a worker that begins again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The input stands in the record. `owner` runs the run and is to be told; empty if nobody does."""

    number: int
    at_ms: int
    owner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Declined:
    """The run does not take it; `why` is `reused`, `paused`, `inactive` or `full`."""

    why: str
    status: str = ""


async def steer(
    store: Store, run_id: str, *, input_id: str, text: str, by: str | None
) -> Accepted | Declined | Gone:
    """Put an input into a run's record, once per id."""
    now = now_ms()
    entry = jsontext.dumps({"input_id": input_id, "text": text, "by": by, "sent_at": runs.rfc3339(now)})
    digest = digests.hex_digest(jsontext.dumps(text))
    k = keys.run(run_id)
    reply = await store.verb(
        STEER,
        [k.record, k.active],
        [
            now,
            input_id,
            digest,
            entry,
            INPUTS_WAITING_LIMIT,
            INPUTS_LIMIT,
            run_id,
            now + check_times.STEER_MS,
        ],
    )
    match reply[0]:
        case b"accepted":
            return Accepted(number=int(reply[1]), at_ms=int(reply[2]), owner=reply[3].decode())
        case b"gone":
            return Gone()
        case b"inactive":
            return Declined(why="inactive", status=reply[1].decode())
        case _:
            return Declined(why=reply[0].decode())


async def inbox(
    store: Store, control: Control, *, read: int, known: int
) -> list[dict[str, Any]] | Refused | Gone:
    """Return the inputs after the `known` ones, as their owner; `read`: how many the engine has read."""
    record = keys.run(control.run_id).record
    reply = await store.verb(INBOX, [record], [control.epoch, control.owner, read, known, control.nonce])
    match reply[0]:
        case b"inputs":
            return [jsontext.loads(entry) for entry in reply[1]]
        case b"refused":
            return refused(reply)
        case _:
            return Gone()
