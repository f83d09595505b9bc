"""Extends uvicorn's connection with bounds on what no layer of the app ever sees.

The app answers requests. Here stands what is none yet, or is one no longer: heads without an end or that
never come, bodies that go on after their answer, trailers, clients that close their half of the connection,
and answers that nobody reads.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Iterable
from typing import Any, Final

from mainstem_api.gateway.outgoing import WRITE_S
from mainstem_api.gateway.uvicorn_internals import Connection, end_after

HEAD_BYTES: Final = 64 * 1024
"""Of a head that is not complete. What completes below this is refused by the app, from its own limit on.
Also of trailers: what stands after a chunked body."""
HEAD_S: Final = 30.0
"""Time for a request's head, from the connection or the first byte on."""
LINGER_S: Final = 5.0
"""Time for the rest of a body whose request is answered: closing at once could reset the client before it
has read the answer; dropping what comes for longer would let it hold the connection."""
KERNEL_BYTES: Final = 128 * 1024
"""What may wait in the kernel, beside what is under way."""
CONNECTION: Final = "mainstem.connection"
"""Scope entry: the `Protocol` that a request came by. Missing under other servers."""

_CLOSE: Final = b"connection: close\r\ncontent-length: 0\r\n\r\n"
_TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\n" + _CLOSE
_TOO_SLOW: Final = b"HTTP/1.1 408 Request Timeout\r\n" + _CLOSE


class Protocol(Connection):
    """One connection."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._in_head = True  # between messages counts as the next one's head
        self._in_body = False  # of this feed, some was a body
        self._heads = 0
        self._idle_bytes = 0  # received since a head or a body went on
        self._deadline: asyncio.TimerHandle | None = None
        self._half_closed = False  # no further request can come; those that came whole are answered
        self._lingering = False  # the last answer is sent; what comes still is dropped
        self._on_half_close: Callable[[], None] | None = None
        self.unsent = 0
        """Bytes that waited to be sent when `end_unread` looked last."""
        self.unsent_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        _limit_kernel(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_deadline()
        self._on_half_close = None
        super().connection_lost(exc)

    # -- what is received

    def data_received(self, data: bytes) -> None:
        if self._half_closed or self._lingering:
            return
        heads = self._heads
        self._in_body = False
        if self._in_head and self._deadline is None:
            self._expect_head()
        super().data_received(data)
        if self._in_body or self._heads != heads:
            self._idle_bytes = 0
            return
        self._idle_bytes += len(data)
        if self._idle_bytes > HEAD_BYTES:
            self._refuse(_TOO_LARGE)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # else a trailer, which nobody reads, and of which there may be any number
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._heads += 1
        self._cancel_deadline()
        self.scope[CONNECTION] = self  # type: ignore[typeddict-unknown-key]
        super().on_headers_complete()
        if self.newest is not None and not self.newest.keep_alive:
            end_after(self.newest, _LingeringTransport(self))

    def on_body(self, body: bytes) -> None:
        self._in_body = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head, self._idle_bytes = True, 0
        self._cancel_deadline()
        if self._is_answered and not self.is_closing:  # the rest of a body that outlived its answer
            self.expect_request()

    def send_400_response(self, msg: str) -> None:
        if self._is_answered or not self._has_whole_request:
            super().send_400_response(msg)
        else:  # bytes in the middle of another request's answer would become part of it
            self._finish_answers()
            self.ignore_input()

    # -- half-closed connections

    def eof_received(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Keep the connection open while a request that came whole has no complete answer."""
        if not self._has_whole_request or self.scheme == "https":  # TLS cannot be closed by halves
            return False
        self._finish_answers()
        if self._on_half_close is not None:
            # A client that is gone looks the same, but resets the connection once something is written to it.
            self._on_half_close()
            self.loop.call_later(_PROBE_S, self._probe)
        return True

    def on_half_close(self, write: Callable[[], None]) -> None:
        """Have `write` called when the client closed its half: what it writes shows if the client is gone."""
        self._on_half_close = write
        if self._half_closed:
            self.loop.call_soon(write)
            self.loop.call_later(_PROBE_S, self._probe)

    def _probe(self) -> None:
        if self._on_half_close is not None:
            self._on_half_close()

    def _finish_answers(self) -> None:
        """Answer what came whole, and then close."""
        self._half_closed = True
        self._cancel_deadline()
        if not self._in_head and self.newest is not None:
            self.withdraw(self.newest)

    @property
    def _is_answered(self) -> bool:
        return self.newest is None or self.newest.response_complete

    @property
    def _has_whole_request(self) -> bool:
        """Tell whether a complete request waits for its answer, or for the rest of it."""
        if self._in_head:
            return not self._is_answered
        return any(cycle is self.newest for cycle, _ in self.pipeline)  # one before it is being answered

    # -- after an answer

    def on_response_complete(self) -> None:
        self._on_half_close = None
        if self._half_closed and not self.pipeline and not self.is_closing:
            self.transport.close()
        super().on_response_complete()
        if not self.is_closing and not self._in_head and self._is_answered:
            self.linger()

    def linger(self) -> None:
        """Wait for the rest of an answered request's body, not for long, and drop it."""
        self._cancel_deadline()
        self._deadline = self.loop.call_later(LINGER_S, self.transport.close)

    def close_answered(self) -> None:
        """Close the connection as an answer asks for it; the rest of the request's body is dropped first."""
        if self._in_head or self._half_closed or not self.transport.can_write_eof():
            self.transport.close()
        elif not self.is_closing:
            self._lingering = True
            self.transport.write_eof()  # where a client without chunked coding sees the answer's end
            self.linger()

    # -- deadlines

    def _expect_head(self) -> None:
        self._deadline = self.loop.call_later(HEAD_S, self._refuse, _TOO_SLOW)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self, answer: bytes) -> None:
        if not self.is_closing:
            if self._is_answered and self._in_head:  # else it would land in another answer
                self.transport.write(answer)
            self.transport.close()

    def abort(self) -> None:
        """Reset the connection: what was not sent is dropped."""
        self.transport.abort()


_PROBE_S: Final = 0.2


class _LingeringTransport:
    """A connection's transport as a cycle that ends the connection sees it: `close` lets the client read."""

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol
        self.write = protocol.transport.write
        self.is_closing = protocol.transport.is_closing

    def close(self) -> None:
        self._protocol.close_answered()


def _limit_kernel(transport: asyncio.Transport) -> None:
    """Have the kernel buffer little, and end connections whose client acknowledges nothing.

    By default it takes megabytes, and asks for more only when a third of them is gone: a slow reader would
    look like one that does not read.
    """
    connected = transport.get_extra_info("socket")
    if sys.platform != "linux" or connected is None or connected.family == socket.AF_UNIX:
        return
    connected.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, KERNEL_BYTES)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(WRITE_S * 1000))


_TCP_NOTSENT_LOWAT: Final = 25
"""Linux's number; Python has no name for it before 3.12."""


def end_unread(connections: Iterable[Connection], now: float) -> int:
    """Reset connections that took nothing of what waits for them for WRITE_S; returns how many.

    Looks at all connections every few seconds instead of timing each write: events cost nothing more.
    """
    ended = 0
    for connection in connections:
        if not isinstance(connection, Protocol):
            continue
        unsent = connection.transport.get_write_buffer_size()
        if not unsent or unsent != connection.unsent:
            connection.unsent, connection.unsent_since = unsent, now
        elif now - connection.unsent_since >= WRITE_S:
            connection.abort()
            ended += 1
    return ended
