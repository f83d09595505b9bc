"""Builds an engine's input from other protocols' requests, and reads their `mainstem` options.

An engine that takes `messages` gets the conversation in the format of chat completions, with those of the
request's parameters that its schema knows; one that takes `text` gets what the user said last.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from mainstem_shared import errors
from mainstem_shared.model import jsontext, runs


class Options(BaseModel):
    """Mainstem's own part of a request: all of it optional."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    engine: runs.EngineName | None = None
    input: dict[str, Any] = Field(default_factory=dict)
    """Members of the engine's input, before those made of the request; an engine of texts gets only these."""
    if_active: runs.IfActive = "reject"
    """Frontends' protocols have `replace` in its place: stopping there only cuts the connection."""
    on_worker_lost: runs.OnWorkerLost = "fail"
    max_duration_s: Annotated[float, Field(gt=0, le=7 * 86_400)] | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    budget: runs.Budget | None = None
    priority: runs.Priority | None = None

    @property
    def spendable(self) -> dict[str, Any] | None:
        """The budget, as a start takes it."""
        return None if self.budget is None else self.budget.model_dump(exclude_none=True)


class Given(NamedTuple):
    """A parameter's value, and its name in the client's protocol."""

    name: str
    value: Any


def knows(schema: Mapping[str, Any] | None, name: str) -> bool:
    """Tell whether an engine's input has a member of this name; one whose schema names none takes any."""
    known = (schema or {}).get("properties", {})
    return not known or name in known


def fitting(
    schema: Mapping[str, Any] | None, given: Mapping[str, Given], hints: Mapping[str, Any]
) -> dict[str, Any]:
    """Return parameters as members of an engine's input; `hints` go along where there is room for them.

    An engine whose schema names no members takes any.

    Raises:
        InvalidRequest: the engine's schema knows nothing of a parameter: `path` is its name to the client.
    """
    for ours, (name, _) in given.items():
        if not knows(schema, ours):
            raise errors.InvalidRequest(f"{name}: the engine's input has no {ours!r}.", path=name)
    found = {ours: value for ours, (_, value) in given.items()}
    if hints and "extra_body" in (schema or {}).get("properties", {}):
        found["extra_body"] = dict(hints)
    return found


def engine_input(
    schema: Mapping[str, Any] | None,
    conversation: Sequence[Mapping[str, Any]],
    parameters: Mapping[str, Any],
    options: Options,
) -> dict[str, Any]:
    """Return the input for an engine with this schema; see the module."""
    known = (schema or {}).get("properties", {})
    fitting = {name: value for name, value in parameters.items() if name in known or not known}
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
    """Return a run's content in the format of chat completions: texts, calls, and the results there are.

    Calls without a result stand last in their message, so that results which a client adds follow it: models
    refuse a call whose result does not follow its message.
    """
    messages: list[dict[str, Any]] = []
    for is_call, group in itertools.groupby(content, key=lambda part: part["type"] == "tool_call"):
        parts = list(group)
        if is_call:
            _add_calls(messages, parts)
            continue
        texts = [part["text"] for part in parts if part["type"] in ("text", "refusal") and part["text"]]
        messages += [{"role": "assistant", "content": text} for text in texts]
    return messages


def _add_calls(messages: list[dict[str, Any]], calls: Sequence[Mapping[str, Any]]) -> None:
    """Add calls that follow each other: one batch if some of them are open, else one after the other."""
    is_batch = not all(_answered(call) for call in calls)
    for batch in [calls] if is_batch else [[call] for call in calls]:
        last = messages[-1] if messages else None
        if last is None or last["role"] != "assistant":
            last = dict[str, Any](role="assistant", content=None)
            messages.append(last)
        last["tool_calls"] = [_call(call) for call in batch]
        messages += [
            {"role": "tool", "tool_call_id": call["call_id"], "content": json_text(call["result"])}
            for call in batch
            if _answered(call)
        ]


def _answered(part: Mapping[str, Any]) -> bool:
    return part["state"] not in ("streaming", "called")


def _call(part: Mapping[str, Any]) -> dict[str, Any]:
    function = {"name": part["name"], "arguments": json_text(part["arguments"])}
    return {"id": part["call_id"], "type": "function", "function": function}


def json_text(value: Any) -> str:
    """Return arguments or a result as text: JSON, unless it is text already."""
    return value if isinstance(value, str) else jsontext.dumps(value).decode("utf-8", "surrogatepass")
