"""A blob reference stands in an input, or in a content, in place of a file's bytes. Pure.

A reference names the run whose blob it is. It means something only in that run's own input and content: what
a caller sends that looks like one resolves to nothing, unless it is that run's.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

SCHEME: Final = "mainstem-blob:"
_REFERENCE: Final = re.compile(
    r"mainstem-blob:(?P<run_id>[a-z2-7]{16}_[a-z2-7]{26})/(?P<digest>[0-9a-f]{64});(?P<size>\d{1,15});(?P<type>[^;,\s]{1,127})"
)
_DATA_URL: Final = re.compile(r"data:([^;,\s]{1,127})(?:;[^;,\s]{1,127})*;base64,")


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A blob of a run: bytes that are stored beside it, named by their SHA-256."""

    run_id: str
    digest: str
    size: int
    media_type: str

    def __str__(self) -> str:
        return f"{SCHEME}{self.run_id}/{self.digest};{self.size};{self.media_type}"

    @property
    def path(self) -> str:
        """Where the gateway serves it."""
        return f"/v1/runs/{self.run_id}/blobs/{self.digest}"


def named(run_id: str, data: bytes, media_type: str) -> Blob:
    """Return the blob that these bytes are."""
    digest = hashlib.sha256(data).hexdigest()
    return Blob(run_id=run_id, digest=digest, size=len(data), media_type=media_type)


def parse(text: str) -> Blob | None:
    """Return the blob that a text refers to; None if it is no reference."""
    found = _REFERENCE.fullmatch(text)
    if found is None:
        return None
    return Blob(
        run_id=found["run_id"], digest=found["digest"], size=int(found["size"]), media_type=found["type"]
    )


def decoded(url: str) -> tuple[bytes, str] | None:
    """Return the bytes and the media type that a `data:` address holds; None for any other text."""
    found = _DATA_URL.match(url)
    if found is None:
        return None
    try:
        return base64.b64decode(url[found.end() :], validate=True), found[1]
    except (binascii.Error, ValueError):
        return None


def encoded(data: bytes, media_type: str) -> str:
    """Return bytes as a `data:` address."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def replaced(value: Any, change: Callable[[str], str]) -> Any:
    """Return JSON with every text in it as `change` returns it; names of members stay."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        return {name: replaced(member, change) for name, member in members.items()}
    if isinstance(value, list):
        items = cast("list[Any]", value)
        return [replaced(item, change) for item in items]
    return value


def is_digest(text: str) -> bool:
    """Tell whether a text can name a blob: hostile ones never reach a driver."""
    return re.fullmatch(r"[0-9a-f]{64}", text) is not None
