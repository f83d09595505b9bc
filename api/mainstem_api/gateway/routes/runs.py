"""The run routes start, list, read and follow runs, through `AsyncRuns` and the tailer."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from mainstem_api.gateway.auth.caller import Caller, query_of
from mainstem_api.gateway.problems import Problem
from mainstem_api.gateway.sse import EventStream
from mainstem_api.gateway.state import Gateway, gateway_of
from mainstem_shared.eventlog.reading import run_states
from mainstem_shared.model import cursors, jsontext, runs
from mainstem_shared.model.runs import Run, Status, Timestamp
from mainstem_shared.operations.queries import listings

router = APIRouter(tags=["runs"])

Serving = Annotated[Gateway, Depends(gateway_of)]
Limit = Annotated[int, Query(ge=1, le=listings.LONGEST_PAGE)]


class StartBody(runs.StartRequest):
    """What to run. `engine` may be left out where MAINSTEM_DEFAULT_ENGINE is set."""

    engine: runs.EngineName | None = None  # pyright: ignore[reportIncompatibleVariableOverride, reportGeneralTypeIssues]


class RunList(BaseModel):
    """Some runs, newest first; `next` is the `cursor` of the next page, null at the end."""

    runs: list[Run]
    next: str | None
    complete: bool = Field(
        default=True,
        exclude_if=bool,
        description="False if a server of the store does not answer: its runs are missing. Else left out.",
    )


class StreamToken(BaseModel):
    """What opens one run's event stream, as the query parameter `token`, where headers cannot be sent."""

    token: str
    expires_at: Timestamp


def problem_documents(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe error answers with these statuses, for OpenAPI."""
    content = {"application/problem+json": {"schema": Problem.model_json_schema()}}
    return {status: {"description": "Problem document", "content": content} for status in statuses}


def _encoded(value: BaseModel) -> bytes:
    return jsontext.dumps(value.model_dump(mode="json"))


def as_json(value: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Answer with a model."""
    # Not the framework's encoder: content may hold halves of surrogate pairs, which it refuses.
    return Response(_encoded(value), status, headers, media_type="application/json")


@router.post(
    "/v1/threads/{thread_id}/runs",
    status_code=202,
    response_model=Run,
    responses={
        202: {
            "headers": {name: {"schema": {"type": "string"}} for name in ("Location", "Idempotency-Replayed")}
        },
        **problem_documents(404, 409, 413, 422, 429, 503),
    },
)
async def start_run(
    *,
    thread_id: runs.ThreadId,
    body: StartBody,
    request: Request,
    gateway: Serving,
    caller: Caller,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> Response:
    """Start a run on a thread. The answer means that it is durable; `Location` names it."""
    result = await gateway.runs.start(
        thread_id,
        body.engine,
        body.input,
        user_id=caller.user_id,
        tenant=caller.tenant,
        if_active=body.if_active,
        metadata=body.metadata,
        idempotency_key=idempotency_key,
        max_duration_s=body.max_duration_s,
        on_worker_lost=body.on_worker_lost,
        budget=None if body.budget is None else body.budget.model_dump(exclude_none=True),
        callback=None if body.callback is None else body.callback.model_dump(exclude_none=True),
        parent=body.parent,
        message_id=body.message_id,
        priority=body.priority,
    )
    headers = {"Location": f"{request.scope.get('root_path', '')}/v1/runs/{result.run_id}"}
    if result.replayed:
        headers["Idempotency-Replayed"] = "true"
    return as_json(result.run, 202, headers)


@router.get(
    "/v1/threads/{thread_id}/runs", response_model=RunList, responses=problem_documents(400, 422, 503)
)
async def list_thread_runs(
    *,
    thread_id: runs.ThreadId,
    gateway: Serving,
    caller: Caller,
    active: bool | None = None,
    status: Status | None = None,
    limit: Limit = listings.PAGE,
    cursor: str | None = None,
) -> Response:
    """List a thread's runs, newest first."""
    page = await gateway.runs.list(
        thread_id=thread_id,
        user_id=caller.sees,
        tenant=caller.tenant,
        status=status,
        active=active,
        limit=limit,
        cursor=cursor,
    )
    return as_json(RunList.model_construct(runs=page.runs, next=page.next, complete=page.complete))


@router.get("/v1/runs", response_model=RunList, responses=problem_documents(400, 422, 503))
async def list_runs(
    *,
    gateway: Serving,
    caller: Caller,
    status: Status | None = None,
    user: str | None = None,
    active: bool | None = None,
    limit: Limit = listings.PAGE,
    cursor: str | None = None,
) -> Response:
    """List the caller's runs, newest first.

    An admin may name another `user` of their tenant, or `*` for everybody. For anybody else those have none.
    """
    query = query_of(caller, user)
    if query is None:
        return as_json(RunList(runs=[], next=None))
    page = await gateway.runs.list(
        user_id=query.user_id,
        tenant=query.tenant,
        status=status,
        active=active,
        limit=limit,
        cursor=cursor,
    )
    return as_json(RunList.model_construct(runs=page.runs, next=page.next, complete=page.complete))


@router.get("/v1/runs/{run_id}", response_model=Run, responses=problem_documents(404, 422, 503))
async def get_run(run_id: str, gateway: Serving, caller: Caller) -> Response:
    """Return a run as of now: its record, and its content folded to the log's top."""
    who = (caller.sees, caller.tenant)

    async def document() -> bytes:
        run = await gateway.runs.get(run_id, user_id=caller.sees, tenant=caller.tenant)
        if len(run.text) > run_states.LARGE:
            return await asyncio.to_thread(_encoded, run)
        return _encoded(run)

    body = await gateway.documents.read((run_id, *who), document)
    return Response(body, media_type="application/json")


@router.get(
    "/v1/runs/{run_id}/events",
    response_class=Response,
    responses={
        200: {"description": "The run's events, until `run.finished`", "content": {"text/event-stream": {}}},
        204: {"description": "Nothing comes after this cursor: the run is over"},
        **problem_documents(400, 404, 422, 503),
    },
)
async def follow_run(
    *,
    run_id: str,
    gateway: Serving,
    caller: Caller,
    last_event_id: Annotated[str | None, Header()] = None,
    after: str | None = None,
    start: Annotated[Literal["snapshot"] | None, Query(alias="from")] = None,
) -> Response:
    """Follow a run's events, from a cursor on (`Last-Event-ID`, else `after`; `0-0`: from the start).

    With `from=snapshot` and no cursor, a snapshot stands in for the past. The stream ends after
    `run.finished`; any other break means: connect again, with the id of the last event.
    """
    given = last_event_id or after
    cursor = cursors.parse(given) if given is not None else None
    return EventStream(
        gateway.tailer.subscribe(run_id, after=cursor, from_snapshot=start == "snapshot"),
        principal=caller,
        heartbeat_s=gateway.settings.heartbeat_s,
        max_age_s=gateway.settings.stream_max_s,
        metrics=gateway.metrics,
        outgoing=gateway.outgoing,
    )


@router.post(
    "/v1/runs/{run_id}/stream-token", response_model=StreamToken, responses=problem_documents(404, 422, 503)
)
async def issue_stream_token(run_id: str, gateway: Serving, caller: Caller) -> Response:
    """Return a token that opens this run's events for a while, for an `EventSource`: `…/events?token=…`."""
    await run_states.check_owner(gateway.store, run_id, tenant=caller.tenant, user_id=caller.sees)
    issued = await gateway.tokens.issue(caller, run_id)
    reply = StreamToken(token=issued.token, expires_at=issued.expires_at)
    return as_json(reply, headers={"Cache-Control": "no-store"})
