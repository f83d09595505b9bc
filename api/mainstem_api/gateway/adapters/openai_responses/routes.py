"""The Responses API's routes create (or decide), retrieve, continue a stream, and cancel."""

# what clients and providers send is checked by models or by hand, not by types.
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response

from mainstem_api.gateway.adapters import attaching, engine_input, threads
from mainstem_api.gateway.adapters.attaching import AttachPoint
from mainstem_api.gateway.adapters.engine_input import Given
from mainstem_api.gateway.adapters.openai_responses import (
    error_objects,
    ids,
    messages,
    references,
    requests,
    response_object,
    translator,
)
from mainstem_api.gateway.adapters.openai_responses.messages import Order
from mainstem_api.gateway.adapters.openai_responses.requests import CreateRequest, Verdicts
from mainstem_api.gateway.adapters.openai_responses.translator import EVERYTHING, Responses
from mainstem_api.gateway.adapters.retries import Retry, retry_of
from mainstem_api.gateway.adapters.streaming import stream
from mainstem_api.gateway.adapters.wait_for_end import DeferredResponse, follow_to_end
from mainstem_api.gateway.auth.caller import Caller
from mainstem_api.gateway.routes.runs import Serving
from mainstem_api.gateway.state import Gateway
from mainstem_shared import errors
from mainstem_shared.eventlog.reading import run_states
from mainstem_shared.model import jsontext
from mainstem_shared.model import messages as thread_messages
from mainstem_shared.model.contents import TextPart
from mainstem_shared.model.openai_responses import ResponseId
from mainstem_shared.model.principals import Principal
from mainstem_shared.operations import engine_catalogue, starting

router = APIRouter(tags=["responses"])

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
    request: Request,
    gateway: Serving,
    caller: Caller,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> Response:
    """Start a run, or decide what a response waits for; answer with the response, or with its events."""
    body.check()
    body = await references.resolved(body, lambda run_id: _items(run_id, gateway, caller))
    verdicts = requests.verdicts(body.items)
    if verdicts is not None:
        name = await _decide(body, verdicts, gateway, caller)
    else:
        given = body.model_dump(mode="json")
        retry = await retry_of(gateway, request, given, caller, idempotency_key=idempotency_key)
        name = await _start(body, gateway, caller, retry)
    if body.stream:
        return await _stream(name, gateway, caller)
    if body.background:
        return _as_json(_now(name, await attaching.read(gateway.store, name.run_id, caller)))
    return await _completed(name, gateway, caller)


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
        await _read(name, gateway, caller)
        return await _stream(
            name, gateway, caller, after=EVERYTHING if starting_after is None else starting_after
        )
    return _as_json(_now(name, await _read(name, gateway, caller)))


@router.get(
    "/v1/responses/{response_id}/input_items",
    response_class=Response,
    responses={200: _RESPONSE, **error_objects.documents(400, 404, 503)},
)
async def list_input_items(
    *,
    response_id: str,
    gateway: Serving,
    caller: Caller,
    order: Order = "desc",
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Response:
    """List what the engine was given: the input, and the conversation before it."""
    name = ids.response(response_id)
    await _read(name, gateway, caller)
    turns = thread_messages.turns(await attaching.input_of(gateway.store, name.run_id))
    items = [
        item
        for number, turn in enumerate(turns)
        for item in messages.items_of(f"{ids.short(name.run_id)}_in_{number}", turn.role, turn.parts)
    ]
    return _as_json(messages.page(items, order=order, after=after, limit=limit))


@router.delete(
    "/v1/responses/{response_id}",
    response_class=Response,
    responses={200: _RESPONSE, **error_objects.documents(404, 503)},
)
async def delete_response(response_id: str, gateway: Serving, caller: Caller) -> Response:
    """Remove a response's run for good; it is aborted first if it is active."""
    name = ids.response(response_id)
    await _read(name, gateway, caller)
    await gateway.runs.delete(name.run_id, user_id=caller.user_id, tenant=caller.tenant)
    return _as_json({"id": response_id, "object": "response", "deleted": True})


@router.post(
    "/v1/responses/{response_id}/cancel",
    response_class=Response,
    responses={200: _RESPONSE, **error_objects.documents(400, 404, 503)},
)
async def cancel_response(response_id: str, gateway: Serving, caller: Caller) -> Response:
    """Stop the run. What it has produced is kept, and returned; a response that is complete stays so."""
    name = ids.response(response_id)
    attach_point = await _read(name, gateway, caller)
    now = _now(name, attach_point)
    if name.turn == len(attach_point.pauses) and attach_point.outcome is None:
        await gateway.runs.abort(name.run_id, wait=CANCEL_WAIT_S, user_id=caller.sees, tenant=caller.tenant)
        now = _now(name, await attaching.read(gateway.store, name.run_id, caller))
    return _as_json(now)


# -- starting and deciding


async def _start(body: CreateRequest, gateway: Gateway, caller: Principal, retry: Retry) -> ResponseId:
    known = await engine_catalogue.engines(gateway.store)
    engine, model = requests.engine_of(
        body.mainstem.engine, body.model, known, gateway.settings.default_engine
    )
    schema, given = known.get(engine), body.parameters()
    if model is not None and engine_input.knows(schema, "model"):
        given["model"] = Given("model", model)
    parameters = engine_input.fitting(schema, given, body.hints())
    before, thread_id = await _before(body, gateway, caller)
    options = body.mainstem
    thread_id = thread_id or retry.thread_id("resp")
    said = requests.conversation(body, before)
    started = await starting.start_run(
        gateway.operations,
        starting.parse_request(
            {
                "engine": engine,
                "input": engine_input.engine_input(schema, said, parameters, options),
                "if_active": options.if_active,
                "metadata": {**options.metadata, response_object.ECHO: body.echo()},
                "max_duration_s": options.max_duration_s,
                "on_worker_lost": options.on_worker_lost,
                "budget": options.spendable,
                "priority": options.priority,
            }
        ),
        principal=caller,
        thread_id=thread_id,
        run_id=retry.run_id(caller, thread_id),
        private_threads=True,
    )
    return ResponseId(started.run_id)


async def _before(
    body: CreateRequest, gateway: Gateway, caller: Principal
) -> tuple[list[dict[str, Any]], str | None]:
    """Return the conversation before this request, and the thread it goes on in."""
    named = body.thread()
    if named is not None:
        return await threads.conversation(gateway, named, caller), named
    if body.previous_response_id is None:
        return [], None
    name = ids.response(body.previous_response_id)
    attach_point = await _read(name, gateway, caller)
    given = (await attaching.input_of(gateway.store, name.run_id)).get("messages")
    content = [part.dump() if isinstance(part, TextPart) else part for part in attach_point.fold.parts]
    history = [*_without_instructions(given, attach_point), *engine_input.transcript(content)]
    return history, attach_point.spec.thread_id


def _without_instructions(given: Any, attach_point: AttachPoint) -> list[dict[str, Any]]:
    """Return the messages of an earlier run but its instructions: they were for that response alone."""
    messages: list[dict[str, Any]] = given if isinstance(given, list) else []
    echo: Mapping[str, Any] = attach_point.spec.metadata.get(response_object.ECHO) or {}
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


async def _read(name: ResponseId, gateway: Gateway, caller: Principal) -> AttachPoint:
    """Return where a response's run stands.

    Raises:
        NotFound: there is no such run; or it was asked for with `store: false`, and answered once.
    """
    attach_point = await attaching.read(gateway.store, name.run_id, caller)
    echo: Mapping[str, Any] = attach_point.spec.metadata.get(response_object.ECHO) or {}
    if echo.get("store") is False:
        raise errors.NotFound(f"Response with id {str(name)!r} not found.")
    return attach_point


async def _items(run_id: str, gateway: Gateway, caller: Principal) -> list[dict[str, Any]]:
    """Return the items of all responses that a run gave."""
    attach_point = await _read(ResponseId(run_id), gateway, caller)
    turns = range(len(attach_point.pauses) + 1)
    return [item for turn in turns for item in _now(ResponseId(run_id, turn), attach_point)["output"]]


def _now(name: ResponseId, attach_point: AttachPoint) -> dict[str, Any]:
    words = Responses(name, attach_point, after=_NOTHING)
    words.opening()
    return words.response()


async def _completed(name: ResponseId, gateway: Gateway, caller: Principal) -> Response:
    """Return a response once it is over."""
    attach_point = await attaching.read(gateway.store, name.run_id, caller)
    words = Responses(name, attach_point, after=_NOTHING)
    following = asyncio.create_task(follow_to_end(gateway, words, name.run_id, attach_point.cursor))
    return await DeferredResponse.of(following, lambda: _whole(words), gateway.settings.heartbeat_s)


def _whole(words: Responses) -> Response:
    if words.status == "failed" and words.failure is not None and not words.has_output:
        return error_objects.of_outcome(words.failure)
    return _as_json(words.response())


async def _stream(
    name: ResponseId, gateway: Gateway, caller: Principal, *, after: int = EVERYTHING
) -> Response:
    attach_point = await attaching.read(gateway.store, name.run_id, caller)
    begin = functools.partial(translator.following, name, attach_point, after=after)
    words = await asyncio.to_thread(begin) if attach_point.fold.size > run_states.LARGE else begin()
    return stream(
        gateway,
        caller,
        name.run_id,
        after=attach_point.cursor,
        encoder=lambda _: words,
    )


def _as_json(value: Mapping[str, Any]) -> Response:
    return Response(jsontext.dumps(value), media_type="application/json")
