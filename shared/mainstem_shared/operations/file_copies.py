"""Copies the files that a new run's input names into the new run: those of earlier runs, and uploads.

Clients that keep a conversation send all of it with each run, files by the address under which the gateway
serves them. That address means nothing to an engine's provider, and the earlier run may be deleted: the new
run gets a copy. Only files of the same user's, and only where a message has a file.
"""

# inputs are JSON: checked by engines' schemas, not by types.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from mainstem_shared import errors, transitions
from mainstem_shared.eventlog.reading import run_states
from mainstem_shared.model import blob_references
from mainstem_shared.model.blob_references import Blob
from mainstem_shared.model.principals import Principal
from mainstem_shared.model.record import Record
from mainstem_shared.model.runs import Spec
from mainstem_shared.operations import uploads
from mainstem_shared.operations.performing import Operations

_PATH: Final = re.compile(r"/v1/runs/([a-z2-7]{16}_[a-z2-7]{26})/blobs/([0-9a-f]{64})")
_UPLOAD: Final = re.compile(r"(?:/v1/files/)?(file-[a-z2-7]{26})(?:/content)?")
_MEMBERS: Final = (("image_url", "url"), ("file", "file_data"), ("file", "file_id"))


class _Own(NamedTuple):
    """A file of the new run, and what it was called if that is known."""

    blob: Blob
    name: str | None = None


async def with_own_files(operations: Operations, run_input: dict[str, Any], spec: Spec) -> dict[str, Any]:
    """Return an input in which files of the user's earlier runs, and uploads, are the new run's own.

    Raises:
        InvalidRequest: an upload is named that is not there.
    """
    own: dict[str, _Own] = {}
    for text in {place[name] for place, name in _files(run_input)}:
        found = await (_upload if _UPLOAD.fullmatch(text) else _copy)(operations, text, spec)
        if found is not None:
            own[text] = found
    if not own:
        return run_input
    changed = copy.deepcopy(run_input)
    for place, name in list(_files(changed)):
        if (found := own.get(place[name])) is not None:
            _put(place, name, found)
    return changed


def _put(place: dict[str, Any], name: str, own: _Own) -> None:
    if name == "file_id":
        del place[name]
        name = "file_data"
    place[name] = str(own.blob)
    if name == "file_data" and own.name is not None:
        place.setdefault("filename", own.name)


def _files(run_input: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield where chat messages name files: a mapping, and the member that does."""
    messages = run_input.get("messages")
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            for member, name in _MEMBERS:
                place = part.get(member) if isinstance(part, dict) else None
                if isinstance(place, dict) and isinstance(place.get(name), str):
                    yield place, name


def _named(text: str) -> tuple[str, str, str] | None:
    """Return the run, the digest and, if it is said, the media type that a text names."""
    if (blob := blob_references.parse(text)) is not None:
        return blob.run_id, blob.digest, blob.media_type
    found = _PATH.fullmatch(text)
    return (found[1], found[2], "") if found else None


async def _upload(operations: Operations, text: str, spec: Spec) -> _Own:
    """Give the run an upload.

    Raises:
        InvalidRequest: the user has none of this id.
    """
    found = _UPLOAD.fullmatch(text)
    assert found is not None
    user = Principal(user_id=spec.user_id, tenant=spec.tenant)
    try:
        upload = await uploads.find(operations, found[1], user)
        data = await uploads.content(operations, upload, user)
    except errors.NotFound as error:
        raise errors.InvalidRequest(f"file_id: {error}", path="file_id") from error
    return _Own(await operations.files.put(spec.run_id, data, upload.media_type), upload.name)


async def _copy(operations: Operations, text: str, spec: Spec) -> _Own | None:
    named = _named(text)
    if named is None:
        return None
    run_id, digest, media_type = named
    try:
        await run_states.check_owner(operations.store, run_id, tenant=spec.tenant, user_id=spec.user_id)
        data = await operations.files.get(run_id, digest)
    except errors.NotFound:
        return None  # not theirs, or gone: it means nothing
    media_type = media_type or await _type_of(operations, run_id, digest)
    return _Own(await operations.files.put(spec.run_id, data, media_type))


async def _type_of(operations: Operations, run_id: str, digest: str) -> str:
    """Return the media type under which a run was given a file."""
    record = await transitions.find_fields(operations.store, run_id, Record.run_input)
    known: list[str] = []

    def note(text: str) -> str:
        blob = blob_references.parse(text)
        if blob is not None and blob.digest == digest:
            known.append(blob.media_type)
        return text

    if not isinstance(record, transitions.Gone):
        blob_references.replaced(record.run_input, note)
    return known[0] if known else uploads.UNTYPED
