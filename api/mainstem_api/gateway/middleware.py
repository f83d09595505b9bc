"""ASGI middleware of the gateway: a limit for request bodies, allowed methods, and the count of requests.

Pure ASGI: Starlette's `BaseHTTPMiddleware` would end an event stream cleanly where it must be reset.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mainstem_api.gateway import problems
from mainstem_api.gateway.metrics import Metrics

BODY_LIMIT: Final = 2 * 1024 * 1024
"""A run's input may have 1 MB of JSON; escapes and white space may double it."""
UNLAYERED_SEND: Final = "mainstem.send"
"""Scope entry: the `send` below all layers of this app, for the thousands of body parts of an event stream:
nothing but a response's start matters to those layers."""
_TOO_LARGE: Final = f"The request's body is over {BODY_LIMIT} bytes."


class BodyLimit:
    """Refuses bodies over BODY_LIMIT: by their announced length, or as soon as more has come."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdecimal() and int(announced[:20]) > BODY_LIMIT:
            # The server drops the rest of the body; closing could reset the client before it reads this.
            await problems.problem(413, "body_too_large", _TOO_LARGE)(scope, receive, send)
            return
        await self._app(scope, _counting(receive), send)


def _counting(receive: Receive) -> Receive:
    received = 0

    async def counted() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > BODY_LIMIT:
            raise HTTPException(413, _TOO_LARGE)
        return message

    return counted


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
        self._metrics().requests.labels(method, route, str(status)).inc()


_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
