"""Reads the earlier messages of a segment's thread for its engine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from mainstem_shared import errors
from mainstem_shared.model import blob_references
from mainstem_shared.model.messages import Message
from mainstem_shared.model.runs import Spec
from mainstem_shared.operations.queries import conversations
from mainstem_tasks.execution.runtime import Runtime


def of(runtime: Runtime, spec: Spec) -> Callable[[int], Awaitable[list[Message]]]:
    """Return what reads the last messages before a run, on its branch, of its user."""
    query = conversations.Query(tenant=spec.tenant, thread_id=spec.thread_id, user_id=spec.user_id)

    async def read(limit: int) -> list[Message]:
        found = await conversations.history(runtime.store, query, leaf=spec.run_id, limit=limit)
        return [await _with_files(runtime, message) for message in found]

    return read


async def _with_files(runtime: Runtime, message: Message) -> Message:
    """Return a message whose files are there as `data:` addresses: what a provider reads."""
    if not any("digest" in part for part in message.parts):
        return message
    return message.model_copy(
        update={"parts": [await _with_file(runtime, message, p) for p in message.parts]}
    )


async def _with_file(runtime: Runtime, message: Message, part: dict[str, Any]) -> dict[str, Any]:
    if part["type"] != "file" or "digest" not in part:
        return part
    try:
        data = await runtime.operations.files.get(message.run_id, part["digest"])
    except errors.NotFound:
        return {"type": "text", "text": "(This file is not there any more.)"}
    return {**part, "url": blob_references.encoded(data, part["media_type"])}
