"""Sends large answers through `outgoing`: the layer next to the routes, so that others see its refusals."""

from __future__ import annotations

from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mainstem_api.gateway import problems
from mainstem_api.gateway.middleware.http_protocol import CONNECTION
from mainstem_api.gateway.outgoing import PIECE, Outgoing, UnreadError
from mainstem_shared import errors


class LargeAnswers:
    """Bounds the answers of an app that come whole; event streams bound theirs themselves."""

    def __init__(self, app: ASGIApp, outgoing: Callable[[], Outgoing]) -> None:
        self._app = app
        self._outgoing = outgoing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(self._outgoing, scope, receive, send)
        await self._app(scope, receive, answer.send)


class _Answer:
    """One answer. Its head waits for its body if that is large: there may be no room for it."""

    def __init__(self, outgoing: Callable[[], Outgoing], scope: Scope, receive: Receive, send: Send) -> None:
        self._outgoing = outgoing
        self._scope = scope
        self._receive = receive
        self._send = send
        self._head: Message | None = None
        self._is_over = False

    async def send(self, message: Message) -> None:
        if self._is_over:
            return  # as a server does after a disconnect
        if message["type"] == "http.response.start" and _is_large(message):
            self._head = message
        elif message["type"] == "http.response.body" and (self._head or len(message["body"]) > PIECE):
            await self._send_body(message)
        else:
            await self._send(message)

    async def _send_body(self, message: Message) -> None:
        try:
            await self._outgoing().send(message.pop("body", b""), self._send_part)
            await self._begin()
            await self._send({**message, "body": b""})
        except errors.Overloaded as error:
            self._is_over = True
            await problems.of_error(error)(self._scope, self._receive, self._send)
        except UnreadError:
            self._is_over = True
            if (connection := self._scope.get(CONNECTION)) is not None:
                connection.abort()

    async def _send_part(self, message: Message) -> None:
        await self._begin()
        await self._send(message)

    async def _begin(self) -> None:
        head, self._head = self._head, None
        if head is not None:
            await self._send(head)


def _is_large(head: Message) -> bool:
    length = Headers(raw=head["headers"]).get("content-length", "")
    return length.isdecimal() and int(length) > PIECE
