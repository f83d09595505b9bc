"""Bounds the memory of unread answers: large ones are sent in pieces, equal ones from one buffer.

A server buffers what it is given, for as long as nobody reads it. Here a reader holds one piece of its own;
the rest is the answer itself, which readers of the same bytes share. When all answers together reach the
limit, those end whose readers take nothing. Events pass by: they are small, and their queues have bounds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from starlette.types import Send

from mainstem_shared import errors

PIECE: Final = 64 * 1024
"""Bytes handed to the server at once; larger ones are what is large here."""
WRITE_S: Final = 30.0
"""Time within which a reader must take a piece."""
STALLED_S: Final = 2.0
"""A reader that took nothing for so long may be ended when others need the room."""
PATIENCE_S: Final = 5.0
"""Longest wait for room, of at most LINE answers at once."""
LINE: Final = 16
_POLL_S: Final = 0.05


class UnreadError(Exception):
    """A reader took nothing for too long; what it has not taken is dropped."""


class _Reader:
    """One reader of one large answer."""

    def __init__(self) -> None:
        self.moved_at = time.monotonic()
        self._limit: asyncio.Timeout | None = None

    async def send(self, body: bytes, send: Send) -> None:
        """Send all of a body, as one of several parts.

        Raises:
            UnreadError: the reader took nothing for WRITE_S, or was ended for others.
        """
        try:
            for start in range(0, len(body), PIECE):
                async with asyncio.timeout(WRITE_S) as self._limit:
                    await send(
                        {
                            "type": "http.response.body",
                            "body": body[start : start + PIECE],
                            "more_body": True,
                        }
                    )
                self.moved_at = time.monotonic()
        except TimeoutError:
            raise UnreadError from None
        finally:
            self._limit = None

    def end(self) -> bool:
        """End a reader that takes nothing; False if it is just between two pieces."""
        if self._limit is None or self._limit.expired():
            return False
        self._limit.reschedule(asyncio.get_running_loop().time())
        return True


class _Body:
    """A large answer, and how many read it."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.readers = 0


class Outgoing:
    """The large answers that a gateway sends right now. Belongs to one event loop."""

    def __init__(self, limit: int) -> None:
        self.bytes = 0
        """What they hold in memory, each buffer once."""
        self._limit = limit
        self._bodies: dict[bytes, _Body] = {}
        self._readers: set[_Reader] = set()
        self._waiting = 0

    async def send(self, data: bytes, send: Send) -> None:
        """Send a large body, as one of several parts.

        Raises:
            Overloaded: there is no room for it; nothing was sent.
            UnreadError: its reader took nothing for too long.
        """
        async with self._held(data) as body:
            del data  # an equal buffer may be held already
            reader = _Reader()
            self._readers.add(reader)
            try:
                await reader.send(body.data, send)
            finally:
                self._readers.discard(reader)

    @asynccontextmanager
    async def _held(self, data: bytes) -> AsyncGenerator[_Body]:
        if data not in self._bodies:
            await self._make_room(len(data))
        body = self._bodies.get(data)
        if body is None:
            body = self._bodies[data] = _Body(data)
            self.bytes += len(data)
        del data
        body.readers += 1
        try:
            yield body
        finally:
            body.readers -= 1
            if not body.readers:
                self.bytes -= len(body.data)
                del self._bodies[body.data]

    async def _make_room(self, size: int) -> None:
        if self._waiting >= LINE:
            raise errors.Overloaded
        deadline = time.monotonic() + PATIENCE_S
        self._waiting += 1
        try:
            while self._bodies and self.bytes + size > self._limit:
                if not self._end_most_stalled() and time.monotonic() > deadline:
                    raise errors.Overloaded
                await asyncio.sleep(_POLL_S)
        finally:
            self._waiting -= 1

    def _end_most_stalled(self) -> bool:
        reader = min(self._readers, key=lambda one: one.moved_at, default=None)
        return reader is not None and time.monotonic() - reader.moved_at > STALLED_S and reader.end()
