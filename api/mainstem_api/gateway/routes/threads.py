"""The thread routes read conversations: a thread's messages, branch by branch, their inputs and files."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.responses import Response

from mainstem_api.gateway.auth.caller import Caller
from mainstem_api.gateway.routes.runs import Serving, as_json, problem_documents
from mainstem_shared.model import jsontext
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


@router.get("/v1/runs/{run_id}/input", responses=problem_documents(404, 422, 503))
async def get_input(run_id: str, gateway: Serving, caller: Caller) -> Response:
    """Return what a run was started with; larger files are references to blobs."""
    given = await gateway.runs.input(run_id, user_id=caller.sees, tenant=caller.tenant)
    return Response(jsontext.dumps(given), media_type="application/json")


@router.get(
    "/v1/runs/{run_id}/blobs/{digest}",
    response_class=Response,
    responses={
        200: {"description": "The file's bytes", "content": {"application/octet-stream": {}}},
        **problem_documents(404, 422, 503),
    },
)
async def get_blob(run_id: str, digest: str, gateway: Serving, caller: Caller) -> Response:
    """Return a file of a run's input or content. It is data of users: browsers are told not to run it."""
    data = await gateway.runs.blob(run_id, digest, user_id=caller.sees, tenant=caller.tenant)
    return Response(
        data,
        media_type="application/octet-stream",
        headers={
            "Content-Security-Policy": "sandbox; default-src 'none'",
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "private, max-age=31536000, immutable",
        },
    )
