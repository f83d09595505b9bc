"""The door: every request passes it before its body is read, and leaves it with a known user or a refusal.

What it locks is everything below `/v1/` and the metrics: a route that is added there is locked without
doing anything for it. Pure ASGI, like `middleware`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final
from urllib.parse import unquote_plus

from starlette.types import ASGIApp, Receive, Scope, Send

from mainstem_api.gateway import problems, stream_tokens
from mainstem_api.gateway.authentication import Authenticator
from mainstem_api.gateway.stream_tokens import StreamTokens
from mainstem_shared import errors
from mainstem_shared.principals import Principal

PRINCIPAL: Final = "mainstem.principal"
"""Scope entry: who makes the request, once the door knows."""
_STREAM_TOKEN: Final = "mainstem.stream_token"  # noqa: S105 - a name
_EVENTS: Final = re.compile(r"/v1/runs/([^/]+)/events")


class Door:
    """Authenticates requests: by the authenticator, or by a stream token where one is valid."""

    def __init__(self, authenticator: Authenticator, tokens: Callable[[], StreamTokens]) -> None:
        self._authenticator = authenticator
        self._tokens = tokens

    async def principal_of(self, scope: Scope) -> Principal:
        """Return who makes a request; asks only once.

        Raises:
            NotAuthenticated: nobody proved to.
        """
        known: Principal | None = scope.get(PRINCIPAL)
        if known is None:
            known = scope[PRINCIPAL] = await self._identify(scope)
        return known

    async def _identify(self, scope: Scope) -> Principal:
        token: str | None = scope.get(_STREAM_TOKEN)
        run = _EVENTS.fullmatch(path_of(scope))
        if token is not None and run is not None and scope["method"] == "GET":
            return await self._tokens().check(token, run[1])
        return await self._authenticator.authenticate(scope)


class Locked:
    """Lets in who the door lets in. Goes around everything that looks at a request's content."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self._app = app
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            _hide_token(scope)
            if is_locked(path_of(scope)) and scope["method"] != "OPTIONS":  # which preflights send bare
                try:
                    await self._door.principal_of(scope)
                except errors.MainstemError as error:
                    await problems.of_error(error)(scope, receive, send)
                    return
        await self._app(scope, receive, send)


def path_of(scope: Scope) -> str:
    """Return a request's path within this app."""
    return scope["path"].removeprefix(scope.get("root_path", ""))


def is_locked(path: str) -> bool:
    """Tell whether a path is for known users only."""
    return path == "/v1" or path.startswith("/v1/") or path == "/metrics"


def _hide_token(scope: Scope) -> None:
    """Take a stream token out of the address, in place: access logs are written from the same scope."""
    if not scope["query_string"]:
        return
    kept: list[bytes] = []
    for part in scope["query_string"].split(b"&"):
        name, _, value = part.partition(b"=")
        if unquote_plus(name.decode("latin-1")) == stream_tokens.PARAMETER:
            scope[_STREAM_TOKEN] = unquote_plus(value.decode("latin-1"))
        else:
            kept.append(part)
    scope["query_string"] = b"&".join(kept)
