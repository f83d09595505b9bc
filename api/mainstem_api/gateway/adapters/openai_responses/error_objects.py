"""Encodes errors as OpenAI's APIs do: `{"error": {"message", "type", "param", "code"}}`.

Codes and messages are those of our problem documents. A request that does not fit is 400 here, a model that
is not there 404, and conflicts say that trying again is of no use, which clients would do by themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from pydantic import BaseModel
from starlette.responses import Response

from mainstem_api.gateway.problems import Refusal
from mainstem_shared.errors import UnknownEngine
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


def of_outcome(outcome: Mapping[str, Any]) -> Response:
    """Return a failed run's outcome as an error: with its provider's status, if that is why it failed."""
    error: Mapping[str, Any] = outcome["error"] or {}
    status = error.get("status") or HTTPStatus.INTERNAL_SERVER_ERROR
    body = {
        "message": error.get("message") or f"The run failed: {outcome['reason']}.",
        "type": _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error"),
        "param": None,
        "code": error.get("code") or outcome["reason"],
    }
    # The run is over: asking again by itself would only find it so.
    return Response(jsontext.dumps({"error": body}), status, _NO_RETRY, "application/json")


def encode(refusal: Refusal) -> Response:
    """Return a refusal in this API's shape."""
    status, headers = refusal.status, dict(refusal.headers)
    code, param, message = refusal.code, refusal.members.get("path"), refusal.detail
    if status == HTTPStatus.UNPROCESSABLE_ENTITY:
        status = HTTPStatus.BAD_REQUEST
    if code == UnknownEngine.code:
        status, code, param = HTTPStatus.NOT_FOUND, "model_not_found", "model"
    if status == HTTPStatus.CONFLICT:
        headers |= _NO_RETRY
    if found := refusal.members.get("errors"):
        param = ".".join(found[0]["loc"][1:]) or None
        message = f"{param}: {found[0]['msg']}" if param else str(found[0]["msg"])
    body = {
        "message": message,
        "type": _TYPES.get(status, "invalid_request_error"),
        "param": None if param is None else str(param),
        "code": code,
    }
    return Response(jsontext.dumps({"error": body}), status, headers, "application/json")
