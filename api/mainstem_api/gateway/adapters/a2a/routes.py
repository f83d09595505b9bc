"""A2A's routes: an agent card for each engine, and the JSON-RPC methods about tasks."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Request
from pydantic import ValidationError
from starlette.responses import Response

from mainstem_api.gateway.adapters import attaching, engine_input, threads
from mainstem_api.gateway.adapters.a2a import errors as rpc_errors
from mainstem_api.gateway.adapters.a2a import push, requests, translator
from mainstem_api.gateway.adapters.a2a.requests import ListQuery, RpcRequest, SendMessage, TaskQuery
from mainstem_api.gateway.adapters.a2a.translator import TaskUpdates
from mainstem_api.gateway.adapters.streaming import stream
from mainstem_api.gateway.adapters.wait_for_end import DeferredResponse, follow_to_end
from mainstem_api.gateway.auth.caller import Caller
from mainstem_api.gateway.problems import error_documents
from mainstem_api.gateway.routes.runs import Serving
from mainstem_api.gateway.state import Gateway
from mainstem_shared import errors
from mainstem_shared.model import digests, jsontext, validation
from mainstem_shared.model.principals import Principal
from mainstem_shared.model.runs import EngineName, Run, Status, rfc3339
from mainstem_shared.operations import engine_catalogue, push_receivers

router = APIRouter(tags=["a2a"])

VERSION: Final = "1.0"
CANCEL_WAIT_S: Final = 5.0
_JSON: Final[dict[str, Any]] = {
    "description": "A JSON-RPC response, or a stream of them",
    "content": {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {}},
}
_CARD: Final[dict[str, Any]] = {
    "description": "The agent card",
    "content": {"application/json": {"schema": {"type": "object"}}},
}


@router.get(
    "/v1/a2a/{engine}/.well-known/agent-card.json",
    response_class=Response,
    responses={200: _CARD, **error_documents(400, 404, 413, 422, 429, 503)},
)
async def agent_card(engine: EngineName, request: Request, gateway: Serving, caller: Caller) -> Response:
    """Describe an engine as an agent."""
    del caller
    known = await engine_catalogue.engines(gateway.store)
    if engine not in known:
        raise errors.NotFound("No such agent.")
    url = str(request.url).partition("/.well-known/")[0]
    skill = {"id": engine, "name": engine, "description": f"Runs the engine {engine}.", "tags": ["mainstem"]}
    card = {
        "name": engine,
        "description": f"The engine {engine}: its tasks are durable, and can be subscribed to again.",
        "version": "1",
        "supportedInterfaces": [{"url": url, "protocolBinding": "JSONRPC", "protocolVersion": VERSION}],
        "capabilities": {
            "streaming": True,
            "pushNotifications": push_receivers.allowed(gateway.settings),
            "extendedAgentCard": False,
        },
        "defaultInputModes": list(requests.MODES),
        "defaultOutputModes": ["text/plain", "application/json"],
        "skills": [skill],
    }
    body = jsontext.dumps(card)
    headers = {"cache-control": "private, max-age=60", "etag": f'"{digests.digest(body, size=16).hex()}"'}
    return Response(body, headers=headers, media_type="application/json")


@router.post(
    "/v1/a2a/{engine}",
    response_class=Response,
    responses={200: _JSON, **error_documents(400, 404, 413, 422, 429, 503)},
)
async def call_method(
    body: RpcRequest,
    engine: EngineName,
    gateway: Serving,
    caller: Caller,
    a2a_version: Annotated[str, Header()] = "",
) -> Response:
    """Carry out a JSON-RPC request of version 1.0, which who names none means by the method's name."""
    if a2a_version and a2a_version.split(".")[:2] != VERSION.split("."):
        message = f"A2A-Version: {a2a_version[:20]!r} is not served, only {VERSION}."
        return rpc_errors.response(body.id, rpc_errors.VERSION, message, "")
    method = _METHODS.get(body.method)
    if method is None:
        code = _NOT_SERVED.get(body.method, rpc_errors.METHOD_NOT_FOUND)
        message = f"There is no method {body.method!r} here."
        return rpc_errors.response(body.id, code, message, "METHOD_NOT_FOUND")
    try:
        return await method(_Call(body, engine, gateway, caller))
    except rpc_errors.Refused as refused:
        return rpc_errors.response(body.id, refused.code, str(refused), "")
    except ValidationError as error:
        return rpc_errors.of_error(body.id, validation.invalid_request(error))
    except errors.MainstemError as error:
        return rpc_errors.of_error(body.id, error)


class _Call:
    """One request, by one caller, of one engine's agent."""

    def __init__(self, body: RpcRequest, engine: str, gateway: Gateway, caller: Principal) -> None:
        self.body, self.engine, self.gateway, self.caller = body, engine, gateway, caller

    def answer(self, result: Mapping[str, Any]) -> Response:
        payload = {"jsonrpc": "2.0", "id": self.body.id, "result": result}
        return Response(jsontext.dumps(payload), media_type="application/json")

    async def task(self, run_id: str) -> dict[str, Any]:
        return translator.task(await attaching.read(self.gateway.store, run_id, self.caller))

    async def final_task(self, run_id: str) -> Response:
        """Answer with a task once it is over, or waits for its user."""
        attach_point = await attaching.read(self.gateway.store, run_id, self.caller)
        answers: list[Response] = []

        async def wait() -> None:
            await follow_to_end(self.gateway, TaskUpdates(attach_point, None), run_id, attach_point.cursor)
            answers.append(self.answer({"task": await self.task(run_id)}))

        waiting = asyncio.create_task(wait())
        return await DeferredResponse.of(waiting, lambda: answers[0], self.gateway.settings.heartbeat_s)

    async def stream(self, run_id: str) -> Response:
        attach_point = await attaching.read(self.gateway.store, run_id, self.caller)
        words = TaskUpdates(attach_point, self.body.id)
        return stream(
            self.gateway,
            self.caller,
            run_id,
            after=attach_point.cursor,
            encoder=lambda _: words,
        )


async def _send(call: _Call) -> Response:
    given = SendMessage.model_validate(call.body.params)
    run_id = await _begin(call, given)
    if given.configuration.return_immediately:
        return call.answer({"task": await call.task(run_id)})
    return await call.final_task(run_id)


async def _send_streaming(call: _Call) -> Response:
    return await call.stream(await _begin(call, SendMessage.model_validate(call.body.params)))


async def _begin(call: _Call, given: SendMessage) -> str:
    config = given.configuration.task_push_notification_config
    if given.message.task_id:
        if config is not None:
            await push.put(call.gateway, given.message.task_id, config, call.caller)
        return await _decide(call, given)
    return await _start(call, given)


async def _start(call: _Call, given: SendMessage) -> str:
    gateway, caller, message, options = call.gateway, call.caller, given.message, given.options
    schema = (await engine_catalogue.engines(gateway.store)).get(call.engine)
    # A context that nobody named follows from the message: sent again, it is the same task.
    named = f"{caller.user_id}/{message.message_id}"
    context = message.context_id or str(uuid.uuid5(uuid.NAMESPACE_URL, named))
    said = await threads.conversation(gateway, context, caller, before=message.message_id)
    said.append({"role": "user", "content": message.content()})
    result = await gateway.runs.start(
        context,
        call.engine,
        engine_input.engine_input(schema, said, {}, options),
        user_id=caller.user_id,
        tenant=caller.tenant,
        if_active=options.if_active,
        metadata=options.metadata,
        idempotency_key=f"a2a:{message.message_id}",
        max_duration_s=options.max_duration_s,
        on_worker_lost=options.on_worker_lost,
        priority=options.priority,
        message_id=message.message_id,
        callback=push.callback(given.configuration.task_push_notification_config),
    )
    return result.run_id


async def _decide(call: _Call, given: SendMessage) -> str:
    run_id = given.message.task_id or ""
    attach_point = await attaching.read(call.gateway.store, run_id, call.caller)
    action = attach_point.fold.action
    if given.message.context_id not in (None, attach_point.spec.thread_id):
        message = "message.contextId: the task is of another context."
        raise errors.InvalidRequest(message, path="message.contextId")
    if action is None or attach_point.outcome is not None:
        raise errors.NotPaused(status=attach_point.status)
    await call.gateway.runs.resume(
        run_id,
        action["action_id"],
        **requests.decisions(action, given.message),
        user_id=call.caller.user_id,
        tenant=call.caller.tenant,
    )
    return run_id


async def _get(call: _Call) -> Response:
    return call.answer(await call.task(TaskQuery.model_validate(call.body.params).id))


async def _subscribe(call: _Call) -> Response:
    run_id = TaskQuery.model_validate(call.body.params).id
    attach_point = await attaching.read(call.gateway.store, run_id, call.caller)
    if attach_point.outcome is not None:
        raise errors.RunNotActive(status=attach_point.status)
    return await call.stream(run_id)


async def _cancel(call: _Call) -> Response:
    run_id = TaskQuery.model_validate(call.body.params).id
    attach_point = await attaching.read(call.gateway.store, run_id, call.caller)
    if attach_point.outcome is not None:
        message = f"The task is {attach_point.status} already."
        return rpc_errors.response(call.body.id, -32002, message, "TASK_NOT_CANCELABLE")
    await call.gateway.runs.abort(
        run_id, wait=CANCEL_WAIT_S, user_id=call.caller.user_id, tenant=call.caller.tenant
    )
    return call.answer(await call.task(run_id))


async def _list(call: _Call) -> Response:
    query = ListQuery.model_validate(call.body.params)
    names = {name: status for status, name in translator.STATES.items()}
    about = {"nextPageToken": "", "pageSize": query.page_size, "totalSize": 0}
    if query.status is not None and query.status not in names:  # which no task here ever has
        return call.answer({"tasks": [], **about})
    page = await call.gateway.runs.list(
        thread_id=query.context_id,
        user_id=call.caller.user_id,
        tenant=call.caller.tenant,
        status=None if query.status is None else Status(names[query.status]),
        limit=query.page_size,
        cursor=query.page_token or None,
    )
    found = [run for run in page.runs if query.takes(_changed_ms(run))]
    found.sort(key=_changed_ms, reverse=True)
    tasks = [await _listed(call, run, query) for run in found]
    about |= {"nextPageToken": page.next or "", "totalSize": len(tasks)}
    return call.answer({"tasks": tasks, **about})


async def _listed(call: _Call, run: Run, query: ListQuery) -> dict[str, Any]:
    status = {"state": translator.STATES[run.status], "timestamp": rfc3339(_changed_ms(run))}
    if not query.include_artifacts:
        return {"id": run.run_id, "contextId": run.thread_id, "status": status}
    task = await call.task(run.run_id)
    return {**task, "status": {**task["status"], "timestamp": status["timestamp"]}}


def _changed_ms(run: Run) -> int:
    """Return when a run got the status that it has, as far as a list of runs says it."""
    changed = run.finished_at or run.started_at or run.created_at
    return round(changed.timestamp() * 1000)


_Push = Callable[[Any, Gateway, Principal], Awaitable[dict[str, Any]]]


def _pushing(method: _Push) -> Callable[[_Call], Awaitable[Response]]:
    """Return a method about push notifications, where the operator allows any."""

    async def carry_out(call: _Call) -> Response:
        if not push_receivers.allowed(call.gateway.settings):
            message = "The operator allows no push notifications (MAINSTEM_CALLBACK_HOSTS)."
            return rpc_errors.response(call.body.id, rpc_errors.PUSH_NOT_SUPPORTED, message, "NOT_ALLOWED")
        return call.answer(await method(call.body.params, call.gateway, call.caller))

    return carry_out


_METHODS: Final[Mapping[str, Callable[[_Call], Awaitable[Response]]]] = {
    "SendMessage": _send,
    "SendStreamingMessage": _send_streaming,
    "GetTask": _get,
    "ListTasks": _list,
    "CancelTask": _cancel,
    "SubscribeToTask": _subscribe,
    "CreateTaskPushNotificationConfig": _pushing(push.create),
    "GetTaskPushNotificationConfig": _pushing(push.get),
    "ListTaskPushNotificationConfigs": _pushing(push.list_all),
    "DeleteTaskPushNotificationConfig": _pushing(push.delete),
}
_NOT_SERVED: Final[Mapping[str, int]] = {"GetExtendedAgentCard": rpc_errors.UNSUPPORTED}
"""Methods of the protocol that an agent need not have: its card says so. They have errors of their own."""
