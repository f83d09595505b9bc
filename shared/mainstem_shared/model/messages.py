"""Defines a message of a thread, and derives those that one run adds to its thread. Pure.

A run adds what its user said (its input, in the shape of messages) and what its engine produced: one message
whose id is the run's, in which inputs and decisions stand where they were made. Nothing is stored twice: a
message is as durable as its run. Which messages follow each other is in `branches`.
"""

# what clients and providers send is checked by models or by hand, not by types.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from mainstem_shared.model import blob_references, runs, schemas
from mainstem_shared.model.blob_references import Blob
from mainstem_shared.model.runs import ErrorInfo, ForkedFrom, Reason, Run, Spec, Status, Timestamp
from mainstem_shared.model.usage import Usage

Role = Literal["system", "user", "assistant"]
Part = dict[str, Any]
TEXT_NAMES: Final = ("message", "text", "prompt", "question", "query")
"""Members of an input that hold what the user said, for engines that take no list of messages."""
_DATA_URL: Final = re.compile(r"data:([^;,]*)[^,]*,")


def _is_none(value: object) -> bool:
    return value is None


class Source(BaseModel):
    """Where a message was copied from; the thread, and the message, may be gone by now."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    thread_id: str
    message_id: str


class Message(BaseModel):
    """One message of a thread.

    `parent` is the message before it, None for the first. `siblings` are the ids of all messages that stand
    in its place on different branches, itself among them, oldest first. What a run produced has the run's
    `status` and what follows it here.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True, json_schema_serialization_defaults_required=True
    )

    id: str
    role: Role
    parts: Annotated[list[Part], WithJsonSchema(schemas.MESSAGE_PARTS)] = Field(default_factory=list)
    run_id: str
    parent: str | None = None
    created_at: Timestamp
    siblings: list[str] = Field(default_factory=list)
    status: Status | None = None
    reason: Reason | None = None
    usage: Usage | None = None
    error: ErrorInfo | None = None
    action: dict[str, Any] | None = None
    title: str | None = None
    engine: str | None = Field(default=None, exclude_if=_is_none)
    finished_at: Timestamp | None = Field(default=None, exclude_if=_is_none)
    output: Any = Field(default=None, exclude_if=_is_none)
    finish_reason: str | None = Field(default=None, exclude_if=_is_none)
    metadata: dict[str, Any] = Field(default_factory=dict)
    forked_from: Source | None = Field(
        default=None,
        exclude_if=_is_none,
        description="The message that it copies, if its thread was forked after it.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A message as an input has it: nothing about a run or a thread."""

    role: Role
    parts: list[Part]
    id: str = ""


# -- what the user said


def turns(run_input: Mapping[str, Any]) -> list[Turn]:
    """Return an engine's input as messages: a list of chat messages, a text, or the whole as data."""
    given = run_input.get("messages")
    if isinstance(given, list):
        return _grouped([m for m in given if isinstance(m, dict)])
    for name in TEXT_NAMES:
        if isinstance(text := run_input.get(name), str) and text:
            return [Turn(role="user", parts=[{"type": "text", "text": text}])]
    if not run_input:
        return []
    return [
        Turn(role="user", parts=[{"type": "data", "id": "input", "name": "input", "value": dict(run_input)}])
    ]


def said(run_input: Mapping[str, Any], *, is_first: bool) -> list[Turn]:
    """Return the messages that a run adds before its own: all of a first run, or those after the last answer.

    Clients without a history on the server send all of theirs with each run; what they send again is not said
    again. Instructions to the model (`system`) are no part of a conversation.
    """
    spoken = [turn for turn in turns(run_input) if turn.role != "system"]
    if is_first:
        return spoken
    since = len(spoken)
    while since and spoken[since - 1].role == "user":
        since -= 1
    return spoken[since:]


def _grouped(chat: Sequence[Mapping[str, Any]]) -> list[Turn]:
    """Return chat completions' messages as turns: an answer with its calls and their results is one."""
    result: list[Turn] = []
    calls: dict[str, Part] = {}
    for message in chat:
        role = message.get("role")
        if role == "tool":
            if part := calls.get(str(message.get("tool_call_id"))):
                part.update(result=message.get("content"), state="completed")
            continue
        parts = parts_of(message.get("content"))
        for call in message.get("tool_calls") or ():
            part = _call(call)
            calls[part["call_id"]] = part
            parts.append(part)
        kind: Role = "assistant" if role == "assistant" else "user" if role == "user" else "system"
        given = message.get("id")
        if kind == "assistant" and result and result[-1].role == "assistant":
            result[-1].parts.extend(parts)
        else:
            result.append(Turn(id=given if isinstance(given, str) else "", role=kind, parts=parts))
    return result


def _call(call: Any) -> Part:
    function = call.get("function") if isinstance(call, dict) else None
    function = function if isinstance(function, dict) else {}
    return {
        "type": "tool_call",
        "call_id": str(call.get("id")) if isinstance(call, dict) else "",
        "name": str(function.get("name", "")),
        "arguments": function.get("arguments", ""),
        "result": None,
        "state": "called",
    }


def parts_of(content: Any) -> list[Part]:
    """Return a chat message's content as parts; files are named by their address, or by their digest."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    if not isinstance(content, list):
        return []
    return [_part(piece) for piece in content if isinstance(piece, dict)]


def _part(piece: Mapping[str, Any]) -> Part:
    match piece.get("type"):
        case "text" | "input_text" | "output_text":
            return {"type": "text", "text": str(piece.get("text", ""))}
        case "image_url":
            url = piece["image_url"].get("url") if isinstance(piece.get("image_url"), dict) else ""
            return file_part(str(url), media_type="image/*")
        case "file" if isinstance(piece.get("file"), dict):
            file = piece["file"]
            url = str(file.get("file_data") or file.get("file_id") or "")
            return file_part(url, name=file.get("filename"))
        case "refusal":
            return {"type": "refusal", "text": str(piece.get("refusal", ""))}
        case other:
            return {"type": "data", "id": str(other), "name": str(other), "value": dict(piece)}


def file_part(url: str, *, media_type: str = "application/octet-stream", name: Any = None) -> Part:
    """Return the part for a file at this address; the address may hold the file itself (`data:`)."""
    if (blob := blob_references.parse(url)) is not None:
        part = blob_part(blob)
    else:
        found = _DATA_URL.match(url)
        part = {"type": "file", "media_type": (found and found[1]) or media_type, "url": url}
    return {**part, "name": name} if isinstance(name, str) and name else part


def blob_part(blob: Blob) -> Part:
    """Return the part for a file that lies beside its run; `url` is a path of the gateway."""
    about = {"media_type": blob.media_type, "url": blob.path, "digest": blob.digest, "size": blob.size}
    return {"type": "file", **about}


# -- what the run produced


def run_parts(run: Run, decisions: Sequence[Mapping[str, Any]]) -> list[Part]:
    """Return a run's content with what users said and decided meanwhile, where they did."""
    placed: dict[int, list[Part]] = {}
    for entry in run.inputs:
        at = len(run.content) if entry["part"] is None else entry["part"]
        placed.setdefault(at, []).append({"type": "input", **{k: v for k, v in entry.items() if k != "part"}})
    for decided in decisions:
        at = (decided.get("mark") or {}).get("parts", len(run.content))
        placed.setdefault(at, []).append(_decision(decided))
    result: list[Part] = []
    for number, part in enumerate(run.content):
        result += [*placed.pop(number, ()), part]
    return [*result, *(part for at in sorted(placed) for part in placed[at])]


def _decision(decided: Mapping[str, Any]) -> Part:
    kept = {name: decided[name] for name in ("action_id", "kind", "asked", "decisions") if name in decided}
    return {"type": "decision", **kept}


def input_ids(spec: Spec, count: int) -> list[str]:
    """Return the ids of the messages that a run's input adds; its client may have named the last one."""
    return _input_ids(spec.run_id, spec.message_id, count)


def _input_ids(run_id: str, last: str | None, count: int) -> list[str]:
    named = [last or f"{run_id}.in"] if count else []
    return [*(f"{run_id}.in.{number}" for number in range(count - 1)), *named]


def last_input_id(spec: Spec) -> str:
    """Return the id of the message that a run answers, if it brought one."""
    return spec.message_id or f"{spec.run_id}.in"


def of_inputs(spec: Spec, spoken: Sequence[Turn], *, parent: str | None) -> list[Message]:
    """Return the messages of a run's input, the first of which follows `parent`."""
    made: list[Message] = []
    copied = spec.forked_from
    original_ids = _input_ids(copied.asked_by if copied else "", spec.message_id, len(spoken))
    for turn, message_id, original_id in zip(spoken, input_ids(spec, len(spoken)), original_ids, strict=True):
        message = Message(
            id=message_id,
            role=turn.role,
            parts=turn.parts,
            run_id=spec.run_id,
            parent=made[-1].id if made else parent,
            created_at=runs.at_ms(copied.created_ms if copied else spec.created_ms),
            siblings=[message_id],
            forked_from=Source(thread_id=copied.thread_id, message_id=original_id) if copied else None,
        )
        made.append(message)
    return made


def of_run(
    run: Run, decisions: Sequence[Mapping[str, Any]], *, parent: str | None, copied: ForkedFrom | None = None
) -> Message:
    """Return the message that a run produced, or produces at this moment; `copied`: of a copy, its source."""
    begun_at = runs.at_ms(copied.answered_ms) if copied else run.started_at or run.created_at
    return Message(
        id=run.run_id,
        role="assistant",
        parts=run_parts(run, decisions),
        run_id=run.run_id,
        parent=parent,
        created_at=begun_at,
        siblings=[run.run_id],
        status=run.status,
        reason=run.reason,
        usage=run.usage,
        error=run.error,
        action=run.action,
        title=run.title,
        engine=run.engine,
        finished_at=run.finished_at,
        output=run.output,
        finish_reason=run.finish_reason,
        metadata=run.metadata,
        forked_from=Source(thread_id=copied.thread_id, message_id=copied.run_id) if copied else None,
    )
