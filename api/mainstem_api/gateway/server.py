"""Serves the gateway with uvicorn, for `mainstem gateway`, the stack and tests.

Shutdown order: no new connections, all event streams reset (their readers reconnect elsewhere), other
requests finish, then the app closes its connections.
"""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any, Final

import uvicorn
from fastapi import FastAPI

from mainstem_api.gateway.app import create_app
from mainstem_api.gateway.middleware.http_protocol import Protocol, end_unread
from mainstem_api.gateway.uvicorn_internals import connections, stop_listening
from mainstem_shared import garbage_collection, log_lines, tracing
from mainstem_shared.settings import Settings
from mainstem_shared.store import endpoints, readiness
from mainstem_shared.store.loopback import check_address

SHUTDOWN_S: Final = 10
"""After so long, requests that still run are cut off."""
BACKLOG: Final = 4096
"""All readers of a gateway that stopped come at once."""

WATCH_S: Final = 5.0
"""Between two looks at what connections have not taken."""


class Server(uvicorn.Server):
    """uvicorn, resetting the app's event streams first when it stops: it would wait for them for ever."""

    drains_itself: Final = True
    """For `state`, which looks after servers that do not."""

    def __init__(self, app: FastAPI, settings: Settings, **options: Any) -> None:
        self._app = app
        self._settings = settings
        log_lines.set_up(kind=settings.log_format)
        tracing.set_up("mainstem-gateway")
        options.setdefault("http", Protocol)
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                backlog=BACKLOG,
                timeout_graceful_shutdown=SHUTDOWN_S,
                timeout_keep_alive=65,  # longer than the 60 s of common proxies, which reuse connections
                server_header=False,
                # Who connects is who connects: a header must not make a stranger one of MAINSTEM_PROXY_PEERS.
                proxy_headers=False,
                ws="none",
                **options,
            )
        )

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until told to stop.

        Raises:
            Misconfigured: one of the sockets leads further than the settings allow.
            ClusterUnsupported: store or broker is a node of a Cluster.
        """
        for one in sockets or ():
            if one.family in {socket.AF_INET, socket.AF_INET6}:
                check_address(self._settings, one.getsockname()[0])
        urls = endpoints.store_url(self._settings), endpoints.broker_url(self._settings)
        await asyncio.to_thread(readiness.refuse_cluster, *urls)
        watching = asyncio.create_task(self._end_unread(), name="unread-answers")
        try:
            await super().serve(sockets)
        finally:
            watching.cancel()

    async def _end_unread(self) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            end_unread(connections(self), time.monotonic())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # The way in is closed before any stream is reset: its reader comes back at once, and not to us.
        stop_listening(self, sockets)
        self._app.state.holder.drain()
        await super().shutdown(sockets)


def serve(settings: Settings | None = None, **options: Any) -> None:
    """Serve until SIGTERM or SIGINT. `options` go to `uvicorn.Config`."""
    settings = settings or Settings()
    server = Server(create_app(settings), settings, **options)
    garbage_collection.freeze()
    server.run()
