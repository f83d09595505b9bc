"""The AI SDK's routes submit or decide, resume and stop, for its default transport. A chat is a thread."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, get_args

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel
from starlette.responses import Response

from mainstem_api.gateway.adapters import attaching, engine_input, threads
from mainstem_api.gateway.adapters.ai_sdk import history, messages
from mainstem_api.gateway.adapters.ai_sdk.messages import ChatRequest, UIMessage
from mainstem_api.gateway.adapters.ai_sdk.stream import UIMessageStream, Version
from mainstem_api.gateway.adapters.start_once import Started, start_once
from mainstem_api.gateway.adapters.streaming import stream
from mainstem_api.gateway.auth.caller import Caller
from mainstem_api.gateway.routes.runs import Serving, as_json, problem_documents
from mainstem_api.gateway.sse import EventStream
from mainstem_api.gateway.state import Gateway
from mainstem_shared import errors
from mainstem_shared.model import cursors, digests
from mainstem_shared.model.principals import Principal
from mainstem_shared.model.runs import MessageId, Run, Spec, Status, ThreadId
from mainstem_shared.operations import engine_catalogue

router = APIRouter(tags=["ai-sdk"])

STOP_WAIT_S: Final = 5.0
"""A stop answers once the run is over: what the user sends next finds the thread free."""
_KEPT: Final = frozenset({Status.QUEUED, Status.RUNNING, Status.REQUIRES_ACTION, Status.SUCCEEDED})
"""The same message submitted again gets the same answer; one that failed, or was stopped, is tried again."""
_MESSAGE_ID: Final = re.compile(r"[^\x00-\x20\x7f]{1,255}")
_STREAM: Final[dict[str, Any]] = {
    "description": "The run as a UI message stream (v1), until it is over or waits for a decision",
    "content": {"text/event-stream": {}},
}


class Stopped(BaseModel):
    """The runs that were stopped: none if nothing ran."""

    stopped: list[str]


def client_version(request: Request) -> Version | None:
    """Return the major version of the package `ai` that the address names; None if it names none.

    Raises:
        NotFound: it names one that is not known.
    """
    named = request.path_params.get("version")
    if named is None:
        return None
    for version in get_args(Version):
        if named == str(version):
            return version
    raise errors.NotFound("No such version: there are v5, v6 and v7.")


class ChatMessages(BaseModel):
    """UI messages, oldest first; `previous` is the `before` of the page before, null at the start."""

    messages: list[dict[str, Any]]
    previous: str | None


Client = Annotated[Version | None, Depends(client_version)]


@router.post("/v1/ai-sdk/v{version}/chat", response_class=Response, include_in_schema=False)
@router.post(
    "/v1/ai-sdk/chat",
    response_class=Response,
    responses={200: _STREAM, **problem_documents(400, 403, 404, 409, 410, 413, 422, 429, 503)},
)
async def chat(body: ChatRequest, gateway: Serving, caller: Caller, version: Client) -> Response:
    """Start a run with the conversation, or hand in what the user decided about a paused one; follow it.

    `/v1/ai-sdk/v6/chat` (v5, v7) says which version of the SDK the client is, as do the other routes.
    """
    if body.continued is not None:
        active = await threads.newest_active(gateway.store, body.id, caller)
        reply = await _decide(body, body.continued, active, gateway, caller=caller, version=version)
        if reply is not None:
            return reply
    return await _start(body, gateway, caller, version)


@router.get("/v1/ai-sdk/v{version}/chat/{id}/stream", response_class=Response, include_in_schema=False)
@router.get(
    "/v1/ai-sdk/chat/{id}/stream",
    response_class=Response,
    responses={200: _STREAM, 204: {"description": "Nothing to resume"}, **problem_documents(404, 422, 503)},
)
async def resume(
    id: ThreadId,  # noqa: A002 - the SDK's word
    gateway: Serving,
    caller: Caller,
    version: Client,
    message_id: Annotated[str | None, Query(alias="messageId", max_length=255)] = None,
) -> Response:
    """Follow the chat's active run, or replay the one that ended last, from its first word.

    A client that missed the run's end has a part of it. `messageId` names the answer to be replayed.
    Clients of versions 5 and 6 would append a replay to what they have: they get none, unless they name it.
    """
    if message_id is not None:
        run = await gateway.runs.get(message_id, user_id=caller.user_id, tenant=caller.tenant)
        if run.thread_id != id:
            raise errors.NotFound
        return _follow(gateway, caller, run.run_id, version=version)
    found = await threads.newest_active(gateway.store, id, caller)
    if found is None and version not in (5, 6):
        found = await threads.newest(gateway.store, id, caller)
    if found is None:
        return Response(status_code=204)
    return _follow(gateway, caller, found.run_id, version=version)


@router.get("/v1/ai-sdk/v{version}/chat/{id}/messages", response_model=ChatMessages, include_in_schema=False)  # noqa: FAST003 - of any version
@router.get(
    "/v1/ai-sdk/chat/{id}/messages",
    response_model=ChatMessages,
    responses=problem_documents(400, 404, 422, 503),
)
async def load(
    id: ThreadId,  # noqa: A002 - the SDK's word
    gateway: Serving,
    caller: Caller,
    before: MessageId | None = None,
) -> Response:
    """Return a chat's messages for `useChat`: the last 200 of its latest branch, or those before one.

    An answer that is being given is not among them: its stream, to be resumed, has all of it.
    """
    page = await threads.page(gateway, id, caller, before=before)
    found = ChatMessages(messages=history.ui_messages(page.messages), previous=page.previous)
    return as_json(found)


@router.post("/v1/ai-sdk/v{version}/chat/{id}/stop", response_model=Stopped, include_in_schema=False)  # noqa: FAST003 - of any version
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


async def _start(body: ChatRequest, gateway: Gateway, caller: Principal, version: Version | None) -> Response:
    options, continued = body.mainstem, body.continued
    run_input = await _input(body, gateway, caller)

    async def start(key: str | None) -> Started:
        result = await gateway.runs.start(
            body.id,
            options.engine,
            run_input,
            user_id=caller.user_id,
            tenant=caller.tenant,
            # Only what the user says replaces what runs: a client that sends by itself is told to wait.
            if_active="reject" if continued is not None else options.if_active,
            metadata=options.metadata,
            idempotency_key=key,
            max_duration_s=options.max_duration_s,
            on_worker_lost=options.on_worker_lost,
            budget=options.spendable,
            priority=options.priority,
            parent=body.parent,
            message_id=_message_id(body),
        )
        return Started(result.run_id, result.replayed)

    if body.is_regeneration or not body.messages[-1].id:
        run_id = (await start(None)).run_id
    else:
        said = body.model_dump(mode="json")
        run_id = await start_once(gateway, start, key=f"ai-sdk:{digests.of_json(said)}", keeps=_KEPT)
    # After calls that the client answered itself the new run goes on in the same message.
    return _follow(gateway, caller, run_id, message_id=continued and continued.id, version=version)


def _message_id(body: ChatRequest) -> str | None:
    """Return the id of what the user said, if the thread is to know it by that."""
    said = None if body.is_regeneration else body.said
    return said.id if said is not None and _MESSAGE_ID.fullmatch(said.id) else None


async def _input(body: ChatRequest, gateway: Gateway, caller: Principal) -> dict[str, Any]:
    engine = body.mainstem.engine or gateway.settings.default_engine
    if not engine:
        raise errors.InvalidRequest("engine: set MAINSTEM_DEFAULT_ENGINE, or name one as `mainstem.engine`.")
    schema = await engine_catalogue.schema_of(gateway.store, engine)
    said = messages.chat_messages(body.messages)
    if not body.is_whole:
        said = [*await threads.conversation(gateway, body.id, caller, before=body.messages[-1].id), *said]
    return engine_input.engine_input(schema, said, {}, body.mainstem)


async def _decide(
    body: ChatRequest,
    message: UIMessage,
    active: Spec | None,
    gateway: Gateway,
    *,
    caller: Principal,
    version: Version | None,
) -> Response | None:
    """Hand in what a message decides, and go on with it; None if it is not about a decision of ours."""
    run = await _run_of(body.id, message, active, gateway, caller)
    pending = run.action["action_id"] if run is not None and run.action is not None else None
    given = messages.verdicts(message, pending)
    if given is None:
        return None
    if run is None:
        raise errors.StaleAction
    calls = await _asked_calls(run, given.action_id, gateway, caller) if given.answers else frozenset[str]()
    judged = messages.as_decisions([a for a in given.answers if a["question_id"] in calls])
    await gateway.runs.resume(
        run.run_id,
        given.action_id,
        decisions=[*given.decisions, *judged] or None,
        answers=[a for a in given.answers if a["question_id"] not in calls] or None,
        user_id=caller.user_id,
        tenant=caller.tenant,
    )
    # Decided before: how much of what followed the client has is not known. It is told the whole step anew.
    known = run if given.action_id == pending else None
    return _follow(
        gateway, caller, run.run_id, message_id=message.id, known=known, again=known is None, version=version
    )


async def _asked_calls(run: Run, action_id: str, gateway: Gateway, caller: Principal) -> frozenset[str]:
    """Return the ids of an action's calls, whose approval `ai` 5 gets as a question."""
    if run.action is not None and run.action["action_id"] == action_id:
        return frozenset(call["call_id"] for call in run.action.get("calls", ()))
    pauses = (await attaching.read(gateway.store, run.run_id, caller)).pauses
    decided = (d for pause in pauses if pause["action_id"] == action_id for d in pause["decisions"])
    return frozenset(decision["id"] for decision in decided if "name" in decision)


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
    version: Version | None = None,
) -> EventStream:
    state = None if known is None else _state_of(known)
    return stream(
        gateway,
        caller,
        run_id,
        after=None if known is None else cursors.parse(known.cursor),
        encoder=lambda spec: UIMessageStream(
            run_id=spec.run_id,
            message_id=message_id or spec.run_id,
            known=state,
            again=again,
            version=version,
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
