"""The AI SDK's routes submit or decide, resume and stop, for its default transport. A chat is a thread."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

from mainstem_api.gateway.adapters import engine_input, threads
from mainstem_api.gateway.adapters.ai_sdk import messages
from mainstem_api.gateway.adapters.ai_sdk.messages import ChatRequest, UIMessage
from mainstem_api.gateway.adapters.ai_sdk.stream import UIMessageStream
from mainstem_api.gateway.auth.caller import Caller
from mainstem_api.gateway.routes.runs import Serving, as_json, problem_documents
from mainstem_api.gateway.sse import EventStream
from mainstem_api.gateway.state import Gateway
from mainstem_shared import errors
from mainstem_shared.model import cursors
from mainstem_shared.model.principals import Principal
from mainstem_shared.model.runs import Run, Spec, ThreadId
from mainstem_shared.operations import engine_catalogue

router = APIRouter(tags=["ai-sdk"])

STOP_WAIT_S: Final = 5.0
"""A stop answers once the run is over: what the user sends next finds the thread free."""
_STREAM: Final[dict[str, Any]] = {
    "description": "The run as a UI message stream (v1), until it is over or waits for a decision",
    "content": {"text/event-stream": {}},
}


class Stopped(BaseModel):
    """The runs that were stopped: none if nothing ran."""

    stopped: list[str]


@router.post(
    "/v1/ai-sdk/chat",
    response_class=Response,
    responses={200: _STREAM, **problem_documents(400, 403, 404, 409, 410, 413, 422, 429, 503)},
)
async def chat(body: ChatRequest, gateway: Serving, caller: Caller) -> Response:
    """Start a run with the conversation, or hand in what the user decided about a paused one; follow it."""
    active = await threads.newest_active(gateway.store, body.id, caller)
    if body.continued is not None:
        reply = await _decide(body, body.continued, active, gateway, caller)
        if reply is not None:
            return reply
    return await _start(body, active, gateway, caller)


@router.get(
    "/v1/ai-sdk/chat/{id}/stream",
    response_class=Response,
    responses={200: _STREAM, 204: {"description": "Nothing runs"}, **problem_documents(404, 422, 503)},
)
async def resume(id: ThreadId, gateway: Serving, caller: Caller) -> Response:  # noqa: A002 - the SDK's word
    """Follow the chat's active run, from its first word."""
    active = await threads.newest_active(gateway.store, id, caller)
    if active is None:
        return Response(status_code=204)
    return _follow(gateway, caller, active.run_id)


@router.post(
    "/v1/ai-sdk/chat/{id}/stop",
    response_model=Stopped,
    responses={
        202: {"description": "They will end; they have not within some seconds", "model": Stopped},
        **problem_documents(422, 503),
    },
)
async def stop(id: ThreadId, gateway: Serving, caller: Caller) -> Response:  # noqa: A002
    """Stop what runs in the chat. Its partial answer is kept; who follows it sees its end."""
    stopped: list[str] = []
    pending = False
    while (active := await threads.newest_active(gateway.store, id, caller)) is not None:
        if active.run_id in stopped:
            pending = True
            break
        stopped.append(active.run_id)
        await gateway.runs.abort(
            active.run_id, wait=STOP_WAIT_S, user_id=caller.user_id, tenant=caller.tenant
        )
    return as_json(Stopped(stopped=stopped), 202 if pending else 200)


async def _start(body: ChatRequest, active: Spec | None, gateway: Gateway, caller: Principal) -> Response:
    options, continued = body.mainstem, body.continued
    # Only what the user says replaces what runs: a client that sends by itself is told that it is too early.
    replaces = active is not None and continued is None
    started = await gateway.runs.start(
        body.id,
        options.engine,
        await _input(body, gateway),
        user_id=caller.user_id,
        tenant=caller.tenant,
        if_active=options.if_active if replaces else "reject",
        metadata=options.metadata,
        max_duration_s=options.max_duration_s,
        on_worker_lost=options.on_worker_lost,
    )
    # After calls that the client answered itself the new run goes on in the same message.
    return _follow(gateway, caller, started.run_id, message_id=continued and continued.id)


async def _input(body: ChatRequest, gateway: Gateway) -> dict[str, Any]:
    engine = body.mainstem.engine or gateway.settings.default_engine
    if not engine:
        raise errors.InvalidRequest("engine: set MAINSTEM_DEFAULT_ENGINE, or name one as `mainstem.engine`.")
    schema = await engine_catalogue.schema_of(gateway.store, engine)
    return engine_input.engine_input(schema, messages.chat_messages(body.messages), {}, body.mainstem)


async def _decide(
    body: ChatRequest, message: UIMessage, active: Spec | None, gateway: Gateway, caller: Principal
) -> Response | None:
    """Hand in what a message decides, and go on with it; None if it is not about a decision of ours."""
    run = await _run_of(body.id, message, active, gateway, caller)
    pending = run.action["action_id"] if run is not None and run.action is not None else None
    given = messages.verdicts(message, pending)
    if given is None:
        return None
    if run is None:
        raise errors.StaleAction
    await gateway.runs.resume(
        run.run_id,
        given.action_id,
        decisions=given.decisions or None,
        answers=given.answers or None,
        user_id=caller.user_id,
        tenant=caller.tenant,
    )
    # Decided before: how much of what followed the client has is not known. It is told the whole step anew.
    known = run if given.action_id == pending else None
    return _follow(gateway, caller, run.run_id, message_id=message.id, known=known, again=known is None)


async def _run_of(
    thread_id: str, message: UIMessage, active: Spec | None, gateway: Gateway, caller: Principal
) -> Run | None:
    """Return the run that a message is about: the thread's active one, else the one that made the message."""
    run_id = active.run_id if active is not None else message.id
    try:
        run = await gateway.runs.get(run_id, user_id=caller.user_id, tenant=caller.tenant)
    except errors.NotFound:
        return None
    return run if run.thread_id == thread_id else None


def _follow(
    gateway: Gateway,
    caller: Principal,
    run_id: str,
    *,
    message_id: str | None = None,
    known: Run | None = None,
    again: bool = False,
) -> EventStream:
    state = None if known is None else _state_of(known)
    return EventStream(
        gateway.tailer.subscribe(run_id, after=None if known is None else cursors.parse(known.cursor)),
        principal=caller,
        heartbeat_s=gateway.settings.heartbeat_s,
        metrics=gateway.metrics,
        outgoing=gateway.outgoing,
        encoder=lambda spec: UIMessageStream(
            run_id=spec.run_id, message_id=message_id or spec.run_id, known=state, again=again
        ),
    )


def _state_of(run: Run) -> dict[str, Any]:
    return {
        "content": run.content,
        "steps": run.steps,
        "usage": None if run.usage is None else run.usage.model_dump(),
        "title": run.title,
        "action": run.action,
        "inputs": [said for said in run.inputs if said["part"] is not None],
    }
