"""Takes the stack's ports before anything starts, so that a port in use is an error and not a crash loop."""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import Callable

from mainstem_shared.errors import MainstemError

_BACKLOG = 2048
_POLL_S = 0.1


class PortTakenError(MainstemError):
    """Somebody else listens there."""

    code = "port_taken"
    message = "Port {port} of {host} is taken; set {variable} to another one (0: any free one)."


async def listen(
    host: str, port: int, *, variable: str, patience_s: float, waiting: Callable[[str], None]
) -> socket.socket:
    """Return a listening socket, to be inherited by the process that serves it.

    As the supervisor keeps it, connections made while the gateway restarts wait instead of being refused.
    The gateway of a killed stack may take `patience_s` to let go of the port; `waiting` is told so once.

    Raises:
        PortTakenError: it is still taken then.

    """
    deadline = time.monotonic() + patience_s
    told = False
    while True:
        try:
            return _listen_now(host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            if time.monotonic() > deadline:
                raise PortTakenError(host=host, port=port, variable=variable) from error
        if not told:
            waiting(f"Port {port} is still in use: waiting up to {patience_s:g} s for it …")
            told = True
        await asyncio.sleep(_POLL_S)


def _listen_now(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=_BACKLOG)
