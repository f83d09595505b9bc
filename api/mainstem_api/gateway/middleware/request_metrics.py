"""Counts requests, outside of all other layers of the app.

Pure ASGI: Starlette's `BaseHTTPMiddleware` would end an event stream cleanly where it must be reset.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mainstem_api.gateway.metrics import Metrics

UNLAYERED_SEND: Final = "mainstem.send"
"""Scope entry: the `send` below all layers of this app, for the thousands of body parts of an event stream:
nothing but a response's start matters to those layers."""


class RequestCount:
    """Counts requests by method, route template and status."""

    def __init__(self, app: ASGIApp, metrics: Callable[[], Metrics]) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._count(scope, message["status"])
            await send(message)

        scope[UNLAYERED_SEND] = send
        await self._app(scope, receive, noted)

    def _count(self, scope: Scope, status: int) -> None:
        # Neither unknown paths nor unknown methods may become labels: callers could make endless many.
        route = getattr(scope.get("route"), "path", "other")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics().requested(method, route, str(status))


_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
