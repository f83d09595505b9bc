"""Verifies that a blob's bytes match its SHA-256 digest."""

from __future__ import annotations

import hashlib

from mainstem_shared import errors


def checked(data: bytes, digest: str) -> bytes:
    """Return `data` if its SHA-256 is `digest`.

    Raises:
        NotFound: they are damaged.
    """
    if hashlib.sha256(data).hexdigest() != digest:
        raise errors.NotFound("The blob is damaged.")
    return data
