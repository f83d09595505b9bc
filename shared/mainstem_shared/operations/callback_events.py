"""Builds a callback's event from what was recorded at the end and from the run as it is now.

A run that was deleted since, or is too long for a message, is left out; what names it is always there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from pydantic import ValidationError

from mainstem_shared import errors, transitions
from mainstem_shared.eventlog.reading import run_states
from mainstem_shared.model import callbacks, jsontext, openai_responses
from mainstem_shared.model.actions import Action
from mainstem_shared.model.callbacks import PAYLOAD_LIMIT
from mainstem_shared.model.record import Record
from mainstem_shared.model.runs import Spec, rfc3339
from mainstem_shared.store.client import Store
from mainstem_shared.transitions.callbacks import Due

DELETED: Final = "deleted"
TOO_LARGE: Final = "too_large"
_A2A: Final = {
    "succeeded": "TASK_STATE_COMPLETED",
    "failed": "TASK_STATE_FAILED",
    "aborted": "TASK_STATE_CANCELED",
}
_LANGGRAPH: Final = {"failed": "error", "aborted": "interrupted"}
"""What LangGraph's platform calls our statuses, where that is not `success`."""


async def message(store: Store, due: Due) -> dict[str, Any]:
    """Return the payload for a target; the run is read anew for each attempt, so it may differ slightly.

    Raises:
        StoreUnavailable, ArchiveUnavailable: nobody can tell what the run is.
    """
    event: dict[str, Any] = jsontext.loads(due.event)
    run, omitted = await _run(store, due.delivery.run_id)
    return {
        "id": due.delivery.event_id,
        "type": event.get("type"),
        "timestamp": rfc3339(int(event.get("at", 0))),
        "data": {**_about(due), **_happened(event), "run": run, "run_omitted": omitted},
    }


async def openai_message(store: Store, due: Due) -> dict[str, Any]:
    """Return the payload in the shape of OpenAI's webhooks: an event, and the response's id.

    A pause ends a response, as the API that retrieves it says; see `openai_responses`.
    Source: https://platform.openai.com/docs/guides/webhooks, and `openai.types.webhooks`.

    Raises:
        StoreUnavailable, ArchiveUnavailable: nobody can tell what the run is.
    """
    event: dict[str, Any] = jsontext.loads(due.event)
    run_id, action = due.delivery.run_id, event.get("action")
    record = await transitions.find_fields(store, run_id, Record.decisions)
    decided = () if isinstance(record, transitions.Gone) else record.decisions or ()
    pauses = [pause.get("action_id") for pause in decided]
    if action is None:
        outcome = {**_happened(event), "finish_reason": await _finish_reason(store, run_id)}
        status, turn = openai_responses.status_of(outcome), len(pauses)
    else:  # it may have been decided since
        turn = pauses.index(action["action_id"]) if action["action_id"] in pauses else len(pauses)
        status = "completed"
    return {
        "id": f"evt_{due.delivery.event_id}",
        "object": "event",
        "created_at": int(event.get("at", 0)) // 1000,
        "type": f"response.{status}",
        "data": {"id": str(openai_responses.ResponseId(run_id, turn))},
    }


async def langgraph_message(store: Store, due: Due) -> dict[str, Any]:
    """Return what a target is told in the shape of LangGraph's platform: the run, and what it said.

    Source: https://docs.langchain.com/langsmith/use-webhooks.

    Raises:
        StoreUnavailable, ArchiveUnavailable: nobody can tell what the run is.
    """
    event: dict[str, Any] = jsontext.loads(due.event)
    about, happened = _about(due), _happened(event)
    run, _ = await _run(store, due.delivery.run_id)
    said = {"type": "ai", "id": due.delivery.run_id, "content": (run or {}).get("text", "")}
    at = rfc3339(int(event.get("at", 0)))
    return {
        "run_id": due.delivery.run_id,
        "thread_id": about.get("thread_id"),
        "assistant_id": about.get("engine"),
        "created_at": about.get("created_at"),
        "updated_at": at,
        "run_ended_at": at,
        "metadata": about.get("metadata", {}),
        "status": _LANGGRAPH.get(str(happened.get("status")), "success"),
        "error": happened.get("error"),
        "values": {"messages": [said]} if run else None,
    }


async def a2a_message(store: Store, due: Due) -> dict[str, Any]:
    """Return what a target is told in the shape of A2A's push notifications: the task's new status.

    Source: https://a2a-protocol.org/latest/specification/, "Push Notification Payload".
    """
    del store  # the receiver asks for the task
    event: dict[str, Any] = jsontext.loads(due.event)
    happened = _happened(event)
    state = "TASK_STATE_INPUT_REQUIRED" if "action" in happened else _A2A[str(happened["status"])]
    status: dict[str, Any] = {"state": state, "timestamp": rfc3339(int(event.get("at", 0)))}
    task_id, context_id = due.delivery.run_id, _about(due).get("thread_id", "")
    if error := happened.get("error"):
        about = {"messageId": f"{task_id}.end", "taskId": task_id, "contextId": context_id}
        status["message"] = {
            **about,
            "role": "ROLE_AGENT",
            "parts": [{"text": str(error.get("message", ""))}],
        }
    return {"statusUpdate": {"taskId": task_id, "contextId": context_id, "status": status}}


async def _finish_reason(store: Store, run_id: str) -> str | None:
    try:
        return (await run_states.get_run(store, run_id)).finish_reason
    except errors.NotFound:
        return None  # deleted since


def _about(due: Due) -> dict[str, Any]:
    """Return whose run it is, and what its start said of it."""
    about: dict[str, Any] = {"run_id": due.delivery.run_id}
    try:
        spec = Spec.model_validate_json(due.spec)
    except ValidationError:
        return about  # damaged: the id says which it is
    return {
        **about,
        "thread_id": spec.thread_id,
        "user_id": spec.user_id,
        "tenant": spec.tenant,
        "engine": spec.engine,
        "metadata": spec.metadata,
        "created_at": rfc3339(spec.created_ms),
    }


def _happened(event: dict[str, Any]) -> dict[str, Any]:
    if "action" in event:
        return {"action": Action.model_validate(event["action"]).public()}
    return {"status": event.get("status"), "reason": event.get("reason"), "error": event.get("error")}


async def _run(store: Store, run_id: str) -> tuple[dict[str, Any] | None, str | None]:
    try:
        run = await run_states.get_run(store, run_id)
    except errors.NotFound:
        return None, DELETED
    text = run.model_dump_json()
    if len(text) > PAYLOAD_LIMIT:
        return None, TOO_LARGE
    return jsontext.loads(text), None


SHAPES: Final[Mapping[str, Callable[[Store, Due], Awaitable[dict[str, Any]]]]] = {
    "": message,
    callbacks.OPENAI: openai_message,
    callbacks.LANGGRAPH: langgraph_message,
    callbacks.A2A: a2a_message,
}
"""By what a webhook's address begins with: what it is told."""
