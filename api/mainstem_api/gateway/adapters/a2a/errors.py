"""Encodes errors as JSON-RPC responses, with A2A's codes."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from starlette.responses import Response

from mainstem_api.gateway import problems
from mainstem_api.gateway.problems import Refusal
from mainstem_shared import errors
from mainstem_shared.model import jsontext

METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
_CODES: Final[Mapping[int, int]] = {
    HTTPStatus.NOT_FOUND: -32001,
    HTTPStatus.CONFLICT: -32004,
    HTTPStatus.GONE: -32004,
    HTTPStatus.UNPROCESSABLE_ENTITY: INVALID_PARAMS,
    HTTPStatus.BAD_REQUEST: INVALID_PARAMS,
}
_INTERNAL: Final = -32603
_NOT_A_REQUEST: Final = -32600
_NO_JSON: Final = -32700
PUSH_NOT_SUPPORTED: Final = -32003
UNSUPPORTED: Final = -32004
CONTENT_TYPE: Final = -32005
VERSION: Final = -32009
_REASONS: Final[Mapping[int, str]] = {
    -32001: "TASK_NOT_FOUND",
    -32002: "TASK_NOT_CANCELABLE",
    PUSH_NOT_SUPPORTED: "PUSH_NOTIFICATION_NOT_SUPPORTED",
    UNSUPPORTED: "UNSUPPORTED_OPERATION",
    CONTENT_TYPE: "CONTENT_TYPE_NOT_SUPPORTED",
    VERSION: "VERSION_NOT_SUPPORTED",
}
"""What the protocol calls its own errors; others have our codes."""


class Refused(Exception):
    """A request is refused with an error of the protocol's own, which nothing else here has."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def response(request_id: Any, code: int, message: str, reason: str, *, status: int = 200) -> Response:
    """Return an error as the answer to a request."""
    named = {
        "reason": _REASONS.get(code, reason),
        "domain": "a2a-protocol.org" if code in _REASONS else "mainstem",
    }
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", **named, "metadata": {"code": reason}}
    error = {"code": code, "message": message, "data": [info]}
    body = jsontext.dumps({"jsonrpc": "2.0", "id": request_id, "error": error})
    return Response(body, status, media_type="application/json")


def of_error(request_id: Any, error: errors.MainstemError) -> Response:
    """Return an error raised on purpose as the answer to a request."""
    code = _CODES.get(problems.status_of(error), _INTERNAL)
    return response(request_id, code, error.detail, error.code)


def encode(refusal: Refusal) -> Response:
    """Return a refusal of a request that no method saw; its status stays."""
    code = _CODES.get(refusal.status, _INTERNAL)
    if refusal.status == HTTPStatus.UNPROCESSABLE_ENTITY:  # of a model: it was JSON, but no request
        code = _NOT_A_REQUEST if refusal.members.get("errors") else _NO_JSON
    answer = response(None, code, refusal.detail, refusal.code, status=refusal.status)
    answer.headers.update(refusal.headers)
    return answer
