"""Converts a run's content to AG-UI messages, and a client's messages to an engine's conversation. Pure.

Every id follows from the run and the number of a part, so that events, snapshots and other gateways name the
same message. What is neither text nor a call (data, files, sources, citations, the output) is an activity
message, the protocol's word for what a frontend shows in its own way. Tool calls are named after their run
too: engines may call every run's first one `call_1`, but a client's conversation holds many runs.
"""

# what clients and providers send is checked by models or by hand, not by types.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from mainstem_api.gateway.adapters.engine_input import json_text
from mainstem_shared import errors
from mainstem_shared.model import ids
from mainstem_shared.model.contents import KEYED, Content, TextPart

OURS: Final = "mainstem"
"""Member of metadata, and prefix of names, that the protocol has no word for."""


class Names:
    """The ids of one run's messages and calls."""

    def __init__(self, run_id: str) -> None:
        self._unique = ids.split(run_id)[1]

    def text(self, part: int) -> str:
        """Of a text part's message, and of the message that carries calls which follow no text."""
        return f"msg_{self._unique}_{part}"

    def reasoning(self, part: int) -> str:
        return f"rsn_{self._unique}_{part}"

    def activity(self, part: int | str, noted: int | None = None) -> str:
        """Of the activity message for a part that comes whole, or for what is noted about a text."""
        return f"act_{self._unique}_{part}" + ("" if noted is None else f".{noted}")

    def call(self, call_id: str) -> str:
        return f"{call_id}.{self._unique[-8:]}"

    def result(self, call_id: str) -> str:
        return f"res_{self._unique}_{call_id}"

    def parent(self, parts: Sequence[TextPart | Mapping[str, Any]], number: int) -> str:
        """Return the message that carries the call which is part `number`: the text before it, if any."""
        while number and not isinstance(parts[number - 1], TextPart):
            number -= 1
        before = parts[number - 1] if number else None
        if isinstance(before, TextPart) and before.kind != "reasoning":
            number -= 1
        return self.text(number)


def of_fold(fold: Content, names: Names) -> list[dict[str, Any]]:
    """Return a run's content as messages, the last one perhaps still growing."""
    found: dict[str, dict[str, Any]] = {}
    results: dict[str, list[dict[str, Any]]] = {}
    for number, part in enumerate(fold.parts):
        if isinstance(part, TextPart):
            message_id = names.reasoning(number) if part.kind == "reasoning" else names.text(number)
            role = "reasoning" if part.kind == "reasoning" else "assistant"
            found[message_id] = {"id": message_id, "role": role, "content": part.text, **mark(part.kind)}
            for noted, annotation in enumerate(part.annotations or ()):
                _add(found, activity(names.activity(number, noted), "annotation", annotation))
        elif part["type"] in KEYED:
            _add(found, activity(names.activity(number), part["type"], shown(part)))
        elif part["type"] == "tool_call":
            parent = names.parent(fold.parts, number)
            message = found.setdefault(parent, {"id": parent, "role": "assistant"})
            message.setdefault("toolCalls", []).append(_call(part, names))
            if part["state"] not in ("streaming", "called"):
                results.setdefault(parent, []).append(result(part, names))
    if "output" in fold.extra:
        _add(found, activity(names.activity("output"), "output", {"value": fold.extra["output"]}))
    return [each for parent, message in found.items() for each in (message, *results.get(parent, ()))]


def _add(found: dict[str, dict[str, Any]], message: dict[str, Any]) -> None:
    found[message["id"]] = message


def mark(kind: str) -> dict[str, Any]:
    """Return what a message says besides if its text is a refusal: the protocol has no such part."""
    return {"metadata": {OURS: {"refusal": True}}} if kind == "refusal" else {}


def shown(part: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a part that comes whole says."""
    return {name: part[name] for name in part if name != "type"}


def activity(message_id: str, kind: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the activity message that shows something of this kind."""
    about = {"id": message_id, "role": "activity", "activityType": f"{OURS}.{kind}"}
    return {**about, "content": dict(content)}


def _call(part: Mapping[str, Any], names: Names) -> dict[str, Any]:
    function = {"name": part["name"], "arguments": json_text(part["arguments"])}
    return {"id": names.call(part["call_id"]), "type": "function", "function": function}


def result(part: Mapping[str, Any], names: Names) -> dict[str, Any]:
    """Return the message with a tool call's result."""
    call_id = part["call_id"]
    told = {"id": names.result(call_id), "role": "tool", "toolCallId": names.call(call_id)}
    content = json_text(part["result"])
    return {**told, "content": content, **({} if part["state"] == "completed" else {"error": content})}


# -- what clients send


def conversation(
    messages: Sequence[Mapping[str, Any]], context: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return a client's messages in the format of chat completions; what it gives as context stands first.

    Raises:
        InvalidRequest: a message is not one that can be told to an engine; says which.
    """
    said = [chat for at, message in enumerate(messages) for chat in _chat(at, message)]
    if context:
        known = "\n".join(f"{item.get('description')}: {item.get('value')}" for item in context)
        said.insert(0, {"role": "system", "content": f"Context:\n{known}"})
    return said


def _chat(at: int, message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    role = message.get("role")
    match role:
        case "user":
            yield {"role": "user", "content": _content(at, message.get("content"))}
        case "system" | "developer":
            yield {"role": "system", "content": _text(at, message.get("content"))}
        case "assistant":
            content, calls = message.get("content"), message.get("toolCalls")
            if content or calls:
                said = {"role": "assistant", "content": None if content is None else _text(at, content)}
                yield {**said, "tool_calls": list(calls)} if calls else said
        case "tool":
            content = _text(at, message.get("content"))
            yield {"role": "tool", "tool_call_id": str(message.get("toolCallId")), "content": content}
        case "reasoning" | "activity":
            return  # shown to people; no engine takes them back
        case _:
            raise errors.InvalidRequest(f"messages.{at}: the role {str(role)[:40]!r} is not known.")


def _text(at: int, content: Any) -> str:
    told = _content(at, content)
    if isinstance(told, str):
        return told
    return "".join(part["text"] for part in told if part["type"] == "text")


def _content(at: int, content: Any) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise errors.InvalidRequest(f"messages.{at}: the content is text, or a list of parts.")
    parts = [_part(at, part) for part in content]  # pyright: ignore[reportUnknownVariableType] - JSON
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return parts


def _part(at: int, part: Any) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None  # pyright: ignore[reportUnknownVariableType]
    if kind == "text":
        return {"type": "text", "text": str(part.get("text", ""))}
    source = part.get("source") if isinstance(part, dict) else None  # pyright: ignore[reportUnknownVariableType]
    if kind in ("image", "document", "audio", "video") and isinstance(source, dict):
        url = _url(source)  # pyright: ignore[reportUnknownArgumentType]
        if kind == "image":
            return {"type": "image_url", "image_url": {"url": url}}
        return {"type": "file", "file": {"filename": str(part.get("filename") or kind), "file_data": url}}  # pyright: ignore[reportUnknownMemberType]
    message = f"messages.{at}: parts of type {str(kind)[:40]!r} are not supported."  # pyright: ignore[reportUnknownArgumentType]
    raise errors.InvalidRequest(message)


def _url(source: Mapping[str, Any]) -> str:
    """Return where a file is; one that is sent along is a `data:` address."""
    value = str(source.get("value"))
    return f"data:{source.get('mimeType')};base64,{value}" if source.get("type") == "data" else value
