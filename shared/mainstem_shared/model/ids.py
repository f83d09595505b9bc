"""Run ids and thread tags determine every key of a run, without an index.

`run id = <tag>_<128-bit id in base32>`, where the tag is a digest of tenant and thread. All keys of one
thread share its tag as their hash tag, hence one Cluster slot.
"""

from __future__ import annotations

import base64
import re
import secrets
import uuid
from typing import Final

from mainstem_shared import errors
from mainstem_shared.model import digests
from mainstem_shared.model.time import now_ms

EPOCH_GAP: Final = 2**16
"""Epochs that a change of control may skip: four bytes of each id, and a clash once in 65,536 losses."""
TAG_BYTES: Final = 10  # 80 bits are exactly 16 base32 characters, without padding
_RUN_ID: Final = re.compile(r"[a-z2-7]{16}_[a-z2-7]{26}")


def _base32(data: bytes) -> str:
    return base64.b32encode(data).decode("ascii").rstrip("=").lower()


def thread_tag(tenant: str, thread_id: str) -> str:
    """Return the thread's tag: 16 base32 characters of blake2b over `tenant`, a NUL byte and `thread_id`.

    User input never reaches a key: only its digest does.
    """
    named = f"{tenant}\0{thread_id}".encode("utf-8", "surrogatepass")
    return _base32(digests.digest(named, size=TAG_BYTES))


def run_id(tenant: str, thread_id: str, unique: uuid.UUID) -> str:
    """Return the id of the run of this thread that `unique` (UUIDv7, or a Celery task's id) stands for."""
    return below(thread_tag(tenant, thread_id), unique)


def below(tag: str, unique: uuid.UUID) -> str:
    """Return the id of what `unique` stands for among the things with this tag."""
    return f"{tag}_{_base32(unique.bytes)}"


def is_run_id(text: str) -> bool:
    """Tell whether a text can be a run's id."""
    return _RUN_ID.fullmatch(text) is not None


def split(run: str) -> tuple[str, str]:
    """Split a run id into tag and unique part.

    Raises:
        NotFound: it cannot be a run id (hostile ids never reach the store).
    """
    if not is_run_id(run):
        raise errors.NotFound
    tag, _, unique = run.partition("_")
    return tag, unique


def unique(run: str) -> uuid.UUID:
    """Return what a run id was made of.

    Raises:
        NotFound: it cannot be a run id.
    """
    _, part = split(run)
    return uuid.UUID(bytes=base64.b32decode(f"{part.upper()}======"))


def created_ms(run: str) -> int | None:
    """Return when a run's id was made (Unix milliseconds); None if it was made of a Celery task's id.

    Raises:
        NotFound: it cannot be a run id.
    """
    made_of = unique(run)
    return made_of.int >> 80 if made_of.version == 7 else None


def uuid7() -> uuid.UUID:
    """Return a time-ordered UUID, version 7 (RFC 9562, section 5.7)."""
    value = now_ms() << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return uuid.UUID(int=value)


def nonce() -> str:
    """Return a fresh caller nonce, `<gap>.<random>`: who asks again after a lost reply is answered the same.

    A call that opens an epoch skips `gap` numbers: no other call from the same past opens the same one.
    """
    return f"{secrets.randbelow(EPOCH_GAP)}.{token()}"


def token() -> str:
    """Return a short random id, for what needs no place in keys: an action, an input."""
    return secrets.token_urlsafe(9)


def event_tag(tenant: str, user_id: str, event: str) -> str:
    """Return the tag of what a user's runs may wait for under this key."""
    return thread_tag(tenant, f"{user_id}\x00{event}")


def uploads_tag(tenant: str, user_id: str) -> str:
    """Return the tag of what a user has uploaded; no thread of the user's has it."""
    return thread_tag(tenant, f"{user_id}\x00\x00uploads")


def user_tag(tenant: str, user_id: str) -> str:
    """Return the digest that stands for a user in keys."""
    return thread_tag(tenant, user_id)
