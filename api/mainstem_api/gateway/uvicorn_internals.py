"""Wraps the private names of uvicorn that the gateway uses; no other module may use them.

`tests/unit/test_uvicorn_internals.py` proves each name against the installed version, `pyproject.toml` bounds
the versions. A new uvicorn that renames something fails there, and is adapted to here.
"""

from __future__ import annotations

import logging
import signal
import socket
from typing import Any, Final, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

UNFINISHED: Final = "ASGI callable returned without completing response."
"""What uvicorn logs when a response is reset on purpose."""


class Connection(HttpToolsProtocol):
    """One HTTP/1 connection of uvicorn's, with names for the internal state that the gateway looks at.

    uvicorn makes a cycle per request. The newest one stands in `cycle`; one that waits for the answer before
    it stands in `pipeline` too.
    """

    @property
    def newest(self) -> RequestResponseCycle | None:
        """The request whose head came last; None before the first."""
        return cast("RequestResponseCycle | None", self.cycle)

    @property
    def is_closing(self) -> bool:
        """Whether the connection is closed, or about to be once its last bytes are sent."""
        return self.transport.is_closing()

    def withdraw(self, cycle: RequestResponseCycle) -> None:
        """Drop a request that waits for earlier answers."""
        for waiting in [entry for entry in self.pipeline if entry[0] is cycle]:
            self.pipeline.remove(waiting)

    def ignore_input(self) -> None:
        """Read nothing more until an answer is complete."""
        self.flow.pause_reading()

    def expect_request(self) -> None:
        """Close the connection unless the next request begins within uvicorn's keep-alive time."""
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def _unsupported_upgrade_warning(self) -> None:
        # What follows an upgrade that is not made can be no request: the parser has stopped.
        if self.newest is not None:
            self.newest.keep_alive = False


def end_after(cycle: RequestResponseCycle, transport: Any) -> None:
    """Have a cycle write to, and close, another transport than its connection's own."""
    cycle.transport = transport


def stop_listening(server: uvicorn.Server, sockets: list[socket.socket] | None) -> None:
    """Accept no more connections, and close idle ones."""
    for listening in (*server.servers, *(sockets or ())):
        listening.close()
    for connection in connections(server):
        connection.shutdown()


def connections(server: uvicorn.Server) -> list[Connection]:
    """Return the server's connections, those that are closing included."""
    return cast("list[Connection]", list(server.server_state.connections))


def running_server() -> Any | None:
    """Return the uvicorn server that handles this process's SIGTERM; None if another program does.

    Its signal handler is a bound method; `should_exit` is set on the server that it belongs to.
    """
    server: Any = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return server if hasattr(server, "should_exit") else None


class _ExpectedResets(logging.Filter):
    """Drops uvicorn's complaint about responses without an end: that is how a stream is reset."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.msg != UNFINISHED


_FILTER: Final = _ExpectedResets()


def expect_resets() -> None:
    """Keep deliberate resets out of uvicorn's log."""
    logging.getLogger("uvicorn.error").addFilter(_FILTER)
