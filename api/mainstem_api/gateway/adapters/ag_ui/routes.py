"""AG-UI's route starts a run, attaches to one, or resumes one that waits, and streams it to an outcome.

A client's `runId` names a run of its own for it. The first of a conversation's turn is one of our runs, whose
id follows from it. What resumes a paused run is another AG-UI run but the same one of ours: such names are
kept beside the thread's idempotency keys, for as long (`_also_known_as`).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from typing import Any, Final

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

from mainstem_api.gateway.adapters import attaching, engine_input, threads
from mainstem_api.gateway.adapters.ag_ui import history, messages
from mainstem_api.gateway.adapters.ag_ui.events import Events
from mainstem_api.gateway.adapters.ag_ui.requests import RunAgentInput, Verdicts, verdicts
from mainstem_api.gateway.adapters.attaching import AttachPoint
from mainstem_api.gateway.adapters.start_once import Started, start_once
from mainstem_api.gateway.adapters.streaming import stream
from mainstem_api.gateway.auth.caller import Caller
from mainstem_api.gateway.routes.runs import Serving, as_json, problem_documents
from mainstem_api.gateway.state import Gateway
from mainstem_shared import errors, transitions
from mainstem_shared.model import digests, ids, runs
from mainstem_shared.model.principals import Principal
from mainstem_shared.model.runs import Status
from mainstem_shared.operations import engine_catalogue, starting
from mainstem_shared.store import keys

router = APIRouter(tags=["ag-ui"])
_MESSAGE_ID: Final = re.compile(r"[^\x00-\x20\x7f]{1,255}")

ABORT_WAIT_S: Final = 5.0
"""Questions that the user cancels end the run; its end is told if it comes within so many seconds."""
_IS_AT_WORK: Final = frozenset({Status.QUEUED, Status.RUNNING, Status.REQUIRES_ACTION})
"""The same said again while it is being answered is a double click; afterwards, another answer is wanted."""
_STREAM: Final[dict[str, Any]] = {
    "description": "The run's AG-UI events, until RUN_FINISHED or RUN_ERROR",
    "content": {"text/event-stream": {}},
}


@router.post(
    "/v1/ag-ui",
    response_class=Response,
    responses={200: _STREAM, **problem_documents(400, 403, 404, 409, 410, 413, 422, 429, 503)},
)
async def run_agent(body: RunAgentInput, gateway: Serving, caller: Caller) -> Response:
    """Run the agent. A `runId` that is known attaches to its run; `resume` decides what a run waits for."""
    if body.resume:
        return await _resume(body, verdicts(body.resume), gateway, caller)
    run_id = _run_id(body, caller)
    attach_point = await _find(gateway, run_id, caller)
    turn = 0
    if attach_point is None and (known := await _known_as(gateway, body, caller)) is not None:
        run_id, turn = known
        attach_point = await attaching.read(gateway.store, run_id, caller)
    if attach_point is None:
        run_id = await _start(body, run_id, gateway, caller)
    before = None if attach_point is None else _spent_before(attach_point, turn)
    return _follow(body, gateway, caller, run_id, attach_point=attach_point, before=before)


class AgentMessages(BaseModel):
    """AG-UI messages, oldest first; `previous` is the `before` of the page before, null at the start."""

    messages: list[dict[str, Any]]
    previous: str | None


@router.get(
    "/v1/ag-ui/threads/{thread_id}/messages",
    response_model=AgentMessages,
    responses=problem_documents(400, 404, 422, 503),
)
async def list_messages(
    thread_id: runs.ThreadId, gateway: Serving, caller: Caller, before: runs.MessageId | None = None
) -> Response:
    """Return a thread's messages for an agent: the last 200 of its latest branch, or those before one.

    An answer that is not complete is not among them: who attaches to its run gets all of it.
    """
    page = await threads.page(gateway, thread_id, caller, before=before)
    found = AgentMessages(messages=history.agent_messages(page.messages), previous=page.previous)
    return as_json(found)


def _run_id(body: RunAgentInput, caller: Principal) -> str:
    """Return the id of the run that the client's name for it stands for: the same at every gateway."""
    named = digests.digest(_scope(body, caller))
    return ids.run_id(caller.tenant, body.thread_id, uuid.UUID(bytes=named))


def _scope(body: RunAgentInput, caller: Principal) -> bytes:
    parts = ("ag-ui", caller.tenant, caller.user_id, body.thread_id, body.run_id)
    return "\0".join(parts).encode("utf-8", "surrogatepass")


async def _find(gateway: Gateway, run_id: str, caller: Principal) -> AttachPoint | None:
    try:
        return await attaching.read(gateway.store, run_id, caller)
    except errors.NotFound:
        return None


async def _start(body: RunAgentInput, run_id: str, gateway: Gateway, caller: Principal) -> str:
    """Start a run, and return its id: that of another one if the same was said, and is being answered."""
    options = body.options
    engine = options.engine or gateway.settings.default_engine
    schema = await engine_catalogue.schema_of(gateway.store, engine)
    said = messages.conversation(body.messages, body.context)
    message_id, parent = history.last_said(body.messages, run_id)
    request = starting.parse_request(
        {
            "engine": engine,
            "input": engine_input.engine_input(schema, said, body.parameters(), options),
            "if_active": options.if_active,
            "metadata": options.metadata,
            "max_duration_s": options.max_duration_s,
            "on_worker_lost": options.on_worker_lost,
            "budget": options.spendable,
            "priority": options.priority,
            "message_id": message_id if message_id and _MESSAGE_ID.fullmatch(message_id) else None,
            "parent": parent,
        }
    )

    async def start(key: str) -> Started:
        outcome = await starting.start_run(
            gateway.operations,
            request,
            principal=caller,
            thread_id=body.thread_id,
            run_id=run_id,
            idempotency_key=key,
            private_threads=True,
        )
        return Started(outcome.run_id, outcome.replayed)

    # Names without messages say nothing that could be said twice.
    is_said = any(message.get("role") == "user" for message in body.messages)
    what = [body.messages, body.context] if is_said else [body.run_id]
    started = await start_once(gateway, start, key=f"ag-ui:{digests.of_json(what)}", keeps=_IS_AT_WORK)
    if started != run_id:
        await _also_known_as(gateway, body, caller, started, 0)
    return started


# -- resuming


async def _resume(body: RunAgentInput, given: Verdicts, gateway: Gateway, caller: Principal) -> Response:
    run_id = given.run_id
    attach_point = await attaching.read(gateway.store, run_id, caller)
    if attach_point.spec.thread_id != body.thread_id or not caller.owns(attach_point.spec):
        raise errors.NotFound
    try:
        await _decide(given, attach_point, gateway, caller)
    except (errors.ActionExpired, errors.NotPaused, errors.StaleAction):
        if not given.all_cancelled:
            raise
        # The protocol's way past an interrupt that nobody can answer any more: tell what became of the run.
        attach_point = await attaching.read(gateway.store, run_id, caller)
    if _is_pending(given.action_id, attach_point):
        # The client has it all up to the pause: what follows comes as events, however far the run is by now.
        turn, before = len(attach_point.pauses) + 1, attach_point.fold.usage
        attach_point.fold.action = None
    else:
        attach_point = await attaching.read(gateway.store, run_id, caller)
        decided = [pause["action_id"] for pause in attach_point.pauses]
        turn = decided.index(given.action_id) + 1 if given.action_id in decided else len(decided)
        before = _spent_before(attach_point, turn)
    await _also_known_as(gateway, body, caller, run_id, turn)
    return _follow(body, gateway, caller, run_id, attach_point=attach_point, before=before)


def _spent_before(attach_point: AttachPoint, turn: int) -> Mapping[str, Any] | None:
    """Return what the run had spent when its n-th pause was decided."""
    mark = attach_point.pauses[turn - 1].get("mark") if 0 < turn <= len(attach_point.pauses) else None
    return mark["usage"] if mark else None


async def _decide(given: Verdicts, attach_point: AttachPoint, gateway: Gateway, caller: Principal) -> None:
    questions = _questions(given.action_id, attach_point)
    if questions and given.all_cancelled and _is_pending(given.action_id, attach_point):
        await gateway.runs.abort(
            given.run_id, wait=ABORT_WAIT_S, user_id=caller.user_id, tenant=caller.tenant
        )
        return
    await gateway.runs.resume(
        given.run_id,
        given.action_id,
        decisions=given.decisions(questions) or None,
        answers=given.answers(questions) or None,
        user_id=caller.user_id,
        tenant=caller.tenant,
    )


def _is_pending(action_id: str, attach_point: AttachPoint) -> bool:
    action = attach_point.fold.action
    return attach_point.outcome is None and action is not None and action["action_id"] == action_id


def _questions(action_id: str, attach_point: AttachPoint) -> frozenset[str]:
    """Return the ids of what an action asks that is no tool call."""
    action = attach_point.fold.action or {}
    if action.get("action_id") == action_id:
        return frozenset(asked["question_id"] for asked in action.get("questions", ()))
    decided = (
        d for pause in attach_point.pauses if pause["action_id"] == action_id for d in pause["decisions"]
    )
    return frozenset(decision["id"] for decision in decided if "name" not in decision)


async def _also_known_as(
    gateway: Gateway, body: RunAgentInput, caller: Principal, run_id: str, turn: int
) -> None:
    """Remember which run the client's name stands for, so that it can attach to it later.

    Best effort, after the decision is durable: without it the client must resume again to attach.
    """
    key, value = _name_key(body, caller), f"{run_id} {turn}"
    await gateway.store.command("SET", key, value, "NX", "PX", transitions.IDEMPOTENCY_TTL_MS)


async def _known_as(gateway: Gateway, body: RunAgentInput, caller: Principal) -> tuple[str, int] | None:
    """Return the run that `_also_known_as` remembers, and how many of its pauses were decided before."""
    key = _name_key(body, caller)
    found = await gateway.store.command("GET", key)
    if found is None:
        return None
    run_id, _, turn = found.decode().partition(" ")
    return run_id, int(turn)


def _name_key(body: RunAgentInput, caller: Principal) -> str:
    digest = digests.hex_digest(_scope(body, caller))
    return keys.idempotency(_run_id(body, caller), digest)


# -- following


def _follow(
    body: RunAgentInput,
    gateway: Gateway,
    caller: Principal,
    run_id: str,
    *,
    attach_point: AttachPoint | None,
    before: Mapping[str, Any] | None,
) -> Response:
    words = Events(
        thread_id=body.thread_id,
        name=body.run_id,
        run_id=run_id,
        history=body.messages,
        attach_point=attach_point,
        before=before,
        speaks_1=body.speaks_1,
    )
    return stream(
        gateway,
        caller,
        run_id,
        after=None if attach_point is None else attach_point.cursor,
        encoder=lambda _: words,
    )
