"""The thread routes list, describe and fork threads, and read their messages, inputs and files."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Header, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from mainstem_api.gateway.auth.caller import Caller
from mainstem_api.gateway.routes.runs import Limit, Serving, as_json, problem_documents
from mainstem_shared.model import jsontext
from mainstem_shared.model.descriptions import Description
from mainstem_shared.model.messages import Message
from mainstem_shared.model.runs import MessageId, Run, Status, ThreadId, Timestamp
from mainstem_shared.operations.queries import conversations, listings
from mainstem_shared.operations.queries.threads import Thread

router = APIRouter(tags=["threads"])


class MessageList(BaseModel):
    """Messages that follow each other, oldest first."""

    messages: list[Message]
    previous: Annotated[
        str | None, Field(description="`before` of the page before this one; null at the start.")
    ]
    next: Annotated[str | None, Field(description="`after` of the page after this one; null at the end.")]


class ThreadSummary(BaseModel):
    """A thread in a list; `title` is what somebody gave it, else the run's, else what was said last."""

    thread_id: str
    title: str | None
    labels: list[str]
    metadata: dict[str, Any]
    run_id: Annotated[str, Field(description="The newest run.")]
    status: Status
    active_at: Annotated[Timestamp, Field(description="When the newest run was started.")]


class ThreadList(BaseModel):
    """Threads, the last active one first; `next` is the `cursor` of the next page, null at the end."""

    threads: list[ThreadSummary]
    next: str | None


@router.get("/v1/threads", response_model=ThreadList, responses=problem_documents(400, 422, 503))
async def list_threads(
    *,
    gateway: Serving,
    caller: Caller,
    search: Annotated[str, Query(max_length=200, description="Characters that the title has.")] = "",
    limit: Limit = listings.PAGE,
    cursor: str | None = None,
) -> Response:
    """List the caller's threads, the last active one first."""
    found, following = await gateway.runs.threads(
        user_id=caller.user_id, tenant=caller.tenant, search=search, limit=limit, cursor=cursor
    )
    return as_json(ThreadList(threads=[_summary(thread) for thread in found], next=following))


def _summary(thread: Thread) -> ThreadSummary:
    about, run = thread.description, thread.run
    return ThreadSummary(
        thread_id=thread.thread_id,
        title=about.title,
        labels=about.labels or [],
        metadata=about.metadata or {},
        run_id=run.run_id,
        status=run.status,
        active_at=run.created_at,
    )


@router.patch(
    "/v1/threads/{thread_id}", response_model=Description, responses=problem_documents(404, 413, 422, 503)
)
async def describe_thread(
    thread_id: ThreadId, body: Description, gateway: Serving, caller: Caller
) -> Response:
    """Change a thread's title, labels and metadata: null clears, what is absent stays."""
    changes = body.model_dump(exclude_unset=True)
    described = await gateway.runs.describe_thread(
        thread_id, changes, user_id=caller.user_id, tenant=caller.tenant
    )
    return as_json(described)


@router.patch("/v1/runs/{run_id}", response_model=Run, responses=problem_documents(404, 413, 422, 503))
async def describe_run(run_id: str, body: Description, gateway: Serving, caller: Caller) -> Response:
    """Change a run's title, labels and metadata: null clears, what is absent stays."""
    changes = body.model_dump(exclude_unset=True)
    return as_json(await gateway.runs.describe(run_id, changes, user_id=caller.user_id, tenant=caller.tenant))


class ForkBody(BaseModel):
    """Where a thread is forked: by default after its latest message."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    message_id: Annotated[MessageId | None, Field(description="The last message that is copied.")] = None
    cursor: Annotated[
        str | None, Field(description="Of a run's message, the last event that is copied of it.")
    ] = None
    thread_id: Annotated[ThreadId | None, Field(description="The new thread's id; null makes one.")] = None


class ForkReply(BaseModel):
    """The new thread, and its last message and run."""

    thread_id: str
    message_id: str
    run_id: str


@router.post(
    "/v1/threads/{thread_id}/fork",
    status_code=201,
    response_model=ForkReply,
    responses=problem_documents(400, 404, 409, 422, 503),
)
async def fork_thread(
    *,
    thread_id: ThreadId,
    body: ForkBody,
    gateway: Serving,
    caller: Caller,
    idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
) -> Response:
    """Copy a thread's history, up to a message or a cursor, to a new thread that goes on by itself."""
    fork = await gateway.runs.fork_thread(
        thread_id,
        at=body.message_id,
        cursor=body.cursor,
        new_thread_id=body.thread_id,
        idempotency_key=idempotency_key,
        user_id=caller.user_id,
        tenant=caller.tenant,
    )
    reply = ForkReply(thread_id=fork.thread_id, message_id=fork.message_id, run_id=fork.run_id)
    return as_json(reply, 201)


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
    if branch is before is after is None and (
        ready := await gateway.runs.ready_messages(
            thread_id, user_id=caller.sees, tenant=caller.tenant, limit=limit
        )
    ):
        return Response(ready, media_type="application/json")
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
    return as_download(await gateway.runs.blob(run_id, digest, user_id=caller.sees, tenant=caller.tenant))


def as_download(data: bytes) -> Response:
    """Answer with bytes that never change, of a user."""
    return Response(
        data,
        media_type="application/octet-stream",
        headers={
            "Content-Security-Policy": "sandbox; default-src 'none'",
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "private, max-age=31536000, immutable",
        },
    )
