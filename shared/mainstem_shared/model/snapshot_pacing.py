"""Decides when the writer stores a run's snapshot, and whether it sends the whole content or new text only.

A run's content mostly grows at the end of its last text. Then the stored state is extended where that text
ends, for the price of the new text, and snapshots may be frequent: readers find a short tail. Any other event
makes the next snapshot a whole one. `channels` asks here, `writer` sends, `lua/snapshot.lua` splices.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from mainstem_shared.model import jsontext
from mainstem_shared.model.contents import Content, TextPart
from mainstem_shared.model.cursors import Cursor

WHOLE_MIN: Final = 4 * 1024
"""Smallest amount of log, in bytes, that is worth a whole snapshot."""
WHOLE_FACTOR: Final = 1
"""A whole one is due when the log since the last is this many times its size: amortised O(1) a token."""
PATCH_MIN: Final = 4 * 1024
"""Smallest amount of log that is worth a patch: some hundred tokens share its 320 bytes of overhead."""
PATCH_FACTOR: Final = 0.125
"""A patch is due at this share of the snapshot's size: what a reader without a cursor folds beside it. The
server writes the state anew for it, to memory and append-only file: some 350 bytes a token if it is large."""

_HEAD: Final = b'{"content":'
_TAIL: Final = b'"}]'  # what closes the last part's text


class Patch(NamedTuple):
    """Where a snapshot's text goes: into the stored state `base`, `length` bytes long, after byte `at`."""

    base: Cursor
    length: int
    at: int


class Due(NamedTuple):
    """A snapshot to be stored: a whole state, or the text of a patch."""

    state: bytes
    patch: Patch | None


class Snapshots:
    """One run's snapshots. At most one is under way: `take`, then `stored` with what became of it."""

    def __init__(self, size: int) -> None:
        self.reset(size)

    def reset(self, size: int) -> None:
        """Begin anew from a state of so many bytes, of which nothing is known."""
        self.log = 0
        self._size = size
        self._base: Patch | None = None
        self._proposed: Patch | None = None
        self._part = -1
        self._texts: list[bytes] | None = None
        self.due = self._whole_due

    @property
    def _whole_due(self) -> float:
        return max(WHOLE_MIN, WHOLE_FACTOR * self._size)

    def text(self, part: int, escaped: bytes) -> None:
        """Note text that was folded; `escaped` is its JSON."""
        if self._texts is not None:
            if part == self._part:
                self._texts.append(escaped[1:-1])
            else:
                self._texts = None

    def other(self) -> None:
        """Note that an event was folded which is no text."""
        self._texts = None

    def take(self, cursor: Cursor, fold: Content) -> Due | None:
        """Return the snapshot of `fold` at `cursor`, if one is due; `due` says when to ask."""
        if self._texts is not None and self._base is not None:
            due = self._patched(self._base, b"".join(self._texts), cursor)
        elif self.log > self._whole_due:
            due = self._whole(cursor, fold)
        else:
            self.due = self._whole_due  # what came in between cannot be patched in
            return None
        self.log = 0
        self._base = None  # until it is stored
        return due

    def _patched(self, base: Patch, text: bytes, cursor: Cursor) -> Due:
        self._size = base.length + len(text)
        self._propose(Patch(cursor, self._size, base.at + len(text)))
        return Due(text, base)

    def _whole(self, cursor: Cursor, fold: Content) -> Due:
        dumped = fold.dump()
        state = jsontext.dumps(dumped)
        self._size = len(state)
        last = fold.parts[-1] if fold.parts else None
        content = jsontext.dumps(dumped["content"]) if isinstance(last, TextPart) else b""
        # Compared, not assumed: a lone surrogate anywhere changes how a whole value is encoded.
        end = len(_HEAD) + len(content)
        if content.endswith(_TAIL) and state[:end] == _HEAD + content:
            self._part = len(fold.parts) - 1
            self._propose(Patch(cursor, len(state), end - len(_TAIL)))
        else:
            self._proposed, self._texts, self.due = None, None, self._whole_due
        return Due(state, None)

    def _propose(self, base: Patch) -> None:
        self._proposed, self._texts = base, []
        self.due = max(PATCH_MIN, PATCH_FACTOR * self._size)

    def stored(self, success: bool) -> None:  # noqa: FBT001 - the one thing there is to say
        """Tell what became of the snapshot under way; unknown counts as failed."""
        self._base, self._proposed = self._proposed if success else None, None
