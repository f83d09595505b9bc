"""Serves a fake's ASGI app on a real socket, in a thread of this process, for as long as a test wants it."""

from __future__ import annotations

import json
import socket
import threading
from types import TracebackType
from typing import Any, Self

import uvicorn

from support.waiting import wait_until


class ServedApp:
    """Use it as a context manager. Who derives from it answers each request in `_app`."""

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            self._app,
            interface="asgi3",
            log_level="critical",
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name=type(self).__name__
        )

    @property
    def url(self) -> str:
        """The address that clients of a provider take as their base."""
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        wait_until(lambda: self._server.started, description=f"{self._thread.name} to listen")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=10)
        self._socket.close()
        assert not self._thread.is_alive()

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        raise NotImplementedError

    @staticmethod
    async def _body(receive: Any) -> Any:
        """Read a request's body of JSON."""
        body = b""
        while (message := await receive()).get("more_body"):
            body += message["body"]
        return json.loads(body + message.get("body", b""))
