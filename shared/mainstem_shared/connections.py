"""redis-py's connections, made to honour cancellation on Python 3.11 and to fail on uvloop as connections do.

redis-py sends each command under `asyncio.wait_for`, which before Python 3.12 drops a cancellation that comes
in the same turn of the loop as the end of the sending (python/cpython#86296). Nearly every cancel of a task
that talks to the store was lost that way. And uvloop raises a RuntimeError from a write to a transport that
was lost a turn ago. Called by `store.connect`; nobody else makes connections.
"""

from __future__ import annotations

import asyncio
from functools import cache
from typing import Any, Final

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError

_LOST_ON_UVLOOP: Final = "the handler is closed"


class _Cancellable(AbstractConnection):
    """Notices a cancellation that the sending of a command dropped, and a transport that is no more."""

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:  # noqa: FBT001, FBT002
        task = asyncio.current_task()
        before = task.cancelling() if task else 0
        try:
            await super().send_packed_command(command, check_health)
        except RuntimeError as error:
            if _LOST_ON_UVLOOP not in str(error):
                raise
            raise RedisConnectionError("The connection was lost before the command was sent.") from error
        if task and task.cancelling() > before:
            await self.disconnect(nowait=True)  # a reply is on its way that nobody will read
            raise asyncio.CancelledError


@cache
def _cancellable(kind: type[AbstractConnection]) -> type[AbstractConnection]:
    return type(f"Cancellable{kind.__name__}", (_Cancellable, kind), {})


def make_cancellable(pool: ConnectionPool) -> None:
    """Have a pool that has made no connection yet make such connections."""
    pool.connection_class = _cancellable(pool.connection_class)
