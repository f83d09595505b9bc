"""A frame is a log entry encoded once for all readers; chains and batches are gap-free sequences of frames.

A frame's `wire` is its SSE spelling (LF only, one data line); `data` is the payload alone, for readers
that are not SSE.
"""

# what clients and providers send is checked by models or by hand, not by types.
# pyright: reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from mainstem_shared.model import events, jsontext, salvage
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.events import Entry, Type

# Line breaks to Unicode, but not to SSE or JSON. Clients that split text with `str.splitlines` (httpx's
# `iter_lines` does) would see one line of JSON as two: they are sent as escapes.
_LINE_BREAKS: Final = {
    char.encode(): f"\\u{ord(char):04x}".encode() for char in ("\u0085", "\u2028", "\u2029")
}


class Frame:
    """One event, ready to send. Immutable; shared by all subscribers of its run."""

    __slots__ = ("_start", "cursor", "type", "wire")

    def __init__(self, entry: Entry) -> None:
        head = b"id: %d-%d\nevent: %s\ndata: " % (*entry.cursor, entry.type.encode())
        self.cursor = entry.cursor
        self.type = entry.type
        payload = without_line_breaks(events.presented(entry.type, entry.data))
        self.wire = b"".join((head, payload, b"\n\n"))
        self._start = len(head)

    def __repr__(self) -> str:
        return f"Frame({self.cursor} {self.type})"

    @property
    def data(self) -> bytes:
        """The payload as JSON, as readers get it."""
        return self.wire[self._start : -2]

    def payload(self) -> dict[str, Any]:
        """Decode the payload; of a damaged entry, what says so."""
        try:
            payload: Any = jsontext.loads(self.data)
        except ValueError:
            return dict(salvage.UNREADABLE)
        return payload if isinstance(payload, dict) else dict(salvage.UNREADABLE)


def without_line_breaks(payload: bytes) -> bytes:
    """Return JSON in which no reader of lines finds a line break."""
    if not payload.isascii():
        for char, escape in _LINE_BREAKS.items():
            payload = payload.replace(char, escape)
    return payload


def continues(cursor: Cursor, entry: Entry) -> bool:
    """Tell whether a reader at `cursor` may take `entry`: it comes next, or it replaces all before it."""
    return entry.follows(cursor) or (entry.type == Type.RESYNC and entry.cursor > cursor)


def chain(cursor: Cursor, entries: Iterable[Entry]) -> list[Frame]:
    """Return the frames that continue from `cursor`, up to the first hole."""
    frames: list[Frame] = []
    for entry in entries:
        if not continues(cursor, entry):
            break
        frames.append(Frame(entry))
        cursor = entry.cursor
    return frames


class Batch:
    """Frames of one run, each continuing the one before; the first continues `after` (None: after a hole)."""

    __slots__ = ("after", "frames", "size")

    def __init__(self, after: Cursor | None, frames: list[Frame]) -> None:
        self.after = after
        self.frames = frames
        self.size = sum(len(frame.wire) for frame in frames)

    def newer(self, cursor: Cursor) -> list[Frame] | None:
        """Return the frames after `cursor`; None if there is, or may be, a hole between."""
        if cursor == self.after:
            return self.frames
        known = next((i for i, frame in enumerate(self.frames) if frame.cursor == cursor), None)
        if known is not None:
            return self.frames[known + 1 :]
        return [] if self.frames[-1].cursor <= cursor else None
