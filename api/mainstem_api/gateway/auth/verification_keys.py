"""Defines keys that verify tokens, and the sources that provide them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol

RSA_BITS: Final = 2048
"""Least size of an RSA key (NIST SP 800-131A: shorter ones are disallowed since 2014)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key, and the one algorithm it is for."""

    algorithm: str
    material: Any


class Keys(Protocol):
    """Where a token's key comes from."""

    async def find(self, kid: str | None) -> Key | None: ...
    async def aclose(self) -> None: ...
