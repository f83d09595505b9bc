"""A group is what a channel sends at once: events whose ids and bytes never change again.

Here are its parts, as they wait and as they are sent, and what the server's replies to one mean.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, NamedTuple

import hiredis

from mainstem_shared.model import events
from mainstem_shared.model.contents import utf8_size
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.events import Type
from mainstem_shared.store import raw_connections


class Delta:
    """Consecutive deltas of one part, merged while they wait. `length` counts characters, `size` bytes."""

    __slots__ = ("kind", "length", "part", "pieces", "size")

    def __init__(self, kind: Type, part: int, text: str, size: int) -> None:
        self.kind, self.part, self.length, self.size = kind, part, len(text), size
        self.pieces = [text]


def deltas_of(kind: Type, part: int, text: str, size: int) -> list[Delta]:
    """Cut a text of `size` bytes into deltas of at most MERGE_LIMIT characters."""
    limit = events.MERGE_LIMIT
    if len(text) <= limit:
        return [Delta(kind, part, text, size)]
    pieces = (text[at : at + limit] for at in range(0, len(text), limit))
    return [Delta(kind, part, piece, utf8_size(piece)) for piece in pieces]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Any other event: encoded when emitted, folded when sent.

    The payload is decoded from the data: what the engine does to its own objects afterwards, and types that
    JSON does not have, cannot make the fold differ from the log.
    """

    kind: str
    data: bytes
    payload: dict[str, Any]
    weight: int


class Group(NamedTuple):
    """Encoded events whose ids and bytes never change again."""

    packed: bytes
    replies: int
    items: int
    last: Cursor
    size: int


def release(waiters: list[asyncio.Future[None]]) -> None:
    """Wake everybody who waits, and forget them."""
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
    waiters.clear()


def failure_of(replies: list[raw_connections.Reply]) -> str | None:
    """Return why a group was refused; None if it landed, "" if its log is missing (NOMKSTREAM)."""
    if len(replies) == 1:
        reply = replies[0]
        return str(reply) if isinstance(reply, hiredis.ReplyError) else None if reply else ""
    for reply in (*replies[1:-1], replies[-1]):
        if isinstance(reply, hiredis.ReplyError):
            return str(reply)
    for reply in replies[-1] or [None]:
        if isinstance(reply, hiredis.ReplyError):
            return str(reply)
        if reply is None:
            return ""
    return None
