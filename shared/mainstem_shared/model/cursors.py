"""A cursor is the id of a log entry; `follows` decides whether one entry comes right after another.

Writer, tailer, gateway, adapters and clients all decide with these few functions; nobody compares ids on
their own. A cursor is an entry's id, `<epoch>-<seq>`, as the server and the SSE `id:` field have it.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from mainstem_shared import errors

# A stream id's halves are unsigned 64-bit numbers: at most 20 digits each.
_PATTERN: Final = re.compile(r"(0|[1-9][0-9]{0,19})-(0|[1-9][0-9]{0,19})")
_U64_MAX: Final = 2**64 - 1


class Cursor(NamedTuple):
    """Position in a run's log. Ordered as the server orders entries: by epoch, then by sequence number."""

    epoch: int
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.seq}"

    @property
    def is_control(self) -> bool:
        """Whether the entry here marks a change of control (`<epoch>-0`)."""
        return self.seq == 0

    def next(self) -> Cursor:
        """Return the cursor of the next event in the same epoch."""
        return Cursor(self.epoch, self.seq + 1)


START: Final = Cursor(0, 0)
"""Before the first entry of every log."""


def parse(text: str | bytes) -> Cursor:
    """Read a cursor from its text form.

    Raises:
        InvalidCursor: it is not two unsigned 64-bit decimal numbers joined by a dash.
    """
    given = text.decode("ascii", "replace") if isinstance(text, bytes) else text
    match = _PATTERN.fullmatch(given)
    if match is None:
        raise errors.InvalidCursor(cursor=given[:64])
    epoch, seq = int(match[1]), int(match[2])
    if epoch > _U64_MAX or seq > _U64_MAX:
        raise errors.InvalidCursor(cursor=given[:64])
    return Cursor(epoch, seq)


def follows(cursor: Cursor, entry: Cursor, prev: Cursor | None) -> bool:
    """Tell whether `entry` is the very next one after `cursor`, with nothing missing in between.

    Args:
        cursor: where the reader is.
        entry: the id of the next entry that the log has for it.
        prev: what a control entry names as the entry before it; None for other entries.
    """
    if entry.epoch == cursor.epoch:
        return entry.seq == cursor.seq + 1
    return entry.epoch > cursor.epoch and entry.is_control and prev == cursor
