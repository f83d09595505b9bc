"""Encodes the messages that a run adds to its thread, so that pages are put together from bytes. Pure.

A line in front says what the reader has to know: where the first message names its parent, which only the
thread's order tells, and how long each message is.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

from mainstem_shared.model import jsontext
from mainstem_shared.model.messages import Message


class Ready(NamedTuple):
    """A run's messages, as JSON.

    Attributes:
        parent: what the run's start named as its parent.
        begins: whether they are the same at the beginning of a thread.
        at_ms: when the run was read of which they were made; what changed later is not in them.
        gap: where in the first message its parent is to be inserted.
        sizes: how long each message is; the first one without its parent.
        body: the messages, with a comma between them.
    """

    parent: str | None
    begins: bool
    at_ms: int
    gap: int
    sizes: list[int]
    body: bytes

    @classmethod
    def of(cls, made: Sequence[Message], *, parent: str | None, begins: bool, at_ms: int) -> Self:
        """Encode messages, of which there is at least one.

        Raises:
            ValueError: JSON cannot hold them.
        """
        place = secrets.token_hex(16)
        first = made[0].model_copy(update={"parent": place})
        head, tail = jsontext.dumps(first.model_dump(mode="json")).split(f'"{place}"'.encode())
        rest = [jsontext.dumps(message.model_dump(mode="json")) for message in made[1:]]
        texts = [head + tail, *rest]
        return cls(parent, begins, at_ms, len(head), list(map(len, texts)), b",".join(texts))

    def dump(self) -> bytes:
        """Encode it all, for `load`."""
        return jsontext.dumps(self[:5]) + b"\n" + self.body

    @classmethod
    def load(cls, stored: bytes) -> Self:
        """Decode what `dump` made.

        Raises:
            ValueError: it is damaged.
        """
        line, _, body = stored.partition(b"\n")
        about: list[Any] = jsontext.loads(line)
        parent, begins, at_ms, gap, sizes = about
        return cls(parent, begins, at_ms, gap, sizes, body)

    def after(self, message_id: bytes) -> bytes:
        """Return the messages with commas between them; the first follows that one (JSON: an id, or null)."""
        return b"".join((self.body[: self.gap], message_id, self.body[self.gap :]))

    def last(self, count: int) -> bytes:
        """Return some of the messages, the last ones, but not the first one, whose parent is to be told."""
        return self.body[sum(self.sizes[:-count]) + len(self.sizes) - count :]
