"""Converts errors to this API's shape: `{"error": {"message", "type", "param", "code"}}`.

Codes and messages are those of our problem documents. A request that does not fit is 400 here, a model that
is not there 404, and conflicts say that trying again is of no use, which clients would do by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from http import HTTPStatus
from typing import Any, Final

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mainstem_api.gateway import problems
from mainstem_api.gateway.sse import EventStream
from mainstem_shared import errors
from mainstem_shared.model import jsontext


class ErrorBody(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorReply(BaseModel):
    """An error, in this API's shape."""

    error: ErrorBody


_TYPES: Final[Mapping[int, str]] = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}
_NO_RETRY: Final = {"x-should-retry": "false"}


def documents(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe error answers with these statuses, for OpenAPI."""
    return {status: {"description": "Error", "model": ErrorReply} for status in statuses}


def refusal(
    status: int,
    code: str,
    message: str,
    *,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return an error in this API's shape."""
    kind = _TYPES.get(status, "invalid_request_error")
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return Response(jsontext.dumps(body), status, dict(headers or {}), "application/json")


def of_error(error: errors.MainstemError) -> Response:
    """Return an error raised on purpose in this API's shape."""
    param = error.fields.get("path")
    named = None if param is None else str(param)
    if isinstance(error, errors.UnknownEngine):
        return refusal(HTTPStatus.NOT_FOUND, "model_not_found", error.detail, param="model")
    problem = problems.of_error(error)
    status = problem.status_code
    headers = {name: problem.headers[name] for name in ("retry-after",) if name in problem.headers}
    if status == HTTPStatus.UNPROCESSABLE_ENTITY:
        status = HTTPStatus.BAD_REQUEST
    if status == HTTPStatus.CONFLICT:
        headers |= _NO_RETRY
    return refusal(status, error.code, error.detail, param=named, headers=headers)


def _of_validation(error: RequestValidationError) -> Response:
    found = error.errors()
    where = ".".join(str(part) for part in found[0]["loc"][1:]) if found else ""
    said = str(found[0]["msg"]) if found else "The request does not fit its schema."
    message = f"{where}: {said}" if where else said
    return refusal(HTTPStatus.BAD_REQUEST, "invalid_request", message, param=where or None)


class Route(APIRoute):
    """A route whose refusals have this API's shape."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except errors.MainstemError as error:
                return of_error(error)
            except RequestValidationError as error:
                return _of_validation(error)
            except HTTPException as error:
                too_large = error.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
                code = "body_too_large" if too_large else "invalid_request"
                return refusal(error.status_code, code, str(error.detail))

        return handle


class ResponseStream(EventStream):
    """An event stream whose refusals, before its first byte, have this API's shape."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except errors.MainstemError as error:
            await of_error(error)(scope, receive, send)
