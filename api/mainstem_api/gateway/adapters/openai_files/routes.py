"""The routes of `/v1/files` upload, list, describe, read and delete files."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Form, Query, UploadFile
from starlette.responses import Response

from mainstem_api.gateway.adapters.openai_responses import error_objects
from mainstem_api.gateway.adapters.openai_responses.messages import Order, page
from mainstem_api.gateway.auth.caller import Caller
from mainstem_api.gateway.routes.runs import Serving
from mainstem_api.gateway.routes.threads import as_download
from mainstem_shared import errors
from mainstem_shared.model import jsontext
from mainstem_shared.operations import uploads
from mainstem_shared.operations.uploads import Upload

router = APIRouter(tags=["files"])

PURPOSES: Final = ("user_data", "vision", "assistants")
"""What a file may be for: to be shown to a model."""
NAME_LENGTH: Final = 255
_OBJECT: Final[dict[str, Any]] = {
    "description": "The object",
    "content": {"application/json": {"schema": {"type": "object"}}},
}
_BYTES: Final[dict[str, Any]] = {
    "description": "The file's bytes",
    "content": {"application/octet-stream": {}},
}
Lifetime = Annotated[int | None, Form(alias="expires_after[seconds]", ge=3600, le=2_592_000)]
Anchor = Annotated[Literal["created_at"] | None, Form(alias="expires_after[anchor]")]


@router.post(
    "/v1/files",
    response_class=Response,
    responses={200: _OBJECT, **error_objects.documents(400, 413, 503)},
)
async def upload_file(
    *,
    file: UploadFile,
    purpose: Annotated[str, Form()],
    gateway: Serving,
    caller: Caller,
    lifetime_s: Lifetime = None,
    anchor: Anchor = None,
) -> Response:
    """Store a file, for `file_id` in later requests."""
    del anchor  # there is but one moment to count from
    if purpose not in PURPOSES:
        known = ", ".join(PURPOSES)
        message = f"purpose: {purpose[:40]!r} has no use here; files are shown to models: {known}."
        raise errors.InvalidRequest(message, path="purpose")
    upload = await uploads.add(
        gateway.operations,
        await file.read(),
        name=(file.filename or "file")[:NAME_LENGTH],
        media_type=file.content_type or "",
        purpose=purpose,
        principal=caller,
        lifetime_s=lifetime_s,
    )
    return _as_json(_described(upload))


@router.get(
    "/v1/files",
    response_class=Response,
    responses={200: _OBJECT, **error_objects.documents(400, 404, 503)},
)
async def list_files(
    *,
    gateway: Serving,
    caller: Caller,
    purpose: str | None = None,
    order: Order = "desc",
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
) -> Response:
    """List the caller's files."""
    found = await uploads.listed(gateway.store, caller)
    files = [_described(upload) for upload in found if purpose in (None, upload.purpose)]
    return _as_json(page(files, order=order, after=after, limit=limit))


@router.get(
    "/v1/files/{file_id}",
    response_class=Response,
    responses={200: _OBJECT, **error_objects.documents(404, 503)},
)
async def retrieve_file(file_id: str, gateway: Serving, caller: Caller) -> Response:
    """Describe a file."""
    return _as_json(_described(await uploads.find(gateway.operations, file_id, caller)))


@router.get(
    "/v1/files/{file_id}/content",
    response_class=Response,
    responses={200: _BYTES, **error_objects.documents(404, 503)},
)
async def read_file(file_id: str, gateway: Serving, caller: Caller) -> Response:
    """Return a file's bytes."""
    upload = await uploads.find(gateway.operations, file_id, caller)
    return as_download(await uploads.content(gateway.operations, upload, caller))


@router.delete(
    "/v1/files/{file_id}",
    response_class=Response,
    responses={200: _OBJECT, **error_objects.documents(404, 503)},
)
async def delete_file(file_id: str, gateway: Serving, caller: Caller) -> Response:
    """Remove a file; runs that were given it keep their copies."""
    await uploads.delete(gateway.operations, file_id, caller)
    return _as_json({"id": file_id, "object": "file", "deleted": True})


def _described(upload: Upload) -> dict[str, Any]:
    return {
        "id": upload.id,
        "object": "file",
        "bytes": upload.size,
        "created_at": upload.created_ms // 1000,
        "expires_at": upload.expires_ms // 1000,
        "filename": upload.name,
        "purpose": upload.purpose,
        "status": "processed",
        "status_details": None,
    }


def _as_json(value: Any) -> Response:
    return Response(jsontext.dumps(value), media_type="application/json")
