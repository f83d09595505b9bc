"""Turns failures into answers, and adds security headers; outside of it are only traces and request counts.

Failures end here and not in the framework, which passes them on to the server after it has answered them:
the server then cuts the connection, and the client's next request on it with it.
"""

from __future__ import annotations

import logging
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mainstem_api.gateway import problems
from mainstem_api.gateway.middleware.access import is_protected
from mainstem_api.gateway.problems import path_of
from mainstem_shared import errors
from mainstem_shared.store import failures

logger = logging.getLogger(__name__)

POLICY: Final = b"default-src 'none'; frame-ancestors 'none'"
"""For what is no page. Pages bring their own policy."""
DOCS_POLICY: Final = (
    b"default-src 'none'; connect-src 'self'; img-src 'self' data: https://fastapi.tiangolo.com; "
    b"script-src 'unsafe-inline' https://cdn.jsdelivr.net; "
    b"style-src 'unsafe-inline' https://cdn.jsdelivr.net; "
    b"frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
"""The framework's page about the interface is one inline script that loads Swagger from this address."""
_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_PRIVATE: Final = (b"cache-control", b"no-store")
"""Nobody on the way may keep what belongs to a user."""


class ErrorsAndHeaders:
    """Answers failures, and completes the headers of all answers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = path_of(scope)
        started = False

        async def completed(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": _complete(message["headers"], path)}
            await send(message)

        try:
            await self._app(scope, receive, completed)
        except Exception as error:  # a request's boundary: whatever went wrong, the process serves on
            noted = {"action": "request_failed", "path": path}
            if isinstance(error, failures.RedisError) and failures.is_transient(error):
                logger.warning("the store failed a request", extra={**noted, "error": repr(error)})
                answer = problems.of_error(errors.StoreUnavailable())
            else:
                logger.exception("a request failed", extra=noted)
                answer = problems.failure()
            if not started:  # else the answer just ends here, which the server makes a reset
                await answer(scope, receive, completed)


def _complete(headers: list[tuple[bytes, bytes]], path: str) -> list[tuple[bytes, bytes]]:
    wanted = [*_HEADERS, (b"content-security-policy", DOCS_POLICY if path == "/docs" else POLICY)]
    if is_protected(path):
        wanted.append(_PRIVATE)
    given = {name.lower() for name, _ in headers}
    return [*headers, *(pair for pair in wanted if pair[0] not in given)]
