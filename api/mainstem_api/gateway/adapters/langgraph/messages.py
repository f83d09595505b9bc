"""Converts LangChain's messages to chat messages and back, and threads to a graph's state. Pure."""

# what clients send is checked by models or by hand, not by types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from mainstem_api.gateway.adapters.engine_input import json_text
from mainstem_shared import errors
from mainstem_shared.model.messages import Message

_ROLES: Final[Mapping[str, str]] = {
    "human": "user",
    "ai": "assistant",
    **{role: role for role in ("user", "assistant", "system", "tool")},
}


def chat(at: int, message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message as chat completions have it.

    Raises:
        InvalidRequest: it is none that an engine can be told.
    """
    role = _ROLES.get(str(message.get("role") or message.get("type")))
    if role is None or not isinstance(message.get("content"), str | list):
        raise errors.InvalidRequest(f"input.messages[{at}]: a message has a type (human, ai, …) and content.")
    found: dict[str, Any] = {"role": role, "content": message["content"]}
    if role == "tool":
        found["tool_call_id"] = str(message.get("tool_call_id"))
    if calls := message.get("tool_calls"):
        found["tool_calls"] = [_chat_call(call) for call in calls]
    return found


def _chat_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = {"name": str(call.get("name")), "arguments": json_text(call.get("args") or {})}
    return {"id": str(call.get("id")), "type": "function", "function": function}


def of_thread(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return a thread's messages as LangChain's."""
    return [found for message in messages for found in _of_message(message)]


def _of_message(message: Message) -> Iterator[dict[str, Any]]:
    if message.role == "assistant":
        yield from of_content(message.run_id, message.parts, finish_reason=message.finish_reason)
        return
    kind = "human" if message.role == "user" else message.role
    yield {"type": kind, "id": message.id, "content": _content(message.parts)}


def text_of(parts: Sequence[Mapping[str, Any]]) -> str:
    """Return all texts among the parts of a content."""
    return "".join(part["text"] for part in parts if part["type"] == "text")


def _content(parts: Sequence[Mapping[str, Any]]) -> str | list[dict[str, Any]]:
    """Return texts as one; with files, citations or sources among them LangChain's standard blocks."""
    blocks = [block for part in parts if (block := _block(part)) is not None]
    if all(block.keys() <= {"type", "text"} for block in blocks):
        return text_of(parts)
    return blocks


def _block(part: Mapping[str, Any]) -> dict[str, Any] | None:
    match part["type"]:
        case "text" if part.get("annotations"):
            return {"type": "text", "text": part["text"], "annotations": [*map(_cited, part["annotations"])]}
        case "text":
            return {"type": "text", "text": part["text"]}
        case "source" if "url" in part:
            return {"type": "text", "text": "", "annotations": [_cited(part)]}
        case "file":
            kind = str(part["media_type"]).partition("/")[0]
            named = {"extras": {"filename": part["name"]}} if "name" in part else {}
            block = kind if kind in ("image", "audio", "video") else "file"
            return {"type": block, "url": part.get("url", ""), "mime_type": part["media_type"], **named}
        case _:
            return None


def _cited(noted: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(noted.get("url"), str):
        return {"type": "non_standard_annotation", "value": dict(noted)}
    kept = ("url", "title", "start_index", "end_index")
    return {"type": "citation", **{name: noted[name] for name in kept if name in noted}}


def of_content(
    run_id: str, parts: Sequence[Mapping[str, Any]], *, finish_reason: str | None = None
) -> Iterator[dict[str, Any]]:
    """Yield a run's content as messages: what the model said with its calls, then their results."""
    calls = [part for part in parts if part["type"] == "tool_call"]
    told = [
        {"name": call["name"], "args": call["arguments"], "id": call["call_id"], "type": "tool_call"}
        for call in calls
        if not isinstance(call["arguments"], str)
    ]
    refused = "".join(part["text"] for part in parts if part["type"] == "refusal")
    about: dict[str, Any] = {"additional_kwargs": {"refusal": refused}} if refused else {}
    if finish_reason:
        about["response_metadata"] = {"finish_reason": finish_reason}
    yield {"type": "ai", "id": run_id, "content": _content(parts), "tool_calls": told, **about}
    for call in calls:
        if call["state"] not in ("streaming", "called"):
            answers = {"tool_call_id": call["call_id"], "name": call["name"]}
            message_id = f"{run_id}.{call['call_id']}"
            yield {"type": "tool", "id": message_id, "content": json_text(call["result"]), **answers}


def interrupts(action: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return what a paused run waits for as a graph's interrupts."""
    if action is None:
        return []
    value = {name: action[name] for name in ("kind", "calls", "questions", "expires_at") if name in action}
    return [{"id": action["action_id"], "value": value}]


def decisions(action: Mapping[str, Any], resume: Any) -> dict[str, Any]:
    """Return what `command.resume` decides: `true`, `approve` or an object with decisions; a text answers."""
    if isinstance(resume, dict) and ("decisions" in resume or "answers" in resume):
        return {"decisions": resume.get("decisions"), "answers": resume.get("answers")}
    text = resume if isinstance(resume, str) else json_text(resume)
    answers = [{"question_id": asked["question_id"], "text": text} for asked in action.get("questions", ())]
    approves = resume in (True, "approve") or (isinstance(resume, dict) and resume.get("approved") is True)
    verdict = {"type": "approve"} if approves else {"type": "reject"}
    judged = [{"call_id": call["call_id"], **verdict} for call in action.get("calls", ())]
    return {"decisions": judged or None, "answers": answers or None}
