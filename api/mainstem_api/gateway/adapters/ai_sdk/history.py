"""Converts a thread's messages to UI messages, for `useChat` on a page that is opened again. Pure.

An answer has the parts that its stream would have made, under the same ids; only steps are missing. One that
is being given is left out: the stream that the client resumes has all of it.
"""

# parts are JSON: checked by folds, not by types.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from mainstem_api.gateway.adapters.ai_sdk import parts
from mainstem_api.gateway.adapters.ai_sdk.stream import ASK_USER, ASKED, error_text, usage_of
from mainstem_api.gateway.adapters.translator import agent_of
from mainstem_shared.model.messages import Message
from mainstem_shared.model.runs import Status

_GROWING: Final = frozenset({Status.QUEUED, Status.RUNNING})


def ui_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return UI messages, oldest first."""
    return [_ui_message(message) for message in messages if message.status not in _GROWING]


def _ui_message(message: Message) -> dict[str, Any]:
    if message.role != "assistant" or message.id != message.run_id:
        said = [part for each in message.parts if (part := _said(each)) is not None]
        return {"id": message.id, "role": message.role, "parts": said}
    metadata: dict[str, Any] = {"runId": message.run_id}
    if message.title is not None:
        metadata["title"] = message.title
    if message.usage is not None:
        metadata["usage"] = usage_of(message.usage.model_dump())
    answered = [{"type": "step-start"}, *_Answer(message).parts()]
    return {"id": message.id, "role": "assistant", "parts": answered, "metadata": metadata}


def _said(part: Mapping[str, Any]) -> dict[str, Any] | None:
    match part["type"]:
        case "text":
            return {"type": "text", "text": part["text"]}
        case "file":
            said = {"type": "file", "mediaType": part["media_type"], "url": part["url"]}
            return {**said, "filename": part["name"]} if "name" in part else said
        case "data":
            return {"type": f"data-{part['name']}", "id": part["id"], "data": part["value"]}
        case _:
            return None


class _Answer:
    """One answer, part by part."""

    def __init__(self, message: Message) -> None:
        self._message = message
        self._annotations = 0
        self._decided: dict[str, tuple[str, Mapping[str, Any]]] = {}
        """By call: the action and the decision about it."""
        for part in message.parts:
            if part["type"] == "decision":
                for decision in part.get("decisions", ()):
                    self._decided[decision["id"]] = (part["action_id"], decision)

    def parts(self) -> Iterator[dict[str, Any]]:
        for part in self._message.parts:
            match part["type"]:
                case "text" | "reasoning" | "refusal":
                    yield from self._text(part)
                case "tool_call":
                    yield self._call(part)
                case "data":
                    yield {"type": f"data-{part['name']}", "id": part["id"], "data": part["value"]}
                case "source" | "file":
                    yield parts.ui_part(part)
                case "input" if part["state"] == "read":
                    said = [{"type": "text", "text": part["text"]}]
                    yield {"type": "steering-message", "id": part["input_id"], "parts": said}
                case "decision":
                    yield from self._answers(part)
                case _:
                    pass
        yield from self._questions()
        if self._message.output is not None:
            yield {"type": "data-output", "id": "output", "data": self._message.output}

    def _text(self, part: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        kind = "reasoning" if part["type"] == "reasoning" else "text"
        said = {"type": kind, "text": part["text"], "state": "done"}
        if part["type"] == "refusal":
            said["providerMetadata"] = {"mainstem": {"refusal": True}}
        yield said
        for annotation in part.get("annotations") or ():
            self._annotations += 1
            if source := parts.ui_source(annotation, number=self._annotations):
                yield source

    def _call(self, call: Mapping[str, Any]) -> dict[str, Any]:
        call_id, result = call["call_id"], call["result"]
        about = {"type": f"tool-{call['name']}", "toolCallId": call_id, "input": call["arguments"]}
        if agent := agent_of(call):
            about["callProviderMetadata"] = {"mainstem": agent}
        action_id, decision = self._decided.get(call_id, ("", None))
        if decision is not None:
            about["approval"] = _approval(f"{action_id}:{call_id}", decision)
        if call["state"] == "completed":
            return {**about, "providerExecuted": True, "state": "output-available", "output": result}
        if call["state"] in ("failed", "aborted"):
            if decision is not None and decision["type"] == "reject":
                return {**about, "providerExecuted": True, "state": "output-denied"}
            return {
                **about,
                "providerExecuted": True,
                "state": "output-error",
                "errorText": error_text(result),
            }
        pending = self._pending(call_id)
        if pending is not None:
            return {**about, "providerExecuted": True, "state": "approval-requested", "approval": pending}
        # of a run that is over: the client's to answer
        return {**about, "providerExecuted": not self._is_over, "state": "input-available"}

    @property
    def _is_over(self) -> bool:
        return self._message.status is not None and self._message.status.is_terminal

    def _pending(self, call_id: str) -> dict[str, Any] | None:
        action = self._message.action or {}
        if not any(call["call_id"] == call_id for call in action.get("calls", ())):
            return None
        return {"id": f"{action['action_id']}:{call_id}"}

    def _questions(self) -> Iterator[dict[str, Any]]:
        """Yield what is asked at this moment."""
        action = self._message.action or {}
        for question in action.get("questions", ()):
            yield {**_question(action["action_id"], question), "state": "input-available"}

    def _answers(self, part: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        questions = (part.get("asked") or {}).get("questions", ())
        given = {decision["id"]: decision for decision in part.get("decisions", ())}
        for question in questions:
            decision = given.get(question["question_id"], {})
            asked = {**_question(part["action_id"], question), "providerExecuted": True}
            if decision.get("type") == "answer":
                yield {**asked, "state": "output-available", "output": decision["text"]}
            else:
                reason = decision.get("reason") or "Nobody answered."
                yield {**asked, "state": "output-error", "errorText": reason}


def _question(action_id: str, question: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": f"tool-{ASK_USER}",
        "toolCallId": f"{action_id}:{question['question_id']}",
        "input": {name: question[name] for name in ASKED if name in question},
    }


def _approval(approval_id: str, decision: Mapping[str, Any]) -> dict[str, Any]:
    said = {"id": approval_id, "approved": decision["type"] != "reject"}
    reason = decision.get("reason")
    return said if reason is None else {**said, "reason": reason}
