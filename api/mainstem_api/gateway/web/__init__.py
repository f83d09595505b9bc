"""Serves the pages for people: the chat at `/`, the operator's view at `/runs`, a run at `/runs/<id>`.

Static files, read once; they speak to the same HTTP interface as everybody else's clients. No build step:
`static/` is what browsers get, `static/vendor/` is other people's work, unmodified (`fetch-vendored`).
"""

from __future__ import annotations

import html
import mimetypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from mainstem_shared.model import digests

router = APIRouter(include_in_schema=False)

STATIC: Final = Path(__file__).parent / "static"
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; manifest-src 'self'; base-uri 'self'; form-action 'none'; frame-ancestors 'none'"
)
"""Nothing inline, nothing from elsewhere: what a model writes can neither run nor fetch."""
_HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-cache",  # a new release is a new page at once; unchanged files cost a 304
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_TYPES: Final = {".js": "text/javascript; charset=utf-8", ".woff2": "font/woff2"}
_BASE: Final = "__BASE__"
"""Stands in the pages where the path under which the app is mounted belongs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    body: bytes
    media_type: str
    tag: str


@router.head("/")
@router.get("/")
async def chat(request: Request) -> Response:
    """Return the chat page."""
    return _page(request, "chat.html")


@router.head("/runs")
@router.get("/runs")
async def operators_view(request: Request) -> Response:
    """Return the operator's view."""
    return _page(request, "runs.html")


@router.head("/runs/{run_id}")
@router.get("/runs/{run_id}")
async def run_page(run_id: str, request: Request) -> Response:
    """Return the page of one run; whose it is, its requests decide."""
    del run_id  # the page reads it from its address
    return _page(request, "run.html")


@router.head("/pages/{path:path}")
@router.get("/pages/{path:path}")
async def asset(path: str, request: Request) -> Response:
    """Return a file of the pages."""
    found = None if path.endswith(".html") else _files().get(path)
    if found is None:
        raise HTTPException(404)
    return _answer(request, found)


def _page(request: Request, name: str) -> Response:
    file, root = _files()[name], html.escape(request.scope.get("root_path", ""))
    body = file.body.replace(_BASE.encode(), f"{root}/".encode())
    return _answer(request, _File(body=body, media_type=file.media_type, tag=_tag(body)))


def _answer(request: Request, file: _File) -> Response:
    headers = {**_HEADERS, "ETag": file.tag}
    if request.headers.get("if-none-match") == file.tag:
        return Response(status_code=304, headers=headers)
    return Response(file.body, headers=headers, media_type=file.media_type)


@cache
def _files() -> dict[str, _File]:
    """Read all files, once: what is not among them cannot be asked for, however a path is written."""
    files: dict[str, _File] = {}
    for path in STATIC.rglob("*"):
        if path.is_file():
            body = path.read_bytes()
            kind = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "text/plain"
            files[path.relative_to(STATIC).as_posix()] = _File(body=body, media_type=kind, tag=_tag(body))
    return files


def _tag(body: bytes) -> str:
    return f'"{digests.hex_digest(body, size=12)}"'
