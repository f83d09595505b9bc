"""Uploads are files that a user stores before any run has them, and names in inputs afterwards.

The bytes are a blob, kept under an id of a run's form; what is known about them is a key that expires. Runs
get a copy when they start (`file_copies`), so a deleted upload takes nothing from them.
"""

from __future__ import annotations

import contextlib
import mimetypes
import re
from collections.abc import Sequence
from typing import Final, Self

from pydantic import BaseModel, ConfigDict

from mainstem_shared import errors
from mainstem_shared.model import ids
from mainstem_shared.model.principals import Principal
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations.performing import Operations
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store

MOST: Final = 1000
"""Uploads that a user may have at a time."""
UNTYPED: Final = "application/octet-stream"
_BEING_ADDED_MS: Final = 60_000
"""A name is listed before what it names is there: it is not taken for an expired one so soon."""
_ID: Final = re.compile(r"file-([a-z2-7]{26})")
_TYPE: Final = re.compile(r"[\w.+-]{1,63}/[\w.+-]{1,63}", re.ASCII)


class Upload(BaseModel):
    """What is known about an uploaded file."""

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    media_type: str
    purpose: str
    size: int
    digest: str
    created_ms: int
    expires_ms: int

    @classmethod
    def parse(cls, raw: bytes | None) -> Self | None:
        """Read what the store has."""
        return None if raw is None else cls.model_validate_json(raw)


def is_id(text: str) -> bool:
    """Tell whether a text can be an upload's id."""
    return _ID.fullmatch(text) is not None


async def add(
    operations: Operations,
    data: bytes,
    *,
    name: str,
    media_type: str,
    purpose: str,
    principal: Principal,
    lifetime_s: int | None = None,
) -> Upload:
    """Store a file of a user's; it is kept for `lifetime_s`, by default as long as finished runs are.

    Raises:
        InputTooLarge: it is more than MAINSTEM_BLOB_MAX_MB.
        InvalidRequest: the user has too many files.
    """
    settings = operations.settings
    if len(data) > (limit := settings.blob_max_mb * 1024 * 1024):
        raise errors.InputTooLarge(what="file (MAINSTEM_BLOB_MAX_MB)", size=len(data), limit=limit)
    tag = _tag(principal)
    if await operations.store.command("ZCARD", keys.uploads(tag)) >= MOST:
        await _listed(operations.store, tag)  # which drops the ones that expired
        if await operations.store.command("ZCARD", keys.uploads(tag)) >= MOST:
            raise errors.InvalidRequest(
                f"file: {MOST} are stored, which is the limit; delete some.", path="file"
            )
    owner = ids.below(tag, ids.uuid7())
    blob = await operations.files.put(owner, data, _typed(media_type, name))
    born, lifetime_ms = now_ms(), int(1000 * (lifetime_s or settings.retention_s))
    upload = Upload(
        id=f"file-{ids.split(owner)[1]}",
        name=name,
        media_type=blob.media_type,
        purpose=purpose,
        size=blob.size,
        digest=blob.digest,
        created_ms=born,
        expires_ms=born + lifetime_ms,
    )
    record, listed = keys.upload(owner)
    await operations.store.commands(
        ("ZADD", listed, born, upload.id),  # first: what is stored is found
        ("PEXPIRE", listed, lifetime_ms, "NX"),
        ("PEXPIRE", listed, lifetime_ms, "GT"),
        ("SET", record, upload.model_dump_json(), "PX", lifetime_ms),
    )
    return upload


async def find(operations: Operations, upload_id: str, principal: Principal) -> Upload:
    """Return an upload of the user's.

    Raises:
        NotFound: there is none, it expired, or it is another user's.
    """
    raw = await operations.store.command("GET", keys.upload(_owner(upload_id, principal)).record)
    upload = Upload.parse(raw)
    if upload is None:
        raise errors.NotFound(f"No such file: {upload_id[:80]!r}; it may have expired.")
    return upload


async def content(operations: Operations, upload: Upload, principal: Principal) -> bytes:
    """Return an upload's bytes.

    Raises:
        NotFound: they are gone, or damaged.
    """
    return await operations.files.get(_owner(upload.id, principal), upload.digest)


async def delete(operations: Operations, upload_id: str, principal: Principal) -> None:
    """Remove an upload; runs that were given it keep theirs.

    Raises:
        NotFound: there is none.
    """
    await find(operations, upload_id, principal)
    owner = _owner(upload_id, principal)
    record, listed = keys.upload(owner)
    await operations.store.commands(("DEL", record), ("ZREM", listed, upload_id))
    await operations.files.drop(owner)


async def delete_all(operations: Operations, principal: Principal) -> None:
    """Remove all uploads of a user."""
    for upload in await listed(operations.store, principal):
        with contextlib.suppress(errors.NotFound):  # somebody else does so, too
            await delete(operations, upload.id, principal)


async def listed(store: Store, principal: Principal) -> list[Upload]:
    """Return all uploads of a user, the oldest first."""
    return await _listed(store, _tag(principal))


async def _listed(store: Store, tag: str) -> list[Upload]:
    flat: Sequence[bytes] = await store.command("ZRANGE", keys.uploads(tag), 0, -1, "WITHSCORES")
    born = {name.decode(): float(score) for name, score in zip(flat[::2], flat[1::2], strict=True)}
    found = await store.commands(*(("GET", keys.upload(f"{tag}_{name[5:]}").record) for name in born))
    settled_ms = now_ms() - _BEING_ADDED_MS
    expired = [name for name, raw in zip(born, found, strict=True) if raw is None and born[name] < settled_ms]
    if expired:
        await store.command("ZREM", keys.uploads(tag), *expired)
    return [upload for raw in found if (upload := Upload.parse(raw)) is not None]


def _tag(principal: Principal) -> str:
    return ids.uploads_tag(principal.tenant, principal.user_id)


def _owner(upload_id: str, principal: Principal) -> str:
    """Return what owns the upload's blob: made of the caller, so nobody can name another user's."""
    found = _ID.fullmatch(upload_id)
    if found is None:
        raise errors.NotFound(f"No such file: {upload_id[:80]!r}.")
    return f"{_tag(principal)}_{found[1]}"


def _typed(media_type: str, name: str) -> str:
    """Return a file's media type: what was said, or what its name suggests."""
    said = media_type.partition(";")[0].strip().lower()
    if _TYPE.fullmatch(said) is None or said == UNTYPED:
        said = mimetypes.guess_type(name)[0] or UNTYPED
    return said
