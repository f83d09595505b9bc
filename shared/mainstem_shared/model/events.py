"""Defines the entries of a run's log: types, payloads, and their encoding in the stream.

One event is one stream entry with one field: the field's name is the type, its value the payload as JSON.
The gateway passes payloads through; only states (`snapshot`, `resync`, `run.finished`) gain their `text`,
which is derived from `content` and therefore not stored. `docs/events.md` shows every payload.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple

from mainstem_shared import errors
from mainstem_shared.model import cursors, jsontext
from mainstem_shared.model.cursors import Cursor

EVENT_LIMIT: Final = 256 * 1024
"""Largest payload of one engine event, in bytes: a reader's buffers and a proxy's frames stay small."""
CONTENT_LIMIT: Final = 8 * 1024 * 1024
"""Largest content of one run, in bytes of its fold."""
MERGE_LIMIT: Final = 32 * 1024
"""Deltas merge up to this many characters: at most 192 KB as escaped JSON, under EVENT_LIMIT."""


class Type(StrEnum):
    """Types of log entries. Readers ignore types they do not know."""

    CREATED = "run.created"
    STARTED = "run.started"
    RESUMED = "run.resumed"
    RESTARTED = "run.restarted"
    QUEUED = "run.queued"
    SEALED = "run.sealed"
    FINISHED = "run.finished"
    MESSAGE_DELTA = "message.delta"
    REASONING_DELTA = "reasoning.delta"
    REFUSAL_DELTA = "refusal.delta"
    PART = "part"
    ANNOTATION = "annotation"
    OUTPUT = "output"
    STEP_STARTED = "step.started"
    STEP_DELTA = "step.delta"
    STEP_COMPLETED = "step.completed"
    AGENT_UPDATED = "agent.updated"
    TITLE = "title"
    USAGE = "usage"
    CONTEXT_USAGE = "context_usage"
    APPROVAL_REQUIRED = "approval.required"
    APPROVAL_RESOLVED = "approval.resolved"
    APPROVAL_EXPIRED = "approval.expired"
    INPUT_ACCEPTED = "input.accepted"
    CUSTOM = "custom"
    SNAPSHOT = "snapshot"
    RESYNC = "resync"


STATES: Final = frozenset({Type.SNAPSHOT, Type.RESYNC, Type.FINISHED})
"""Types whose payload is a whole state: it replaces what a reader has."""

# Deltas are nearly all entries: a one-letter field name saves a tenth of the bytes that a token costs.
_CODES: Final[Mapping[str, str]] = {Type.MESSAGE_DELTA: "d", Type.REASONING_DELTA: "r"}
_TYPES: Final[Mapping[bytes, str]] = {code.encode(): kind for kind, code in _CODES.items()}

# Control payloads are written by our own verbs, which put `prev` first; a pattern is cheaper than parsing
# a `run.finished` of 8 MB to learn its predecessor.
_PREV: Final = re.compile(rb'\{"prev":"([0-9]+-[0-9]+)"')


def field(kind: str) -> str:
    """Return the stream field's name for an event type."""
    return _CODES.get(kind, kind)


class Entry(NamedTuple):
    """One entry of a log as it is read: its id, type and payload bytes.

    A tuple, because a gateway makes one per event: a frozen dataclass costs three times as much.
    """

    cursor: Cursor
    type: str
    data: bytes

    @property
    def prev(self) -> Cursor | None:
        """The id that a control entry names as its predecessor; None for other entries."""
        match = _PREV.match(self.data) if self.cursor.is_control else None
        return cursors.parse(match[1]) if match else None

    def follows(self, cursor: Cursor) -> bool:
        """Tell whether nothing is missing between `cursor` and this entry."""
        return cursors.follows(cursor, self.cursor, self.prev)

    def payload(self) -> dict[str, Any]:
        """Decode the payload."""
        return jsontext.loads(self.data)


def entry(raw_id: bytes, fields: Sequence[bytes] | Mapping[bytes, bytes]) -> Entry:
    """Build an entry from what the server returned for it."""
    if isinstance(fields, Mapping):
        name, data = next(iter(fields.items()))
    else:
        name, data = fields[0], fields[1]
    kind = _TYPES.get(name) or name.decode(errors="replace")  # of a later version, or damaged
    epoch, _, seq = raw_id.partition(b"-")
    return Entry(cursor=Cursor(int(epoch), int(seq)), type=kind, data=data)


def check_size(data: bytes) -> bytes:
    """Return an engine event's payload if a log entry may hold it.

    Raises:
        EventTooLarge: it is over EVENT_LIMIT.
    """
    if len(data) > EVENT_LIMIT:
        raise errors.EventTooLarge(size=len(data), limit=EVENT_LIMIT)
    return data


def text_of(content: Sequence[Mapping[str, Any]]) -> str:
    """Return all text parts of a content, concatenated with nothing between."""
    return "".join(part["text"] for part in content if part["type"] == "text")


def presented(kind: str, data: bytes) -> bytes:
    """Return an entry's payload as readers get it: states gain `text`, everything else is untouched."""
    if kind not in STATES:
        return data
    try:
        text = text_of(jsontext.loads(data)["content"])
    except (ValueError, KeyError, TypeError):
        return data  # whoever reads it sees as much of it as can be seen
    return b"".join((data[:-1], b',"text":', jsontext.dumps(text), b"}"))
