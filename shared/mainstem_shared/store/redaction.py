"""Masks passwords in addresses of stores and brokers, for messages and logs."""

from __future__ import annotations

import re
from typing import Final

_SECRET: Final = re.compile(
    r"([?&;][^=&;]*(?:passw|secret|token|auth|credential)[^=&;]*=)[^&;#]*", re.IGNORECASE
)


def redacted(url: str) -> str:
    """Return an address for people and logs: whatever could be a password is masked."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return "…" if "@" in url else url
    # To the last @: a password with special characters that are not encoded ends nowhere else.
    login, at, rest = rest.rpartition("@")
    name = login.partition(":")[0] if ":" in login else ""
    masked = _SECRET.sub(r"\1…", rest)
    return f"{scheme}://{name}:…@{masked}" if at else f"{scheme}://{masked}"
