"""The thread routes read conversations: a thread's messages, branch by branch."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.responses import Response

from mainstem_api.gateway.auth.caller import Caller
from mainstem_api.gateway.routes.runs import Serving, as_json, problem_documents
from mainstem_shared.model.messages import Message
from mainstem_shared.model.runs import MessageId, ThreadId
from mainstem_shared.operations.queries import conversations

router = APIRouter(tags=["threads"])


class MessageList(BaseModel):
    """Messages that follow each other, oldest first."""

    messages: list[Message]
    previous: Annotated[
        str | None, Field(description="`before` of the page before this one; null at the start.")
    ]
    next: Annotated[str | None, Field(description="`after` of the page after this one; null at the end.")]


@router.get(
    "/v1/threads/{thread_id}/messages",
    response_model=MessageList,
    responses=problem_documents(400, 404, 422, 503),
)
async def list_messages(
    *,
    thread_id: ThreadId,
    gateway: Serving,
    caller: Caller,
    branch: Annotated[MessageId | None, Query(description="Any message of the branch to be read.")] = None,
    before: MessageId | None = None,
    after: MessageId | None = None,
    limit: Annotated[int, Query(ge=1, le=conversations.LONGEST_PAGE)] = conversations.PAGE,
) -> Response:
    """List a thread's messages, oldest first: the last ones of its latest branch, or a page of any branch."""
    page = await gateway.runs.messages(
        thread_id,
        user_id=caller.sees,
        tenant=caller.tenant,
        branch=branch,
        before=before,
        after=after,
        limit=limit,
    )
    return as_json(
        MessageList.model_construct(messages=page.messages, previous=page.previous, next=page.next)
    )
