"""Converts sources and files to parts of the AI SDK, for streams and messages alike. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def ui_part(part: Mapping[str, Any]) -> dict[str, Any]:
    """Return a `source` or `file` part of a content."""
    if part["type"] == "file":
        return {"type": "file", "url": part.get("url", ""), "mediaType": part["media_type"]}
    if "url" in part:
        said = {"type": "source-url", "sourceId": part["id"], "url": part["url"]}
        return {**said, "title": part["title"]} if "title" in part else said
    media_type = part.get("media_type", "text/plain")
    return {
        "type": "source-document",
        "sourceId": part["id"],
        "mediaType": media_type,
        "title": part.get("title", ""),
    }


def ui_source(annotation: Mapping[str, Any], *, number: int) -> dict[str, Any] | None:
    """Return a citation as a source; None for an annotation that names no page."""
    url = annotation.get("url")
    if not isinstance(url, str):
        return None
    title = annotation.get("title")
    said = {"type": "source-url", "sourceId": f"annotation-{number}", "url": url}
    return {**said, "title": title} if isinstance(title, str) else said
