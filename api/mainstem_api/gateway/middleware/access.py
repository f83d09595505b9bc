"""Access control gives every request a known user or an error, before its body is read.

What it locks is everything below `/v1/` and the metrics: a route that is added there is locked without
doing anything for it. Pure ASGI, like `middleware`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final
from urllib.parse import unquote_plus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mainstem_api.gateway import problems
from mainstem_api.gateway.auth import stream_tokens
from mainstem_api.gateway.auth.authenticators import Authenticator
from mainstem_api.gateway.auth.stream_tokens import StreamTokens
from mainstem_api.gateway.middleware.origins import Origins
from mainstem_api.gateway.middleware.rate_limits import Limits
from mainstem_api.gateway.problems import path_of
from mainstem_shared import errors
from mainstem_shared.model.principals import Principal

PRINCIPAL: Final = "mainstem.principal"
"""Scope entry: who makes the request, once access control knows."""
_STREAM_TOKEN: Final = "mainstem.stream_token"  # noqa: S105 - a name
_EVENTS: Final = re.compile(r"/v1/runs/([^/]+)/events")


class AccessControl:
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


class AccessMiddleware:
    """Passes on the requests that access control and rate limits allow, before their content is read."""

    def __init__(self, app: ASGIApp, access: AccessControl, limits: Limits, origins: Origins) -> None:
        self._app = app
        self._access = access
        self._limits = limits
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        _hide_token(scope)
        if not is_protected(path_of(scope)) or scope["method"] == "OPTIONS":  # which preflights send bare
            await self._app(scope, receive, send)
            return
        try:
            self._origins.check(scope)
            user = await self._access.principal_of(scope)
            self._limits.admit(user)
            if "text/event-stream" in Headers(scope=scope).get("accept", ""):
                self._limits.check_streams(user)  # before a run is started for a stream that cannot be
        except errors.MainstemError as error:
            await problems.of_error(error)(scope, receive, send)
        else:
            await _Admitted(self._app, self._limits, user).serve(scope, receive, send)


class _Admitted:
    """One admitted request; if its answer is an event stream, that counts as long as it is open."""

    def __init__(self, app: ASGIApp, limits: Limits, user: Principal) -> None:
        self._app = app
        self._limits = limits
        self._user = user
        self._refusal: errors.TooManyStreams | None = None
        self._answered = False

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        with ExitStack() as held:

            async def counted(message: Message) -> None:
                if message["type"] == "http.response.start" and _is_stream(message):
                    self._hold(held)
                self._answered = True
                await send(message)

            try:
                await self._app(scope, receive, counted)
            except Exception:
                if self._refusal is None:
                    raise
        if self._refusal is not None and not self._answered:
            await problems.of_error(self._refusal)(scope, receive, send)

    def _hold(self, held: ExitStack) -> None:
        try:
            held.enter_context(self._limits.stream(self._user))
        except errors.TooManyStreams as refusal:
            self._refusal = refusal
            raise


def _is_stream(message: Message) -> bool:
    content_type = Headers(raw=message["headers"]).get("content-type", "")
    return message["status"] == 200 and content_type.startswith("text/event-stream")


def is_protected(path: str) -> bool:
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
