"""Takes up the `traceparent` of requests, so that the runs they start belong to that trace.

FastAPI makes a request's own span, in recent releases and where there is a tracer; this works without either.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from mainstem_shared import tracing

_CHANGING: Final = frozenset({"POST", "DELETE"})


def untraced(scope: MutableMapping[str, Any]) -> bool:
    """Tell FastAPI which requests get no span: streams and reads, and whatever may name or show something.

    A query may hold a stream token, or what an operator searches for: spans would show both.
    """
    return scope.get("method") not in _CHANGING or bool(scope.get("query_string"))


class RequestTraces:
    """Hands a caller's trace on to what its request starts."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in _CHANGING:
            await self._app(scope, receive, send)
            return
        with tracing.given(Headers(scope=scope).get("traceparent")):
            await self._app(scope, receive, send)
