"""A raw connection sends packed commands as they are and returns replies in order.

For the two places where a token's cost counts, the event writer and the tailer. redis-py opens the
connection (TLS, authentication, Sentinel, database); from then on bytes bypass it: its pipelines cost
more per command than everything else Mainstem does to a token.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError

from mainstem_shared.store import connections

Reply = Any
"""What hiredis makes of a reply: bytes, int, None, list; errors are `hiredis.ReplyError` instances."""

OnReply = Callable[[list[Reply]], None]
"""Called with the replies of one `send`, or with an empty list if the connection was lost before."""

_CRLF: Final = b"\r\n"
_opened: weakref.WeakSet[RawConnection] = weakref.WeakSet()


def bulk(value: bytes) -> bytes:
    """Encode one RESP bulk string."""
    return b"$%d\r\n%s\r\n" % (len(value), value)


def pack(*args: bytes) -> bytes:
    """Encode one command in RESP."""
    return b"*%d\r\n" % len(args) + b"".join(map(bulk, args))


class RawConnection(asyncio.Protocol):
    """One open connection. Not for several loops; `lost` is done as soon as the connection is gone."""

    def __init__(self, keep_alive: object, url: str = "") -> None:
        self.url = url
        self.loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[None] = self.loop.create_future()
        self._keep_alive = keep_alive  # redis-py's stream writer would close the transport when collected
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader(replyError=hiredis.ReplyError, protocolError=hiredis.ProtocolError)
        self._waiting: deque[tuple[int, OnReply, float]] = deque()
        self._replies: list[Reply] = []
        self._unsent: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its base class

    def send(self, packed: bytes, on_reply: OnReply, *, replies: int = 1) -> None:
        """Send one or more packed commands; `on_reply` gets their `replies` replies together."""
        self.expect(on_reply, replies=replies)
        self.write(packed)

    def expect(self, on_reply: OnReply, *, replies: int = 1) -> None:
        """Say who gets the next `replies` replies; the caller sends the commands with `write`, in order."""
        self._waiting.append((replies, on_reply, time.monotonic()))

    def write(self, packed: bytes) -> None:
        """Send packed commands whose replies are expected, together with all others of this turn of the loop.

        A system call that wakes the server costs more than everything else a command does here.
        """
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unsent.append(packed)

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        if self._transport is None or self._transport.is_closing():
            self._tell_waiting()
        else:
            self._transport.write(unsent[0] if len(unsent) == 1 else b"".join(unsent))

    async def call(self, *args: bytes) -> Reply:
        """Send one command and wait for its reply.

        Raises:
            redis.exceptions.ConnectionError: the connection was lost before the reply.
        """
        done: asyncio.Future[list[Reply]] = asyncio.get_running_loop().create_future()

        def on_reply(replies: list[Reply]) -> None:
            if not done.done():
                done.set_result(replies)

        self.send(pack(*args), on_reply)
        replies = await done
        if not replies:
            raise RedisConnectionError("connection lost before the reply")
        return replies[0]

    @property
    def silence_s(self) -> float:
        """How long the oldest command has been waiting for its reply; 0 if none is."""
        return time.monotonic() - self._waiting[0][2] if self._waiting else 0.0

    def abort(self) -> None:
        """Drop the connection at once; waiting senders are told."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            self._replies.append(reply)
            expected, on_reply, _ = self._waiting[0]
            if len(self._replies) == expected:
                self._waiting.popleft()
                replies, self._replies = self._replies, []
                on_reply(replies)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._transport = None
        if not self.lost.done():
            self.lost.set_result(None)
        self._tell_waiting()

    def _tell_waiting(self) -> None:
        waiting, self._waiting, self._replies = self._waiting, deque(), []
        for _, on_reply, _ in waiting:
            on_reply([])


async def open_to_primary(url: str) -> RawConnection:
    """Open a connection to a server that takes writes; a replica would show a writer a log that lags.

    Raises:
        redis.exceptions.RedisError, OSError, TimeoutError: as `open_raw_connection`, or it is a replica.
    """
    connection = await open_raw_connection(url)
    try:
        async with asyncio.timeout(connections.REPLY_TIMEOUT_S):
            role = await connection.call(b"ROLE")
        if isinstance(role, list) and role[0] == b"slave":  # an error: we may not ask, the first write tells
            connection.abort()
            await connection.lost
    except BaseException:
        connection.abort()
        raise
    if connection.lost.done():
        raise ReadOnlyError("The server is a replica.")
    return connection


class SubscribedConnection(RawConnection):
    """A connection in which the server speaks when it wants to: what it says goes to `on_message`."""

    on_message: Callable[[Reply], None]

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (message := self._reader.gets()) is not False:
            self.on_message(message)


Kind = TypeVar("Kind", bound=RawConnection)


async def open_subscribed_connection(url: str, on_message: Callable[[Reply], None]) -> SubscribedConnection:
    """Open a connection for subscriptions; `on_message` gets whatever the server says, errors too.

    Raises:
        redis.exceptions.RedisError, OSError: it does not answer, or refuses us.
    """
    return await _open(url, lambda writer: _subscribed(writer, url, on_message))


def _subscribed(writer: object, url: str, on_message: Callable[[Reply], None]) -> SubscribedConnection:
    made = SubscribedConnection(keep_alive=writer, url=url)
    made.on_message = on_message
    return made


async def open_raw_connection(url: str) -> RawConnection:
    """Open a connection to the store at `url`.

    Raises:
        redis.exceptions.RedisError, OSError: it does not answer, or refuses us.
    """
    return await _open(url, lambda writer: RawConnection(keep_alive=writer, url=url))


async def _open(url: str, make: Callable[[object], Kind]) -> Kind:
    """Take over the transport of a connection that redis-py opens.

    Raises:
        redis.exceptions.RedisError, OSError: it does not answer, or refuses us.
    """
    client = connections.connect(url)
    connection = client.connection_pool.make_connection()
    try:
        await connection.connect()
    finally:
        await connections.close_sentinels(client)
    writer = connection._writer  # noqa: SLF001 - the one place that takes a transport over
    assert writer is not None
    connection._writer = connection._reader = None  # noqa: SLF001
    pipe = make(writer)
    transport = writer.transport
    transport.set_protocol(pipe)
    pipe.connection_made(transport)
    _opened.add(pipe)
    return pipe


def abort_all(url: str) -> None:
    """Abort all open connections of the running loop to `url`: another server is the primary now."""
    loop = asyncio.get_running_loop()
    for connection in list(_opened):
        if connection.url == url and connection.loop is loop:
            connection.abort()
