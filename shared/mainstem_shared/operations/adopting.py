"""Gives a run the files of earlier runs that its input names: what readers are shown can be sent back.

Clients that keep a conversation send all of it with each run, files by the address under which the gateway
serves them. That address means nothing to an engine's provider, and the earlier run may be deleted: the new
run gets a copy. Only files of the same user's runs, and only where a message has a file.
"""

# inputs are JSON: checked by engines' schemas, not by types.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any, Final

from mainstem_shared import errors, transitions
from mainstem_shared.eventlog.reading import run_states
from mainstem_shared.model import blob_references
from mainstem_shared.model.blob_references import Blob
from mainstem_shared.model.record import Record
from mainstem_shared.model.runs import Spec
from mainstem_shared.operations.performing import Operations

_PATH: Final = re.compile(r"/v1/runs/([a-z2-7]{16}_[a-z2-7]{26})/blobs/([0-9a-f]{64})")
_UNKNOWN_TYPE: Final = "application/octet-stream"


async def adopted(operations: Operations, run_input: dict[str, Any], spec: Spec) -> dict[str, Any]:
    """Return an input in which files of the user's earlier runs are the new run's own."""
    named = {text for place, name in _files(run_input) if _named(text := place[name]) is not None}
    own: dict[str, str] = {}
    for text in named:
        if (blob := await _adopt(operations, text, spec)) is not None:
            own[text] = str(blob)
    if not own:
        return run_input
    changed = copy.deepcopy(run_input)
    for place, name in _files(changed):
        place[name] = own.get(place[name], place[name])
    return changed


def _files(run_input: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield where chat messages name files: a mapping, and the member that does."""
    messages = run_input.get("messages")
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            for member, name in (("image_url", "url"), ("file", "file_data")):
                place = part.get(member) if isinstance(part, dict) else None
                if isinstance(place, dict) and isinstance(place.get(name), str):
                    yield place, name


def _named(text: str) -> tuple[str, str, str] | None:
    """Return the run, the digest and, if it is said, the media type that a text names."""
    if (blob := blob_references.parse(text)) is not None:
        return blob.run_id, blob.digest, blob.media_type
    found = _PATH.fullmatch(text)
    return (found[1], found[2], "") if found else None


async def _adopt(operations: Operations, text: str, spec: Spec) -> Blob | None:
    named = _named(text)
    assert named is not None
    run_id, digest, media_type = named
    try:
        await run_states.check_owner(operations.store, run_id, tenant=spec.tenant, user_id=spec.user_id)
        data = await operations.files.get(run_id, digest)
    except errors.NotFound:
        return None  # not theirs, or gone: it means nothing
    media_type = media_type or await _type_of(operations, run_id, digest)
    return await operations.files.put(spec.run_id, data, media_type)


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
    return known[0] if known else _UNKNOWN_TYPE
