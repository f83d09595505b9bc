"""Digests: short BLAKE2b fingerprints that stand for ids, requests and decisions in keys and records.

They name things and compare them; none of them guards a secret. Sizes are part of what is stored: a digest
that other versions compare must keep its size and the form of what it is taken of.
"""

from __future__ import annotations

import hashlib
import json
from typing import Final

SIZE: Final = 16
"""Bytes: 128 bits, so that no two values of a store's lifetime share a digest by chance."""


def digest(data: bytes, *, size: int = SIZE) -> bytes:
    """Return the BLAKE2b digest of some bytes."""
    return hashlib.blake2b(data, digest_size=size).digest()


def hex_digest(data: bytes, *, size: int = SIZE) -> str:
    """Return the digest in hexadecimal: twice as many characters as bytes."""
    return digest(data, size=size).hex()


def of_json(value: object) -> str:
    """Return the hexadecimal digest of a JSON value, whatever the order of its members was."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hex_digest(canonical.encode("ascii"))
