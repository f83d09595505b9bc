"""Maps errors to HTTP statuses and encodes them as problem documents (RFC 9457); the only place that does.

Every refusal of the gateway, its framework's included, is one of these, with a stable `code`. Under the path
of a protocol that has an error format of its own (`app.state.error_formats`) it is sent in that format,
whichever layer refuses: access control, limits, routing and routes alike.
"""

# what clients and providers send is checked by models or by hand, not by types.
# pyright: reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from mainstem_shared import errors
from mainstem_shared.model import jsontext

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_S: Final = 2
"""A store or broker that restarts is back within seconds; clients add jitter of their own."""

# The first class that fits decides: the most specific ones stand first.
_STATUS: Final[Sequence[tuple[type[errors.MainstemError], HTTPStatus]]] = (
    (errors.InvalidCursor, HTTPStatus.BAD_REQUEST),
    (errors.InputTooLarge, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (errors.UndecidedCall, HTTPStatus.BAD_REQUEST),
    (errors.InvalidDecision, HTTPStatus.BAD_REQUEST),
    (errors.InvalidRequest, HTTPStatus.UNPROCESSABLE_ENTITY),
    (errors.NotAuthenticated, HTTPStatus.UNAUTHORIZED),
    (errors.Forbidden, HTTPStatus.FORBIDDEN),
    (errors.NotFound, HTTPStatus.NOT_FOUND),
    (errors.IdempotencyKeyReused, HTTPStatus.UNPROCESSABLE_ENTITY),
    (errors.Conflict, HTTPStatus.CONFLICT),
    (errors.CallbackNotAllowed, HTTPStatus.FORBIDDEN),
    (errors.DecisionNotAllowed, HTTPStatus.FORBIDDEN),
    (errors.ActionExpired, HTTPStatus.GONE),
    (errors.TooManyRuns, HTTPStatus.TOO_MANY_REQUESTS),
    (errors.TooManyRequests, HTTPStatus.TOO_MANY_REQUESTS),
    (errors.TooManyStreams, HTTPStatus.TOO_MANY_REQUESTS),
    (errors.Unavailable, HTTPStatus.SERVICE_UNAVAILABLE),
)
_TEMPORARY: Final = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
# What the framework refuses by itself.
_CODES: Final[Mapping[int, str]] = {
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
}
_SHOWN: Final = ("run_id", "path", "call_id")  # fields of errors that callers act on


class Problem(BaseModel):
    """A refusal. Members beside these depend on the `code`: `run_id` of `thread_busy`, for example."""

    model_config = ConfigDict(extra="allow")

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What a protocol's own error format is made of; `headers` are those like Retry-After."""

    status: int
    code: str
    detail: str
    headers: Mapping[str, str]
    members: Mapping[str, Any]


ErrorFormat = Callable[[Refusal], Response]
"""Encodes a refusal for one protocol."""


class ProblemResponse(Response):
    """A refusal: a problem document, or what the protocol of the request's path has in its place."""

    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal
        body = {
            "type": "about:blank",
            "title": HTTPStatus(refusal.status).phrase,
            "status": refusal.status,
            "detail": refusal.detail,
            "code": refusal.code,
            **refusal.members,
        }
        super().__init__(jsontext.dumps(body), refusal.status, dict(refusal.headers), MEDIA_TYPE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        encode = _format_of(scope)
        if encode is None:
            await super().__call__(scope, receive, send)
        else:
            await encode(self.refusal)(scope, receive, send)


def _format_of(scope: Scope) -> ErrorFormat | None:
    """Return the error format of the request's path, if it has one of its own."""
    state = getattr(scope.get("app"), "state", None)  # none: a middleware that stands alone
    formats: Mapping[str, ErrorFormat] = getattr(state, "error_formats", {})
    path = path_of(scope)
    for prefix, encode in formats.items():
        if path == prefix or path.startswith(f"{prefix}/"):
            return encode
    return None


def path_of(scope: Scope) -> str:
    """Return a request's path within this app, as routing sees it."""
    path: str = scope["path"]
    root = scope.get("root_path", "")
    return path[len(root) :] if path.startswith(f"{root}/") or path == root else path


def problem(
    status: int, code: str, detail: str, *, headers: Mapping[str, str] | None = None, **members: Any
) -> Response:
    """Return a refusal as a response."""
    refusal = Refusal(status=status, code=code, detail=detail, headers=dict(headers or {}), members=members)
    return ProblemResponse(refusal)


def error_documents(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe refusals in a protocol's own format with these statuses, for OpenAPI."""
    content = {"application/json": {"schema": {"type": "object"}}}
    return {status: {"description": "Error", "content": content} for status in statuses}


def status_of(error: errors.MainstemError) -> HTTPStatus:
    """Return the HTTP status of an error raised on purpose."""
    for kind, status in _STATUS:
        if isinstance(error, kind):
            return status
    return HTTPStatus.INTERNAL_SERVER_ERROR


def of_error(error: errors.MainstemError) -> Response:
    """Return the problem document of an error raised on purpose."""
    status = status_of(error)
    headers: dict[str, str] = {}
    if status in _TEMPORARY:
        headers["Retry-After"] = str(error.fields.get("retry_after_s", RETRY_AFTER_S))
    elif status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = str(error.fields.get("challenge", "Bearer"))
    members = {name: error.fields[name] for name in _SHOWN if name in error.fields}
    return problem(status, error.code, error.detail, headers=headers, **members)


def install(app: FastAPI) -> None:
    """Have an app answer all refusals and failures with problem documents."""
    app.add_exception_handler(errors.MainstemError, _on_mainstem_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_error)


async def _on_mainstem_error(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, errors.MainstemError)
    return of_error(error)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, RequestValidationError)
    # Without the offending input: it may be large, secret, or no JSON.
    found = [
        {"loc": [str(part) for part in item["loc"]], "msg": item["msg"], "type": item["type"]}
        for item in error.errors()
    ]
    first = found[0] if found else {"loc": [], "msg": "The request does not fit its schema."}
    detail = f"{'.'.join(first['loc'])}: {first['msg']}"
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_request", detail, errors=found)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return _on_other_method(request, error)
    if error.status_code == HTTPStatus.BAD_REQUEST:
        # The framework's only 400 is about a body that it cannot even decode: one that doesn't fit.
        return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_request", error.detail)
    code = _CODES.get(error.status_code, "invalid_request" if error.status_code < 500 else "internal_error")
    return problem(error.status_code, code, error.detail, headers=error.headers)


def _on_other_method(request: Request, error: HTTPException) -> Response:
    """Name the methods of all routes of this path; the framework names those of the first."""
    routes: list[BaseRoute] = request.app.state.routes
    matching = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    methods = {method for route in matching for method in getattr(route, "methods", ())}
    headers = {"Allow": ", ".join(sorted(methods | {"OPTIONS"}))}
    if request.method == "OPTIONS":
        return Response(status_code=HTTPStatus.NO_CONTENT, headers=headers)
    return problem(error.status_code, _CODES[error.status_code], error.detail, headers=headers)


def failure() -> Response:
    """Return the answer to a request that failed by a fault of ours."""
    return problem(500, "internal_error", "Something went wrong here; it was logged.")
