"""A shared connection carries all short calls of a process; nobody waits for another's reply.

Commands go out as they come and replies come back in order, so that a verb costs its caller a tenth of what a
pooled redis-py connection does. Nothing is repeated here: `client.Store` knows what may be. Blocking reads,
pub/sub and very large values belong on connections of their own, where nobody waits behind them.
"""

# redis-py's types are partly unknown.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final, cast

import hiredis
from redis._parsers.base import BaseParser
from redis.exceptions import ConnectionError as RedisConnectionError

from mainstem_shared.model import time as clock
from mainstem_shared.store import failures, raw_connections
from mainstem_shared.store.raw_connections import RawConnection, Reply

SILENCE_S: Final = 5.0
"""Loopback or a data centre: a server that owes a reply for so long is unavailable."""
_SILENCE_CHECK_S: Final = 0.5


class SharedConnection:
    """Opened by the first call, and again by the first call after it was lost. Belongs to one loop."""

    def __init__(self, url: str, *, on_lost: Callable[[], None] = lambda: None) -> None:
        """Prepare it; `on_lost` is called whenever an open connection was lost."""
        self._url = url
        self._on_lost = on_lost
        self._connection: RawConnection | None = None
        self._opening: asyncio.Task[RawConnection] | None = None
        self._check_timer: asyncio.TimerHandle | None = None
        self._check_due = 0.0
        self.losses = 0
        """How often an open connection was lost: after each, another server may answer."""

    async def call(self, *commands: tuple[Any, ...]) -> list[Reply]:
        """Send commands, in order and with nothing in between, and return their replies.

        Cancelling the wait takes no command back.

        Raises:
            redis.exceptions.RedisError, OSError: the connection was lost before the replies, or could not be
                opened; or the first refusal among them, when all have been tried.
        """
        connection = self._connection
        if connection is None or connection.lost.done():
            connection = await self._open()
        answered: asyncio.Future[list[Reply]] = asyncio.get_running_loop().create_future()

        def on_reply(received: list[Reply]) -> None:
            if not answered.done():
                answered.set_result(received)

        packed = b"".join([hiredis.pack_command(command) for command in commands])
        connection.send(packed, on_reply, replies=len(commands))
        if self._check_timer is None:
            self._schedule_check()
        replies = await answered
        if not replies:
            raise RedisConnectionError("connection lost before the reply")
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                self._refused(str(reply))
        return replies

    def _refused(self, message: str) -> None:
        error = BaseParser.parse_error(message)
        if failures.is_elsewhere(error) and self._connection is not None:
            self._connection.abort()  # a fail-over: the new primary is behind another connection
        raise error

    async def _open(self) -> RawConnection:
        if self._opening is None:
            self._opening = asyncio.create_task(raw_connections.open_raw_connection(self._url))
            self._opening.add_done_callback(self._opened)
        return await asyncio.shield(self._opening)  # whoever gives up waiting leaves it to the others

    def _opened(self, opening: asyncio.Task[RawConnection]) -> None:
        self._opening = None
        if not opening.cancelled() and opening.exception() is None:
            self._connection = opening.result()
            self._connection.lost.add_done_callback(self._lost)
            _learn_time(self._connection)

    def _lost(self, _: object) -> None:
        self.losses += 1
        self._on_lost()

    def _schedule_check(self) -> None:
        self._check_due = time.monotonic() + _SILENCE_CHECK_S
        self._check_timer = asyncio.get_running_loop().call_later(_SILENCE_CHECK_S, self._check_silence)

    def _check_silence(self) -> None:
        self._check_timer = None
        if self._connection is None or not (silence_s := self._connection.silence_s):
            return
        # A look that comes late says that this loop stood still: the replies may be there, unread.
        if silence_s > SILENCE_S and time.monotonic() - self._check_due < _SILENCE_CHECK_S:
            self._connection.abort()  # everybody who waits is told
        else:
            self._schedule_check()

    async def close(self) -> None:
        """Close the connection; who still waits is told that it is lost."""
        if self._check_timer is not None:
            self._check_timer.cancel()
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
            await connection.lost


def _learn_time(connection: RawConnection) -> None:
    """Ask for the server's time, ahead of the first command: another server may have another clock."""
    asked_ns = clock.steady_ns()

    def on_reply(replies: list[Reply]) -> None:
        if replies and isinstance(replies[0], list):  # else the connection was lost, or we may not ask
            seconds, micros = cast("list[bytes]", replies[0])
            clock.CLOCK.learn(int(seconds), int(micros), asked_ns=asked_ns)

    connection.send(raw_connections.pack(b"TIME"), on_reply)
