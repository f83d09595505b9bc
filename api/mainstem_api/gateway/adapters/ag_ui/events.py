"""Translates a run into AG-UI events for one request: from RUN_STARTED to an outcome. Pure.

Rules of the stock client's verifier that shape this: nothing is opened twice, everything is closed before
RUN_FINISHED, nothing follows RUN_ERROR, optional members are left out and never null.

A client that attaches gets MESSAGES_SNAPSHOT with all there is, the growing message included, and from then
on only what is missing, in the same messages.
"""

# what clients and providers send is checked by models or by hand, not by types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from mainstem_api.gateway.adapters.ag_ui import messages
from mainstem_api.gateway.adapters.ag_ui.messages import OURS, Names
from mainstem_api.gateway.adapters.attaching import AttachPoint
from mainstem_api.gateway.adapters.engine_input import json_text
from mainstem_api.gateway.adapters.translator import Translator, agent_of, extends
from mainstem_shared.model.contents import KEYED, Content, TextPart, key_of
from mainstem_shared.model.events import Type
from mainstem_shared.model.usage import Usage

PROTOCOL: Final = "1.0"


class Events(Translator):
    """One AG-UI run.

    Args:
        thread_id: the client's thread.
        name: the client's own id of this run.
        run_id: our run; several AG-UI runs follow each other in it, when it pauses.
        history: the client's messages before this run's.
        attach_point: where our run stands, for a client that attaches; None from the start.
        before: what was spent in earlier AG-UI runs.
        speaks_1: the client knows 1.0; earlier versions know neither `cancelled` nor pending calls.
    """

    def __init__(
        self,
        *,
        thread_id: str,
        name: str,
        run_id: str,
        history: Sequence[Mapping[str, Any]] = (),
        attach_point: AttachPoint | None = None,
        before: Mapping[str, Any] | None = None,
        speaks_1: bool = True,
    ) -> None:
        super().__init__()
        self._speaks_1 = speaks_1
        self._thread_id, self._name, self._run_id = thread_id, name, run_id
        self._names = Names(run_id)
        self._history = history
        self._before = before
        self._attach_point = attach_point
        self._calls: dict[str, bool] = {}  # open tool calls: whether arguments were told
        self._arguments: dict[str, str] = {}  # what the client has of closed ones
        self._steps: dict[str, str] = {}  # open steps: their names, each once
        if attach_point is not None:
            self.begin_with(attach_point.fold.dump())

    # -- beginning

    def opened(self) -> None:
        about = {"threadId": self._thread_id, "runId": self._name, "protocolVersion": PROTOCOL}
        self._say("RUN_STARTED", **about, metadata={OURS: {"run_id": self._run_id}})
        if self._attach_point is None:
            return
        if self.fold.parts or self._history:
            self._snapshot()
        for step in self.fold.steps:
            if step["kind"] != "tool_call" and step["state"] == "running":
                self.step_began(step)

    def began(self, kind: str, data: Mapping[str, Any]) -> None:
        if kind == Type.RESTARTED:
            self._custom(f"{OURS}.restarted", {"segment": data["segment"]})

    def _snapshot(self) -> None:
        ours = messages.of_fold(self.fold, self._names)
        for part in self.fold.parts:
            if not isinstance(part, TextPart) and part["type"] == "tool_call":
                self._arguments[part["call_id"]] = json_text(part["arguments"])
        mine = {message["id"] for message in ours}
        kept = [message for message in self._history if message.get("id") not in mine]
        self._say("MESSAGES_SNAPSHOT", messages=[*kept, *ours])

    def _become(self, state: dict[str, Any]) -> None:
        if extends(self.fold, state["content"]):
            super()._become(state)
            return
        # Nothing can be taken back by events: the messages are replaced as a whole.
        self._close_text()
        self._close_calls()
        for step_id in list(self._steps):
            self._end_step(step_id)
        self.fold = Content()
        self.fold.load(state)
        self._snapshot()

    # -- content

    def text_began(self, part: int, kind: str) -> None:
        if kind != "reasoning":
            marked = messages.mark(kind)
            self._say("TEXT_MESSAGE_START", messageId=self._names.text(part), role="assistant", **marked)
            return
        message_id = self._names.reasoning(part)
        self._say("REASONING_START", messageId=message_id)
        self._say("REASONING_MESSAGE_START", messageId=message_id, role="reasoning")

    def text_grew(self, part: int, kind: str, text: str) -> None:
        if kind != "reasoning":
            self._say("TEXT_MESSAGE_CONTENT", messageId=self._names.text(part), delta=text)
        else:
            self._say("REASONING_MESSAGE_CONTENT", messageId=self._names.reasoning(part), delta=text)

    def text_ended(self, part: int, kind: str, text: str) -> None:
        if kind != "reasoning":
            self._say("TEXT_MESSAGE_END", messageId=self._names.text(part))
            return
        message_id = self._names.reasoning(part)
        self._say("REASONING_MESSAGE_END", messageId=message_id)
        self._say("REASONING_END", messageId=message_id)

    def call_began(self, call: Mapping[str, Any]) -> None:
        number = next(at for at, part in enumerate(self.fold.parts) if part is call)
        self._calls[call["call_id"]] = False
        agent = agent_of(call)
        self._say(
            "TOOL_CALL_START",
            toolCallId=self._names.call(call["call_id"]),
            toolCallName=call["name"],
            parentMessageId=self._names.parent(self.fold.parts, number),
            **({"metadata": {OURS: agent}} if agent else {}),
        )

    def arguments_grew(self, call: Mapping[str, Any], text: str) -> None:
        self._open_again(call)
        self._calls[call["call_id"]] = True
        self._say("TOOL_CALL_ARGS", toolCallId=self._names.call(call["call_id"]), delta=text)

    def _open_again(self, call: Mapping[str, Any]) -> None:
        """Go on with a call whose arguments were streaming when the client attached."""
        if call["call_id"] not in self._calls:
            self._calls[call["call_id"]] = True
            self._say(
                "TOOL_CALL_START", toolCallId=self._names.call(call["call_id"]), toolCallName=call["name"]
            )

    def call_ready(self, call: Mapping[str, Any]) -> None:
        told = self._calls.get(call["call_id"])
        if told is None:
            if self._arguments.get(call["call_id"]) != json_text(call["arguments"]):
                self._snapshot()  # the client has others: half of them, or those before an edit
            return
        if not told:
            arguments = json_text(call["arguments"])
            self._say("TOOL_CALL_ARGS", toolCallId=self._names.call(call["call_id"]), delta=arguments)
        self._arguments[call["call_id"]] = json_text(call["arguments"])
        self._end_call(call["call_id"])

    def call_ended(self, call: Mapping[str, Any]) -> None:
        self._end_call(call["call_id"])
        told = messages.result(call, self._names)
        about = {"messageId": told["id"], "toolCallId": told["toolCallId"], "role": "tool"}
        failed = {} if call["state"] == "completed" else {"metadata": {OURS: {"state": call["state"]}}}
        self._say("TOOL_CALL_RESULT", **about, content=told["content"], **failed)

    def _end_call(self, call_id: str) -> None:
        if self._calls.pop(call_id, None) is not None:
            self._say("TOOL_CALL_END", toolCallId=self._names.call(call_id))

    def _close_calls(self) -> None:
        for call_id in list(self._calls):
            self._end_call(call_id)

    def step_began(self, step: Mapping[str, Any]) -> None:
        name, taken, number = step["name"], set(self._steps.values()), 2
        while name in taken:  # the protocol knows steps by their name alone
            name, number = f"{step['name']} ({number})", number + 1
        self._steps[step["step_id"]] = name
        self._say("STEP_STARTED", stepName=name)

    def step_ended(self, step: Mapping[str, Any]) -> None:
        self._end_step(step["step_id"])

    def _end_step(self, step_id: str) -> None:
        if (name := self._steps.pop(step_id, None)) is not None:
            self._say("STEP_FINISHED", stepName=name)

    # -- about the run

    def part_set(self, part: Mapping[str, Any], *, again: bool) -> None:
        del again
        said, key = messages.shown(part), key_of(part)
        numbers = (at for at, known in enumerate(self.fold.parts) if _is_part(known, key))
        self._custom(f"{OURS}.{part['type']}", said)
        self._show(part["type"], self._names.activity(next(numbers)), said)

    def annotated(self, annotation: Mapping[str, Any]) -> None:
        said = dict(annotation)
        self._custom(f"{OURS}.annotation", said)
        for number in range(len(self.fold.parts) - 1, -1, -1):
            part = self.fold.parts[number]
            if isinstance(part, TextPart) and part.annotations and part.annotations[-1] == annotation:
                noted = self._names.activity(number, len(part.annotations) - 1)
                self._show("annotation", noted, said)
                return

    def output_changed(self, value: Any) -> None:
        self._custom(f"{OURS}.output", value)
        self._show("output", self._names.activity("output"), {"value": value})

    def title_changed(self, title: str) -> None:
        self._custom(f"{OURS}.title", {"title": title})

    def noted(self, kind: str, data: Mapping[str, Any]) -> None:
        if kind == Type.CUSTOM:
            self._custom(data["name"], data["data"])
        elif kind in (Type.AGENT_UPDATED, Type.CONTEXT_USAGE, Type.INPUT_ACCEPTED):
            self._custom(f"{OURS}.{kind}", dict(data))

    def _custom(self, name: str, value: Any) -> None:
        self._say("CUSTOM", name=name, value=value)

    def _show(self, kind: str, message_id: str, content: Mapping[str, Any]) -> None:
        """Say what a CUSTOM event said as a message, too, which the client has again when it reloads."""
        told = messages.activity(message_id, kind, content)
        self._say(
            "ACTIVITY_SNAPSHOT",
            messageId=message_id,
            activityType=told["activityType"],
            content=told["content"],
        )

    # -- outcomes

    def rested(self, action: Mapping[str, Any]) -> None:
        self._close()
        self._snapshot()
        interrupts = [_interrupt(asked, self._names) for asked in _asked(self._run_id, action)]
        self._finish({"type": "interrupt", "interrupts": interrupts})

    def finished(self, outcome: Mapping[str, Any]) -> None:
        reason = {"reason": outcome["reason"]}
        match outcome["status"]:
            case "succeeded":
                self._close()
                pending = [self._names.call(call_id) for call_id in self.fold.open_calls if self._speaks_1]
                self._finish({"type": "success", **({"pendingToolCallIds": pending} if pending else {})})
            case "aborted":
                self._close()
                self._finish({"type": "cancelled" if self._speaks_1 else "success"}, metadata={OURS: reason})
            case _:
                error = outcome["error"] or {}
                message = error.get("message") or f"The run failed: {outcome['reason']}."
                about = {"message": message, "code": outcome["reason"], "metadata": {OURS: reason}}
                self._say("RUN_ERROR", **about, **self._usage())

    def _close(self) -> None:
        self._close_calls()
        for step_id in list(self._steps):
            self._end_step(step_id)

    def _finish(self, outcome: Mapping[str, Any], **more: Any) -> None:
        about = {"threadId": self._thread_id, "runId": self._name}
        self._say("RUN_FINISHED", **about, outcome=outcome, **self._usage(), **more)

    def _usage(self) -> dict[str, Any]:
        """Return what this AG-UI run spent: totals of our run, without what earlier ones reported."""
        if self.fold.usage is None:
            return {}
        now, before = Usage.model_validate(self.fold.usage), Usage.model_validate(self._before or {})
        spent = {name: getattr(now, ours) - getattr(before, ours) for name, ours in _TOKENS.items()}
        marked = {**spent, "estimated": True} if now.estimated else spent
        return {"usage": [marked]} if any(spent.values()) else {}

    def _say(self, kind: str, **fields: Any) -> None:
        self.say({"type": kind, **fields})


def _is_part(part: TextPart | Mapping[str, Any], key: tuple[str, str]) -> bool:
    return not isinstance(part, TextPart) and part["type"] in KEYED and key_of(part) == key


_TOKENS: Final = {
    "inputTokens": "input_tokens",
    "outputTokens": "output_tokens",
    "totalTokens": "total_tokens",
    "reasoningTokens": "reasoning_tokens",
    "cachedInputTokens": "cached_input_tokens",
}


def interrupt_id(run_id: str, action_id: str, asked_id: str) -> str:
    """Return the id of what a run waits for: it says which run, which of its pauses, and what."""
    return f"{run_id}.{action_id}.{asked_id}"


def _asked(run_id: str, action: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what an action asks, one by one, with the id and the end of its window."""
    window = {"action_id": action["action_id"], "expires_at": action["expires_at"]}
    calls = [
        {**window, "id": interrupt_id(run_id, action["action_id"], call["call_id"]), "call": call}
        for call in action.get("calls", ())
    ]
    questions = [
        {**window, "id": interrupt_id(run_id, action["action_id"], asked["question_id"]), "question": asked}
        for asked in action.get("questions", ())
    ]
    return [*calls, *questions]


def _interrupt(asked: Mapping[str, Any], names: Names) -> dict[str, Any]:
    told: dict[str, Any] = {"id": asked["id"], "expiresAt": asked["expires_at"]}
    if question := asked.get("question"):
        answer: Mapping[str, Any] = {"type": "string"}
        if question.get("options"):
            answer = {**answer, "examples": question["options"]}
        if wanted := question.get("response_schema") or ({} if question.get("type") == "data" else None):
            answer = wanted
        schema = {"type": "object", "properties": {"answer": answer}, "required": ["answer"]}
        return {**told, "reason": "input_required", "message": question["text"], "responseSchema": schema}
    call = asked["call"]
    message = call.get("reason") or f"Approve the call of {call['name']}?"
    told |= {"reason": "tool_call", "message": message, "toolCallId": names.call(call["call_id"])}
    about = {"name": call["name"], "arguments": call["arguments"], "decisions": call["allowed_decisions"]}
    return {**told, "responseSchema": _schema(call["allowed_decisions"]), "metadata": {OURS: about}}


def _schema(allowed: Sequence[str]) -> dict[str, Any]:
    """Return the schema of a decision's payload; a member is there if the decision is allowed."""
    properties: dict[str, Any] = {"approved": {"type": "boolean"}, "reason": {"type": "string"}}
    if "edit" in allowed:
        properties["editedArgs"] = {"type": "object"}
    if "respond" in allowed:
        properties["response"] = {"type": "string"}
    required = [] if "respond" in allowed else ["approved"]
    return {"type": "object", "properties": properties, "required": required}
