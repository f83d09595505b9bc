"""Finds a thread's runs and messages, for protocols that name threads and not runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from mainstem_api.gateway.adapters import engine_input
from mainstem_api.gateway.state import Gateway
from mainstem_shared import errors, transitions
from mainstem_shared.model.messages import Message
from mainstem_shared.model.principals import Principal
from mainstem_shared.model.record import Record
from mainstem_shared.model.runs import Spec, Status
from mainstem_shared.operations.queries import conversations, listings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store

_NEWEST: Final = 9
"""Runs of a thread that are read: one is active, few wait, the others are over."""


async def newest_active(store: Store, thread_id: str, caller: Principal) -> Spec | None:
    """Return the newest run of a thread that is not over and is the caller's.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    index = keys.thread_runs(caller.tenant, thread_id)  # the archive has none that is active
    listed = await store.command("ZREVRANGE", index, 0, _NEWEST)
    async for spec, status in _theirs(store, [raw_id.decode() for raw_id in listed], caller):
        if not status.is_terminal:
            return spec
    return None


async def newest(store: Store, thread_id: str, caller: Principal) -> Spec | None:
    """Return the newest run of a thread that is the caller's, over or not.

    Raises:
        StoreUnavailable, ArchiveUnavailable: nobody can tell.
    """
    listed = await listings.newest_of_thread(store, caller.tenant, thread_id, limit=_NEWEST)
    async for spec, _ in _theirs(store, listed, caller):
        return spec
    return None


async def _theirs(store: Store, run_ids: list[str], caller: Principal) -> AsyncIterator[tuple[Spec, Status]]:
    records = await transitions.find_many(store, run_ids, Record.spec)
    for run_id, record in zip(run_ids, records, strict=True):
        known = None if isinstance(record, transitions.Gone) else listings.spec_and_status(run_id, record)
        if known is not None and caller.owns(known[0]):
            yield known


async def page(
    gateway: Gateway, thread_id: str, caller: Principal, *, before: str | None = None
) -> conversations.Page:
    """Return a thread's messages for a client that opens it again; none of a thread that is new."""
    try:
        return await gateway.runs.messages(
            thread_id,
            user_id=caller.user_id,
            tenant=caller.tenant,
            before=before,
            limit=conversations.LONGEST_PAGE,
        )
    except errors.NotFound:
        if before is not None:
            raise
        return conversations.Page(messages=[], previous=None, next=None)


async def conversation(
    gateway: Gateway, thread_id: str, caller: Principal, *, before: str = ""
) -> list[dict[str, Any]]:
    """Return what was said on a thread's latest branch, as chat completions have it; nothing if it is new.

    `before`: what stands before this message, if the thread has it.
    """
    try:
        page = await gateway.runs.messages(
            thread_id, user_id=caller.user_id, tenant=caller.tenant, limit=conversations.LONGEST_PAGE
        )
    except errors.NotFound:
        return []
    said: list[dict[str, Any]] = []
    for message in page.messages:
        if message.id == before:
            break
        said += chat_messages(message)
    return said


def chat_messages(message: Message) -> list[dict[str, Any]]:
    """Return a thread's message in the format of chat completions: an answer is several, with its results."""
    if message.role == "assistant":
        return engine_input.transcript(message.parts)
    parts = [part for part in map(_chat_part, message.parts) if part is not None]
    if all(part["type"] == "text" for part in parts):
        return [{"role": message.role, "content": "".join(part["text"] for part in parts)}]
    return [{"role": message.role, "content": parts}]


def _chat_part(part: Mapping[str, Any]) -> dict[str, Any] | None:
    match part["type"]:
        case "text":
            return {"type": "text", "text": part["text"]}
        case "file" if str(part.get("media_type", "")).startswith("image"):
            return {"type": "image_url", "image_url": {"url": part["url"]}}
        case "file":
            return {
                "type": "file",
                "file": {"filename": part.get("name") or "file", "file_data": part["url"]},
            }
        case _:
            return None
