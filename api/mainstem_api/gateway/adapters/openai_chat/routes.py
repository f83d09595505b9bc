"""The routes of Chat Completions create (or decide) and continue; `/v1/models` lists what can be asked."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Request
from starlette.responses import Response

from mainstem_api.gateway.adapters import attaching, engine_input
from mainstem_api.gateway.adapters.engine_input import Given
from mainstem_api.gateway.adapters.openai_chat import requests, translator
from mainstem_api.gateway.adapters.openai_chat.requests import ChatCompletionRequest
from mainstem_api.gateway.adapters.openai_chat.translator import Completion, Place
from mainstem_api.gateway.adapters.openai_responses import error_objects
from mainstem_api.gateway.adapters.openai_responses.requests import Verdicts, engine_of
from mainstem_api.gateway.adapters.retries import Retry, retry_of
from mainstem_api.gateway.adapters.streaming import stream
from mainstem_api.gateway.adapters.wait_for_end import DeferredResponse, follow_to_end
from mainstem_api.gateway.auth.caller import Caller
from mainstem_api.gateway.routes.runs import Serving
from mainstem_api.gateway.state import Gateway
from mainstem_shared import errors
from mainstem_shared.model import jsontext
from mainstem_shared.model.principals import Principal
from mainstem_shared.operations import engine_catalogue, starting

router = APIRouter(tags=["chat-completions"])

_COMPLETION: Final[dict[str, Any]] = {
    "description": "The completion; with `stream`, its chunks",
    "content": {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {}},
}
_MODELS: Final[dict[str, Any]] = {
    "description": "Engines",
    "content": {"application/json": {"schema": {"type": "object"}}},
}
_PREFIX: Final = "chatcmpl-"


@router.post(
    "/v1/chat/completions",
    response_class=Response,
    responses={200: _COMPLETION, **error_objects.documents(400, 403, 404, 409, 410, 413, 429, 503)},
)
async def create_completion(
    body: ChatCompletionRequest,
    request: Request,
    gateway: Serving,
    caller: Caller,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """Start a run, or decide what one waits for; answer with the completion, or with its chunks.

    A stream that broke is continued by the same request with `Last-Event-ID` and `x-stainless-retry-count`,
    or by `GET /v1/chat/completions/{id}`.
    """
    body.check()
    after = translator.place(last_event_id)
    verdicts = requests.verdicts(body.messages)
    if verdicts is None:
        retry = await retry_of(gateway, request, body.model_dump(mode="json"), caller)
        run_id = await _start(body, retry, gateway, caller)
    else:
        run_id, after = await _decide(verdicts, gateway, caller)
    return await _answer(body, run_id, gateway, caller, after)


@router.get(
    "/v1/chat/completions/{completion_id}",
    response_class=Response,
    responses={200: _COMPLETION, **error_objects.documents(400, 404, 503)},
)
async def continue_completion(
    completion_id: str,
    gateway: Serving,
    caller: Caller,
    stream: bool = False,  # noqa: FBT001, FBT002 - a query parameter
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """Return a completion once it is over; with `stream`, its chunks after `Last-Event-ID`."""
    if not completion_id.startswith(_PREFIX):
        raise errors.NotFound("No such completion.")
    asked = ChatCompletionRequest(
        messages=[{"role": "user"}], stream=stream, stream_options={"include_usage": True}
    )
    run_id = completion_id.removeprefix(_PREFIX)
    return await _answer(asked, run_id, gateway, caller, translator.place(last_event_id))


@router.get("/v1/models", response_class=Response, responses={200: _MODELS})
async def list_models(gateway: Serving, caller: Caller) -> Response:
    """List the engines that workers offer, as models."""
    del caller
    known = await engine_catalogue.engines(gateway.store)
    return _as_json({"object": "list", "data": [_model(name) for name in sorted(known)]})


@router.get(
    "/v1/models/{model}",
    response_class=Response,
    responses={200: _MODELS, **error_objects.documents(404)},
)
async def retrieve_model(model: str, gateway: Serving, caller: Caller) -> Response:
    """Describe one engine as a model."""
    del caller
    known = await engine_catalogue.engines(gateway.store)
    if model not in known:
        raise errors.UnknownEngine(engine=model, known=", ".join(sorted(known)) or "none")
    return _as_json(_model(model))


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "mainstem"}


async def _start(body: ChatCompletionRequest, retry: Retry, gateway: Gateway, caller: Principal) -> str:
    known = await engine_catalogue.engines(gateway.store)
    options = body.mainstem
    engine, model = engine_of(options.engine, body.model, known, gateway.settings.default_engine)
    schema, given = known.get(engine), body.parameters()
    if model is not None and engine_input.knows(schema, "model"):
        given["model"] = Given("model", model)
    fitting = engine_input.fitting(schema, given, body.hints())
    said = await _whole(body.messages, gateway, caller)
    started = await starting.start_run(
        gateway.operations,
        starting.parse_request(
            {
                "engine": engine,
                "input": engine_input.engine_input(schema, said, fitting, options),
                "if_active": options.if_active,
                "metadata": {**options.metadata, **body.echo(engine)},
                "max_duration_s": options.max_duration_s,
                "on_worker_lost": options.on_worker_lost,
                "budget": options.spendable,
                "priority": options.priority,
            }
        ),
        principal=caller,
        thread_id=retry.thread_id("chat"),
        run_id=retry.run_id(caller, retry.thread_id("chat")),
        private_threads=True,
    )
    return started.run_id


async def _whole(messages: list[dict[str, Any]], gateway: Gateway, caller: Principal) -> list[dict[str, Any]]:
    """Return a conversation with the calls that ran here, where a client's call stood beside them."""
    contents: dict[str, Any] = {}
    for run_id in requests.runs_of(messages):
        with contextlib.suppress(errors.NotFound):  # or another's: the client's word stands
            attach_point = await attaching.read(gateway.store, run_id, caller)
            contents[run_id] = attach_point.fold.dump()["content"]
    return requests.whole(messages, contents)


async def _decide(verdicts: Verdicts, gateway: Gateway, caller: Principal) -> tuple[str, Place]:
    """Hand in what was decided; returns the run, and how much of it was said up to the pause."""
    attach_point = await attaching.read(gateway.store, verdicts.run_id, caller)
    told = Completion(attach_point, model="")
    told.opening()
    await gateway.runs.resume(
        verdicts.run_id,
        verdicts.action_id,
        decisions=verdicts.decisions or None,
        answers=verdicts.answers or None,
        user_id=caller.user_id,
        tenant=caller.tenant,
    )
    return verdicts.run_id, told.told._replace(calls=0)


async def _answer(
    body: ChatCompletionRequest, run_id: str, gateway: Gateway, caller: Principal, after: Place
) -> Response:
    attach_point = await attaching.read(gateway.store, run_id, caller)
    model = attach_point.spec.metadata.get(requests.ECHO_MODEL) or attach_point.spec.engine
    words = Completion(attach_point, model=str(model), after=after, usage=body.tells_usage)
    if body.stream:
        return stream(
            gateway,
            caller,
            run_id,
            after=attach_point.cursor,
            encoder=lambda _: words,
        )
    following = asyncio.create_task(follow_to_end(gateway, words, run_id, attach_point.cursor))
    metadata = attach_point.spec.metadata.get(requests.ECHO_METADATA)
    echo = {} if metadata is None else {"metadata": metadata}
    return await DeferredResponse.of(following, lambda: _completed(words, echo), gateway.settings.heartbeat_s)


def _completed(words: Completion, echo: dict[str, Any]) -> Response:
    if words.failure is not None:
        return error_objects.of_outcome(words.failure)
    return _as_json({**words.completion(), **echo})


def _as_json(value: Any) -> Response:
    return Response(jsontext.dumps(value), media_type="application/json")
