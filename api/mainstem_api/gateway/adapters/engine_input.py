"""Builds an engine's input from other protocols' requests, and reads their `mainstem` options.

An engine that takes `messages` gets the conversation in the format of chat completions, with those of the
request's parameters that its schema knows; one that takes `text` gets what the user said last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from mainstem_shared.model import jsontext, runs


class Options(BaseModel):
    """Mainstem's own part of a request: all of it optional."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    engine: runs.EngineName | None = None
    input: dict[str, Any] = Field(default_factory=dict)
    """Members of the engine's input, before those made of the request; an engine of texts gets only these."""
    if_active: runs.IfActive = "reject"
    on_worker_lost: runs.OnWorkerLost = "fail"
    max_duration_s: Annotated[float, Field(gt=0, le=7 * 86_400)] | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)


def engine_input(
    schema: Mapping[str, Any] | None,
    conversation: Sequence[Mapping[str, Any]],
    parameters: Mapping[str, Any],
    options: Options,
) -> dict[str, Any]:
    """Return the input for an engine with this schema; see the module."""
    known = (schema or {}).get("properties", {})
    fitting = {name: value for name, value in parameters.items() if name in known}
    if "messages" in known or "text" not in known:
        return {"messages": list(conversation), **fitting, **options.input}
    said = "" if options.input else last_text(conversation)
    return {**({"text": said} if said else {}), **fitting, **options.input}


def last_text(conversation: Sequence[Mapping[str, Any]]) -> str:
    """Return what the user said last."""
    for message in reversed(conversation):
        if message["role"] == "user":
            content = message["content"]
            if isinstance(content, str):
                return content
            return "".join(part["text"] for part in content if part["type"] == "text")
    return ""


def transcript(content: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a run's content in the format of chat completions: texts, calls, and the results there are."""
    messages: list[dict[str, Any]] = []
    for part in content:
        last: dict[str, Any] | None = messages[-1] if messages else None
        if part["type"] == "text" and part["text"]:
            messages.append({"role": "assistant", "content": part["text"]})
        elif part["type"] == "tool_call":
            if last is None or last["role"] != "assistant" or (last.get("tool_calls") and _answered(part)):
                last = {"role": "assistant", "content": None}
                messages.append(last)
            last.setdefault("tool_calls", []).append(_call(part))
            if _answered(part):
                result = {
                    "role": "tool",
                    "tool_call_id": part["call_id"],
                    "content": json_text(part["result"]),
                }
                messages.append(result)
    return messages


def _answered(part: Mapping[str, Any]) -> bool:
    return part["state"] not in ("streaming", "called")


def _call(part: Mapping[str, Any]) -> dict[str, Any]:
    function = {"name": part["name"], "arguments": json_text(part["arguments"])}
    return {"id": part["call_id"], "type": "function", "function": function}


def json_text(value: Any) -> str:
    """Return arguments or a result as text: JSON, unless it is text already."""
    return value if isinstance(value, str) else jsontext.dumps(value).decode("utf-8", "surrogatepass")
