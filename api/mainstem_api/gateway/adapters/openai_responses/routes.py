"""The Responses API's routes create (or decide), retrieve, continue a stream, and cancel."""

# what clients and providers send is checked by models or by hand, not by types.
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import asyncio
import functools
import uuid
from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Query
from starlette.responses import Response

from mainstem_api.gateway.adapters import attaching, engine_input
from mainstem_api.gateway.adapters.attaching import AttachPoint
from mainstem_api.gateway.adapters.openai_responses import error_objects, ids, items, requests, translator
from mainstem_api.gateway.adapters.openai_responses.error_objects import ResponseStream
from mainstem_api.gateway.adapters.openai_responses.ids import ResponseId
from mainstem_api.gateway.adapters.openai_responses.requests import CreateRequest, Verdicts
from mainstem_api.gateway.adapters.openai_responses.translator import EVERYTHING, Responses
from mainstem_api.gateway.auth.caller import Caller
from mainstem_api.gateway.routes.runs import Serving
from mainstem_api.gateway.state import Gateway
from mainstem_shared import errors
from mainstem_shared.eventlog.reading import run_states
from mainstem_shared.model import jsontext
from mainstem_shared.model.contents import TextPart
from mainstem_shared.model.principals import Principal
from mainstem_shared.operations import engine_catalogue

router = APIRouter(tags=["responses"], route_class=error_objects.Route)

CANCEL_WAIT_S: Final = 5.0
"""A cancel answers with the final response, if the run ends within so many seconds."""
_NOTHING: Final = 2**63
"""As if the client had every event: for response objects without a stream."""
_RESPONSE: Final[dict[str, Any]] = {
    "description": "The response; with `stream`, its events",
    "content": {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {}},
}


@router.post(
    "/v1/responses",
    response_class=Response,
    responses={200: _RESPONSE, **error_objects.documents(400, 403, 404, 409, 410, 413, 429, 503)},
)
async def create_response(
    body: CreateRequest,
    gateway: Serving,
    caller: Caller,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> Response:
    """Start a run, or decide what a response waits for; answer with the response, or with its events."""
    body.check()
    verdicts = requests.verdicts(body.items)
    if verdicts is not None:
        name = await _decide(body, verdicts, gateway, caller)
    else:
        name = await _start(body, gateway, caller, idempotency_key)
    if body.stream:
        return await _stream(name, gateway, caller)
    if body.background:
        return _as_json(_now(name, await attaching.read(gateway.store, name.run_id, caller)))
    return _as_json(await _settled(name, gateway, caller))


@router.get(
    "/v1/responses/{response_id}",
    response_class=Response,
    responses={200: _RESPONSE, **error_objects.documents(400, 404, 503)},
)
async def retrieve_response(
    *,
    response_id: str,
    gateway: Serving,
    caller: Caller,
    stream: bool = False,
    starting_after: Annotated[int, Query(ge=0, lt=2**53)] | None = None,
) -> Response:
    """Return a response as of now; with `stream`, its events: all, or those after number `starting_after`."""
    name = ids.response(response_id)
    if stream:
        return await _stream(
            name, gateway, caller, after=EVERYTHING if starting_after is None else starting_after
        )
    return _as_json(_now(name, await attaching.read(gateway.store, name.run_id, caller)))


@router.post(
    "/v1/responses/{response_id}/cancel",
    response_class=Response,
    responses={200: _RESPONSE, **error_objects.documents(400, 404, 503)},
)
async def cancel_response(response_id: str, gateway: Serving, caller: Caller) -> Response:
    """Stop the run. What it has produced is kept, and returned; a response that is complete stays so."""
    name = ids.response(response_id)
    attach_point = await attaching.read(gateway.store, name.run_id, caller)
    now = _now(name, attach_point)
    if name.turn == len(attach_point.pauses) and attach_point.outcome is None:
        await gateway.runs.abort(name.run_id, wait=CANCEL_WAIT_S, user_id=caller.sees, tenant=caller.tenant)
        now = _now(name, await attaching.read(gateway.store, name.run_id, caller))
    return _as_json(now)


# -- starting and deciding


async def _start(
    body: CreateRequest, gateway: Gateway, caller: Principal, idempotency_key: str | None
) -> ResponseId:
    known = await engine_catalogue.engines(gateway.store)
    engine, model = requests.engine_of(body, known, gateway.settings.default_engine)
    parameters = body.parameters() if model is None else {**body.parameters(), "model": model}
    before, thread_id = await _before(body, gateway, caller)
    options = body.mainstem
    started = await gateway.runs.start(
        thread_id,
        engine,
        engine_input.engine_input(
            known.get(engine), requests.conversation(body, before), parameters, options
        ),
        user_id=caller.user_id,
        tenant=caller.tenant,
        if_active=options.if_active,
        metadata={**options.metadata, items.ECHO: body.echo()},
        idempotency_key=idempotency_key,
        max_duration_s=options.max_duration_s,
        on_worker_lost=options.on_worker_lost,
    )
    return ResponseId(started.run_id)


async def _before(
    body: CreateRequest, gateway: Gateway, caller: Principal
) -> tuple[list[dict[str, Any]], str]:
    """Return the conversation before this request, and the thread it goes on in."""
    named = body.thread()
    if body.previous_response_id is None:
        return [], named or f"resp-{uuid.uuid4()}"
    name = ids.response(body.previous_response_id)
    attach_point = await attaching.read(gateway.store, name.run_id, caller)
    given = (await attaching.input_of(gateway.store, name.run_id)).get("messages")
    content = [part.dump() if isinstance(part, TextPart) else part for part in attach_point.fold.parts]
    history = [*_without_instructions(given, attach_point), *engine_input.transcript(content)]
    return history, named or attach_point.spec.thread_id


def _without_instructions(given: Any, attach_point: AttachPoint) -> list[dict[str, Any]]:
    """Return the messages of an earlier run but its instructions: they were for that response alone."""
    messages: list[dict[str, Any]] = given if isinstance(given, list) else []
    echo: Mapping[str, Any] = attach_point.spec.metadata.get(items.ECHO) or {}
    said = {"role": "system", "content": echo.get("instructions")}
    return messages[1:] if messages[:1] == [said] else messages


async def _decide(body: CreateRequest, verdicts: Verdicts, gateway: Gateway, caller: Principal) -> ResponseId:
    """Hand in what the input decides; returns the response that goes on from there."""
    run_id = verdicts.run_id
    if body.previous_response_id is not None and ids.response(body.previous_response_id).run_id != run_id:
        message = "previous_response_id: the input decides about another response."
        raise errors.InvalidRequest(message, path="previous_response_id")
    await gateway.runs.resume(
        run_id,
        verdicts.action_id,
        decisions=verdicts.decisions or None,
        answers=verdicts.answers or None,
        user_id=caller.user_id,
        tenant=caller.tenant,
    )
    attach_point = await attaching.read(gateway.store, run_id, caller)
    decided = [pause["action_id"] for pause in attach_point.pauses]
    return ResponseId(run_id, decided.index(verdicts.action_id) + 1)


# -- answering


def _now(name: ResponseId, attach_point: AttachPoint) -> dict[str, Any]:
    words = Responses(name, attach_point, after=_NOTHING)
    words.opening()
    return words.response()


async def _settled(name: ResponseId, gateway: Gateway, caller: Principal) -> dict[str, Any]:
    """Return a response once it is over."""
    attach_point = await attaching.read(gateway.store, name.run_id, caller)
    words = Responses(name, attach_point, after=_NOTHING)
    words.opening()
    if not words.over:
        async with gateway.tailer.subscribe(name.run_id, after=attach_point.cursor) as subscription:
            async for frames in subscription:
                words.take(frames)
                if words.over:
                    break
    if not words.over:
        raise errors.StoreUnavailable("This gateway stops serving; retrieve the response from another.")
    return words.response()


async def _stream(
    name: ResponseId, gateway: Gateway, caller: Principal, *, after: int = EVERYTHING
) -> Response:
    attach_point = await attaching.read(gateway.store, name.run_id, caller)
    begin = functools.partial(translator.following, name, attach_point, after=after)
    words = await asyncio.to_thread(begin) if attach_point.fold.size > run_states.LARGE else begin()
    return ResponseStream(
        gateway.tailer.subscribe(name.run_id, after=attach_point.cursor),
        principal=caller,
        heartbeat_s=gateway.settings.heartbeat_s,
        metrics=gateway.metrics,
        outgoing=gateway.outgoing,
        encoder=lambda _: words,
    )


def _as_json(value: Mapping[str, Any]) -> Response:
    return Response(jsontext.dumps(value), media_type="application/json")
