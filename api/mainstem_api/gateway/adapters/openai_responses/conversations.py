"""The routes of conversations, which are threads: create, describe, list items, delete.

A conversation is created by naming it: nothing is stored before its first response. So items cannot be put
into one, and it has no metadata of its own; both are refused by name.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from mainstem_api.gateway.adapters.openai_responses import error_objects, messages
from mainstem_api.gateway.adapters.openai_responses.messages import Order
from mainstem_api.gateway.auth.caller import Caller
from mainstem_api.gateway.routes.runs import Serving
from mainstem_api.gateway.state import Gateway
from mainstem_shared import errors
from mainstem_shared.model import ids, jsontext
from mainstem_shared.model.messages import Message
from mainstem_shared.model.principals import Principal
from mainstem_shared.model.runs import ThreadId
from mainstem_shared.operations.queries import conversations

router = APIRouter(tags=["responses"])

_OURS: Final = re.compile(r"conv_([0-9a-f]{32})")
_OBJECT: Final[dict[str, Any]] = {
    "description": "The object",
    "content": {"application/json": {"schema": {"type": "object"}}},
}


class CreateConversation(BaseModel):
    """A request for a conversation."""

    model_config = ConfigDict(extra="allow", frozen=True)

    items: list[dict[str, Any]] | None = None
    metadata: dict[str, str] | None = None


@router.post(
    "/v1/conversations",
    response_class=Response,
    responses={200: _OBJECT, **error_objects.documents(400, 503)},
)
async def create_conversation(caller: Caller, body: CreateConversation | None = None) -> Response:
    """Name a conversation, for `conversation` of `POST /v1/responses`."""
    del caller
    given = {} if body is None else body.model_dump(exclude_none=True)
    for name, value in given.items():
        if value:
            message = f"{name}: a conversation begins empty; say it with the first response."
            raise errors.InvalidRequest(message, path=name)
    return _as_json(_conversation(f"conv_{ids.uuid7().hex}"))


@router.get(
    "/v1/conversations/{conversation_id}",
    response_class=Response,
    responses={200: _OBJECT, **error_objects.documents(404, 503)},
)
async def retrieve_conversation(conversation_id: ThreadId, gateway: Serving, caller: Caller) -> Response:
    """Describe a conversation: a new one, or a thread of the caller's."""
    if _OURS.fullmatch(conversation_id) is None:
        await _messages(conversation_id, gateway, caller)
    return _as_json(_conversation(conversation_id))


@router.delete(
    "/v1/conversations/{conversation_id}",
    response_class=Response,
    responses={200: _OBJECT, **error_objects.documents(404, 503)},
)
async def delete_conversation(conversation_id: ThreadId, gateway: Serving, caller: Caller) -> Response:
    """Abort what is active on a thread, and remove all of it for good."""
    await gateway.runs.delete_thread(conversation_id, user_id=caller.user_id, tenant=caller.tenant)
    return _as_json({"id": conversation_id, "object": "conversation.deleted", "deleted": True})


@router.get(
    "/v1/conversations/{conversation_id}/items",
    response_class=Response,
    responses={200: _OBJECT, **error_objects.documents(404, 503)},
)
async def list_items(
    *,
    conversation_id: ThreadId,
    gateway: Serving,
    caller: Caller,
    order: Order = "desc",
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Response:
    """List the items of a thread's latest branch: those of its last 200 messages."""
    try:
        found = await _messages(conversation_id, gateway, caller)
    except errors.NotFound:
        if _OURS.fullmatch(conversation_id) is None:
            raise
        found = []
    items = [item for each in found for item in messages.items_of(each.id, each.role, each.parts)]
    return _as_json(messages.page(items, order=order, after=after, limit=limit))


async def _messages(thread_id: str, gateway: Gateway, caller: Principal) -> list[Message]:
    limit = conversations.LONGEST_PAGE
    page = await gateway.runs.messages(thread_id, user_id=caller.sees, tenant=caller.tenant, limit=limit)
    return page.messages


def _conversation(name: str) -> Mapping[str, Any]:
    found = _OURS.fullmatch(name)
    created_s = 0 if found is None else (uuid.UUID(found[1]).int >> 80) // 1000
    return {"id": name, "object": "conversation", "created_at": created_s, "metadata": {}}


def _as_json(value: Mapping[str, Any]) -> Response:
    return Response(jsontext.dumps(value), media_type="application/json")
