"""Builds the answers that all routes of the platform API share: objects, and errors in its shape."""

from __future__ import annotations

from typing import Any, Final

from starlette.responses import Response

from mainstem_api.gateway.problems import Refusal, error_documents
from mainstem_shared.model import jsontext

PREFIX: Final = "/v1/langgraph"
ANSWER: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The object, or a stream of events",
        "content": {"application/json": {"schema": {}}, "text/event-stream": {}},
    },
    **error_documents(400, 403, 404, 409, 410, 413, 422, 429, 503),
}


def encode_error(refusal: Refusal) -> Response:
    """Return a refusal as this API has them."""
    body = {"detail": refusal.detail, "code": refusal.code}
    return Response(jsontext.dumps(body), refusal.status, dict(refusal.headers), "application/json")


def as_json(value: Any, status: int = 200, **headers: str) -> Response:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Response(jsontext.dumps(value), status, named, "application/json")
