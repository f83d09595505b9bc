"""Serves the platform API's threads and their state, and runs to stream, wait for, join and cancel."""

from __future__ import annotations

import asyncio
import functools
import itertools
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Header, Query
from starlette.responses import Response

from mainstem_api.gateway.adapters import attaching, engine_input, threads
from mainstem_api.gateway.adapters.langgraph import messages
from mainstem_api.gateway.adapters.langgraph.answers import ANSWER, PREFIX, as_json
from mainstem_api.gateway.adapters.langgraph.requests import (
    CreateRun,
    CreateThread,
    Search,
    SearchThreads,
    UpdateThread,
    modes_of_query,
)
from mainstem_api.gateway.adapters.langgraph.stream import NODE, GraphRun, path_of
from mainstem_api.gateway.adapters.openai_chat import translator
from mainstem_api.gateway.adapters.openai_chat.translator import Place
from mainstem_api.gateway.adapters.streaming import stream
from mainstem_api.gateway.adapters.wait_for_end import DeferredResponse, follow_to_end
from mainstem_api.gateway.auth.caller import Caller
from mainstem_api.gateway.routes.runs import Serving
from mainstem_api.gateway.state import Gateway
from mainstem_shared import errors
from mainstem_shared.model.messages import Message
from mainstem_shared.model.principals import Principal
from mainstem_shared.model.runs import Run, Status, ThreadId
from mainstem_shared.operations import engine_catalogue
from mainstem_shared.operations.queries import conversations
from mainstem_shared.operations.queries import threads as queries

router = APIRouter(prefix=PREFIX, tags=["langgraph"])

CANCEL_WAIT_S: Final = 5.0
ROOT: Final = "root"
"""The state before a thread's first message, as `parent` of a start has it."""
_SEARCHED: Final = 500
"""So many of the caller's threads are looked through at most."""
_STATUS: Final[Mapping[str, str]] = {
    Status.QUEUED: "pending",
    Status.RUNNING: "running",
    Status.REQUIRES_ACTION: "success",  # as there: it is the thread that is interrupted
    Status.SUCCEEDED: "success",
    Status.FAILED: "error",
    Status.ABORTED: "interrupted",
}


# -- threads


@router.post("/threads", response_class=Response, responses=ANSWER)
async def create_thread(body: CreateThread, caller: Caller) -> Response:
    """Name a thread."""
    del caller
    body.check()
    return as_json(_thread(body.thread_id or str(uuid.uuid4()), [], None))


@router.post("/threads/search", response_class=Response, responses=ANSWER)
async def search_threads(body: SearchThreads, gateway: Serving, caller: Caller) -> Response:
    """List the caller's threads that fit, the last active one first; the newest are looked through."""
    body.check()
    found, cursor, scanned = list[dict[str, Any]](), None, 0
    while scanned < _SEARCHED and len(found) < body.offset + body.limit:
        page, cursor = await gateway.runs.threads(
            user_id=caller.user_id, tenant=caller.tenant, limit=100, cursor=cursor
        )
        scanned += 100
        for each in page:
            said = await _said(each.thread_id, gateway, caller)
            thread = _thread(each.thread_id, said, each.description.metadata)
            found += [thread] if body.takes(thread) else []
        if cursor is None:
            break
    return as_json(found[body.offset : body.offset + body.limit])


@router.get("/threads/{thread_id}", response_class=Response, responses=ANSWER)
async def get_thread(thread_id: ThreadId, gateway: Serving, caller: Caller) -> Response:
    """Describe a thread; one without runs is idle and empty."""
    said = await _said(thread_id, gateway, caller)
    about = await queries.description(gateway.store, caller.tenant, thread_id) if said else None
    return as_json(_thread(thread_id, said, about.metadata if about else None))


@router.patch("/threads/{thread_id}", response_class=Response, responses=ANSWER)
async def update_thread(
    thread_id: ThreadId, body: UpdateThread, gateway: Serving, caller: Caller
) -> Response:
    """Add to a thread's metadata."""
    before = await queries.description(gateway.store, caller.tenant, thread_id)
    change = {"metadata": {**(before.metadata or {}), **body.metadata}}
    described = await gateway.runs.describe_thread(
        thread_id, change, user_id=caller.user_id, tenant=caller.tenant
    )
    return as_json(_thread(thread_id, await _said(thread_id, gateway, caller), described.metadata))


@router.delete("/threads/{thread_id}", status_code=204, responses=ANSWER)
async def delete_thread(thread_id: ThreadId, gateway: Serving, caller: Caller) -> Response:
    """Abort what is active on a thread, and remove all of it for good."""
    await gateway.runs.delete_thread(thread_id, user_id=caller.user_id, tenant=caller.tenant)
    return Response(status_code=204)


@router.get("/threads/{thread_id}/state", response_class=Response, responses=ANSWER)
async def get_state(thread_id: ThreadId, gateway: Serving, caller: Caller) -> Response:
    """Return a thread's state: its messages, and what its run waits for."""
    return as_json(_state(thread_id, await _said(thread_id, gateway, caller)))


@router.post("/threads/{thread_id}/history", response_class=Response, responses=ANSWER)
async def get_history(thread_id: ThreadId, body: Search, gateway: Serving, caller: Caller) -> Response:
    """Return a thread's states after each of its runs, the latest first."""
    said = await _said(thread_id, gateway, caller)
    ends = [at + 1 for at, message in enumerate(said) if message.role == "assistant"]
    states = [
        _state(thread_id, said[:end], parent=said[before - 1].id if before else ROOT)
        for before, end in reversed(list(itertools.pairwise([0, *ends])))
    ]
    return as_json(states[: body.limit])


async def _said(
    thread_id: str, gateway: Gateway, caller: Principal, *, branch: str | None = None
) -> list[Message]:
    try:
        page = await gateway.runs.messages(
            thread_id,
            user_id=caller.sees,
            tenant=caller.tenant,
            branch=branch,
            limit=conversations.LONGEST_PAGE,
        )
    except errors.NotFound:
        return []
    return page.messages


def _thread(thread_id: str, said: list[Message], metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    last = said[-1] if said else None
    status = last.status if last is not None and last.status is not None else Status.SUCCEEDED
    names = {Status.QUEUED: "busy", Status.RUNNING: "busy", Status.REQUIRES_ACTION: "interrupted"}
    waiting = messages.interrupts(last.action if last is not None else None)
    return {
        "thread_id": thread_id,
        "created_at": said[0].created_at if said else None,
        "updated_at": last.created_at if last is not None else None,
        "metadata": metadata or {},
        "status": "error" if status is Status.FAILED else names.get(status, "idle"),
        "values": _values(said),
        "interrupts": {NODE: waiting} if waiting else {},
    }


def _values(said: list[Message]) -> dict[str, Any]:
    return {"messages": messages.of_thread(said)} if said else {}


def _state(thread_id: str, said: list[Message], *, parent: str | None = None) -> dict[str, Any]:
    last = said[-1] if said else None
    waiting = messages.interrupts(last.action if last is not None else None)
    about = {"thread_id": thread_id, "checkpoint_ns": ""}
    task = {"id": last.id if last else "", "name": NODE, "error": None, "interrupts": waiting}
    return {
        "values": _values(said),
        "next": [NODE] if waiting else [],
        "tasks": [{**task, "checkpoint": None, "state": None}] if waiting else [],
        "metadata": {},
        "created_at": last.created_at if last else None,
        "checkpoint": {**about, "checkpoint_id": last.id if last else None},
        "parent_checkpoint": None if parent is None else {**about, "checkpoint_id": parent},
        "interrupts": waiting,
    }


# -- runs


@router.post("/threads/{thread_id}/runs/stream", response_class=Response, responses=ANSWER)
async def stream_run(thread_id: ThreadId, body: CreateRun, gateway: Serving, caller: Caller) -> Response:
    """Start a run, or go on with one that was interrupted, and stream it."""
    run_id, after = await _begin(thread_id, body, gateway, caller)
    return await _stream(
        run_id, body.modes, gateway, caller, after, is_new=after is None, cancels=body.cancels
    )


@router.post("/threads/{thread_id}/runs/wait", response_class=Response, responses=ANSWER)
async def wait_for_run(thread_id: ThreadId, body: CreateRun, gateway: Serving, caller: Caller) -> Response:
    """Start a run, or go on with one, and return the state at its end."""
    run_id, _ = await _begin(thread_id, body, gateway, caller)
    return await _join(run_id, gateway, caller, cancels=body.cancels)


@router.post("/threads/{thread_id}/runs", response_class=Response, responses=ANSWER)
async def create_run(thread_id: ThreadId, body: CreateRun, gateway: Serving, caller: Caller) -> Response:
    """Start a run, or go on with one, in the background."""
    return await _create(thread_id, body, gateway, caller)


@router.post("/runs", response_class=Response, responses=ANSWER)
async def create_stateless(body: CreateRun, gateway: Serving, caller: Caller) -> Response:
    """Start a run on a thread of its own, in the background."""
    return await _create(str(uuid.uuid4()), body, gateway, caller)


async def _create(thread_id: str, body: CreateRun, gateway: Gateway, caller: Principal) -> Response:
    run_id, _ = await _begin(thread_id, body, gateway, caller)
    run = await gateway.runs.get(run_id, user_id=caller.sees, tenant=caller.tenant)
    return as_json(_run(run), content_location=path_of(thread_id, run_id))


@router.post("/runs/stream", response_class=Response, responses=ANSWER)
async def stream_stateless(body: CreateRun, gateway: Serving, caller: Caller) -> Response:
    """Start a run on a thread of its own, and stream it."""
    run_id, _ = await _begin(str(uuid.uuid4()), body, gateway, caller)
    return await _stream(run_id, body.modes, gateway, caller, None, is_new=True, cancels=body.cancels)


@router.post("/runs/wait", response_class=Response, responses=ANSWER)
async def wait_stateless(body: CreateRun, gateway: Serving, caller: Caller) -> Response:
    """Start a run on a thread of its own, and return the state at its end."""
    run_id, _ = await _begin(str(uuid.uuid4()), body, gateway, caller)
    return await _join(run_id, gateway, caller, cancels=body.cancels)


@router.get("/threads/{thread_id}/runs", response_class=Response, responses=ANSWER)
async def list_runs(
    thread_id: ThreadId, gateway: Serving, caller: Caller, limit: Annotated[int, Query(ge=1, le=100)] = 10
) -> Response:
    """List a thread's runs, newest first."""
    page = await gateway.runs.list(
        thread_id=thread_id, user_id=caller.sees, tenant=caller.tenant, limit=limit
    )
    return as_json([_run(run) for run in page.runs])


@router.get("/threads/{thread_id}/runs/{run_id}", response_class=Response, responses=ANSWER)
async def get_run(thread_id: ThreadId, run_id: str, gateway: Serving, caller: Caller) -> Response:
    """Describe a run."""
    return as_json(_run(await _get(thread_id, run_id, gateway, caller)))


@router.get("/threads/{thread_id}/runs/{run_id}/stream", response_class=Response, responses=ANSWER)
async def join_stream(
    *,
    thread_id: ThreadId,
    run_id: str,
    gateway: Serving,
    caller: Caller,
    stream_mode: Annotated[list[str] | None, Query()] = None,
    last_event_id: Annotated[str | None, Header()] = None,
    cancel_on_disconnect: bool = False,
) -> Response:
    """Follow a run after `Last-Event-ID`; `-1`: from its start."""
    run = await _get(thread_id, run_id, gateway, caller)
    cancels = cancel_on_disconnect and caller.owns(run)
    after = translator.place(None if last_event_id == "-1" else last_event_id)
    modes = modes_of_query(stream_mode) or ["values", "messages-tuple", "updates", "custom"]
    return await _stream(run_id, modes, gateway, caller, after, cancels=cancels)


@router.get("/threads/{thread_id}/runs/{run_id}/join", response_class=Response, responses=ANSWER)
async def join_run(thread_id: ThreadId, run_id: str, gateway: Serving, caller: Caller) -> Response:
    """Return the state at a run's end."""
    await _get(thread_id, run_id, gateway, caller)
    return await _join(run_id, gateway, caller)


@router.post("/threads/{thread_id}/runs/{run_id}/cancel", response_class=Response, responses=ANSWER)
async def cancel_run(
    *,
    thread_id: ThreadId,
    run_id: str,
    gateway: Serving,
    caller: Caller,
    wait: bool = False,
    action: Literal["interrupt", "rollback"] = "interrupt",
) -> Response:
    """Stop a run; `rollback` removes it, too."""
    await _get(thread_id, run_id, gateway, caller)
    if action == "rollback":
        await gateway.runs.delete(run_id, user_id=caller.user_id, tenant=caller.tenant)
    else:
        wait_s = CANCEL_WAIT_S if wait else 0
        await gateway.runs.abort(run_id, wait=wait_s, user_id=caller.user_id, tenant=caller.tenant)
    return Response(status_code=204 if wait else 202)


async def _get(thread_id: str, run_id: str, gateway: Gateway, caller: Principal) -> Run:
    run = await gateway.runs.get(run_id, user_id=caller.sees, tenant=caller.tenant)
    if run.thread_id != thread_id:
        raise errors.NotFound
    return run


def _run(run: Run) -> dict[str, Any]:
    about = {"metadata": run.metadata, "kwargs": {}, "multitask_strategy": "enqueue"}
    return {
        "run_id": run.run_id,
        "thread_id": run.thread_id,
        "assistant_id": run.engine,
        "created_at": run.created_at,
        "updated_at": run.finished_at or run.started_at or run.created_at,
        "status": _STATUS[run.status],
        **about,
    }


async def _begin(
    thread_id: str, body: CreateRun, gateway: Gateway, caller: Principal
) -> tuple[str, Place | None]:
    """Start a run, or decide what one waits for; returns it, and how much of it was said before."""
    body.check()
    if body.command is not None and body.command.resume is not None:
        return await _decide(thread_id, body, gateway, caller)
    engine, given = body.assistant_id, dict(body.input or {})
    schema = (await engine_catalogue.engines(gateway.store)).get(engine)
    said = [messages.chat(at, message) for at, message in enumerate(_listed(given.pop("messages", [])))]
    before = await _before(thread_id, body.follows, gateway, caller)
    options = engine_input.Options(input=given)
    rolls_back = body.multitask_strategy == "rollback"
    replaced = await threads.newest_active(gateway.store, thread_id, caller) if rolls_back else None
    started = await gateway.runs.start(
        thread_id,
        engine,
        engine_input.engine_input(schema, [*before, *said], {}, options),
        user_id=caller.user_id,
        tenant=caller.tenant,
        if_active=body.if_active,
        metadata=body.metadata or {},
        callback=body.callback,
        parent=body.follows,
    )
    if replaced is not None:
        await gateway.runs.delete(replaced.run_id, user_id=caller.user_id, tenant=caller.tenant)
    return started.run_id, None


def _listed(given: Any) -> list[dict[str, Any]]:
    """Return the messages of an input.

    Raises:
        InvalidRequest: they are no list of objects.
    """
    if not isinstance(given, list) or not all(isinstance(message, dict) for message in given):  # pyright: ignore[reportUnknownVariableType]
        raise errors.InvalidRequest("input.messages: a list of messages.", path="input.messages")
    return given  # pyright: ignore[reportUnknownVariableType]


async def _before(
    thread_id: str, follows: str | None, gateway: Gateway, caller: Principal
) -> list[dict[str, Any]]:
    """Return what was said before a run: on the latest branch, or up to the message that it follows.

    Raises:
        InvalidRequest: the thread has no such message.
    """
    if follows is None:
        return await threads.conversation(gateway, thread_id, caller)
    if follows == ROOT:
        return []
    said: list[dict[str, Any]] = []
    for message in await _said(thread_id, gateway, caller, branch=follows):
        said += threads.chat_messages(message)
        if message.id == follows:
            return said
    raise errors.InvalidRequest("checkpoint: the thread has no such state.", path="checkpoint")


async def _decide(
    thread_id: str, body: CreateRun, gateway: Gateway, caller: Principal
) -> tuple[str, Place | None]:
    assert body.command is not None
    active = await threads.newest_active(gateway.store, thread_id, caller)
    if active is None:
        raise errors.NotPaused(status="idle")
    if body.follows not in (None, active.run_id):
        message = "checkpoint: only the latest state waits for an answer."
        raise errors.InvalidRequest(message, path="checkpoint")
    attach_point = await attaching.read(gateway.store, active.run_id, caller)
    action = attach_point.fold.action
    if action is None:
        raise errors.NotPaused(status=attach_point.status)
    told = GraphRun(attach_point, modes=(), before=())
    told.opening()
    decided = messages.decisions(action, body.command.resume)
    await gateway.runs.resume(
        active.run_id, action["action_id"], **decided, user_id=caller.user_id, tenant=caller.tenant
    )
    return active.run_id, told.told


async def _following(
    run_id: str,
    modes: list[str],
    gateway: Gateway,
    caller: Principal,
    after: Place | None,
    *,
    is_new: bool = False,
) -> tuple[GraphRun, attaching.AttachPoint]:
    attach_point = await attaching.read(gateway.store, run_id, caller)
    if is_new:
        attach_point = attaching.at_start(attach_point)
    said = await _said(attach_point.spec.thread_id, gateway, caller)
    at = next((at for at, message in enumerate(said) if message.id == run_id), len(said))
    before = messages.of_thread(said[:at])
    return GraphRun(attach_point, modes=modes, before=before, after=after), attach_point


async def _stream(
    run_id: str,
    modes: list[str],
    gateway: Gateway,
    caller: Principal,
    after: Place | None,
    *,
    is_new: bool = False,
    cancels: bool = False,
) -> Response:
    words, attach_point = await _following(run_id, modes, gateway, caller, after, is_new=is_new)
    return stream(
        gateway,
        caller,
        run_id,
        after=attach_point.cursor,
        encoder=lambda _: words,
        on_left=_cancelling(run_id, gateway, caller) if cancels else None,
    )


def _cancelling(run_id: str, gateway: Gateway, caller: Principal) -> Callable[[], Awaitable[object]]:
    """Return what stops a run whose client asked for that, and disconnects."""
    return functools.partial(gateway.runs.abort, run_id, user_id=caller.user_id, tenant=caller.tenant)


async def _join(run_id: str, gateway: Gateway, caller: Principal, *, cancels: bool = False) -> Response:
    words, attach_point = await _following(run_id, [], gateway, caller, None)
    following = asyncio.create_task(follow_to_end(gateway, words, run_id, attach_point.cursor))
    leaving = _cancelling(run_id, gateway, caller) if cancels else None
    return await DeferredResponse.of(
        following, lambda: _outcome(words), gateway.settings.heartbeat_s, on_left=leaving
    )


def _outcome(words: GraphRun) -> Response:
    if words.failure is None:
        return as_json(words.values)
    error: Mapping[str, Any] = words.failure["error"] or {}
    about = {"error": words.failure["reason"], "message": error.get("message", "")}
    return as_json({**words.values, "__error__": about})
