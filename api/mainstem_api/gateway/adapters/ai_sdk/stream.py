"""Translates a run into a UI message stream of the Vercel AI SDK (v1): one assistant message. Pure.

A run is one step of its message, so that `reset-step` takes back exactly what a restart replaces. Tool calls
are `providerExecuted`: the client neither runs them nor counts them as its own to answer; calls that a
finished run leaves open are, and so are questions, as calls of the client's tool `ask_user`. An
approval's id is `<action id>:<call id>`, a question's call id `<action id>:<question id>`.

Clients reject what their version does not know, and do not say which they are: without a `Version`, they get
what 6 and 7 both take. `ai` 5 knows no approvals: to it they are questions.
"""

# what clients and providers send is checked by models or by hand, not by types.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from mainstem_api.gateway.adapters.ai_sdk import parts
from mainstem_api.gateway.adapters.translator import Translator, agent_of
from mainstem_shared.model import jsontext
from mainstem_shared.model.events import Type

ASK_USER: Final = "ask_user"
"""The name of the client's tool that a question calls: `{"text", "options"?}`; its output is the answer."""
ASKED: Final = ("text", "options", "type", "value", "response_schema")
"""Members of a question that clients see."""
DENIED: Final = "The user rejected this call."
WAITS: Final = "Not run yet: it waits for the decision about another call."
"""Stands in for a result, at a pause, for clients that send decisions only once no call is open."""
Version = Literal[5, 6, 7]
"""Major versions of the package `ai`."""
_DONE: Final = b"data: [DONE]\n\n"
_FINISH_REASONS: Final[Mapping[str, str]] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content-filter",
    "tool_calls": "tool-calls",
}


class UIMessageStream(Translator):
    """One run for one client. `message_id` is the assistant message's.

    `known`: the state that the client's message has already, when a stream continues it. `again`: the client
    has the message, but it cannot be known how much of it: it is told anew. `version`: the client's.
    """

    headers: Sequence[tuple[bytes, bytes]] = ((b"x-vercel-ai-ui-message-stream", b"v1"),)

    def __init__(
        self,
        *,
        run_id: str,
        message_id: str,
        known: Mapping[str, Any] | None = None,
        again: bool = False,
        version: Version | None = None,
    ) -> None:
        super().__init__()
        self._version = version
        self._run_id = run_id
        self._message_id = message_id
        self._again = again
        self._continues = known is not None
        if known is not None:
            self.begin_with(known)
        self._texts = 0
        self._annotations = 0
        self._denied: set[str] = set()
        self._finish_reason = "stop"

    # -- beginning and end

    def opened(self) -> None:
        metadata = {"runId": self._run_id}
        self.say({"type": "start", "messageId": self._message_id, "messageMetadata": metadata})
        if self._again:
            self.rewound()
        elif not self._continues:
            self.say({"type": "start-step"})

    def rewound(self) -> None:
        if self._version in (None, 7):
            self.say({"type": "reset-step"})
            return
        # Nothing can be taken back: the client must load the message again.
        self.say({"type": "error", "errorText": "What was said so far is replaced; load the chat again."})
        self._finish("error")
        self.over = True

    def rested(self, action: Mapping[str, Any]) -> None:
        self._finish("tool-calls")

    def finished(self, outcome: Mapping[str, Any]) -> None:
        match outcome["status"]:
            case "succeeded":
                self._take_finish_reason()
                self._finish(self._leave_open_calls())
            case "aborted":
                self.say({"type": "abort", "reason": outcome["reason"]})
                self._interrupt()
            case _:
                # The client drops everything after an error: what it is to know of the run comes first.
                self.say({"type": "message-metadata", "messageMetadata": self._metadata()})
                error = outcome["error"] or {"message": f"The run failed: {outcome['reason']}."}
                self.say({"type": "error", "errorText": error["message"]})
                self._finish("error")

    def _take_finish_reason(self) -> None:
        reason = self.fold.extra.get("finish_reason")
        if isinstance(reason, str):
            self._finish_reason = _FINISH_REASONS.get(reason, "other")

    def _interrupt(self) -> None:
        """End so that a client which sends by itself waits for its user."""
        if self._version == 7:
            self._finish("interrupted")
            return
        # Versions without this word send nothing while a text after the last call is not complete.
        self._texts += 1
        self.say({"type": "text-start", "id": self._text_id})
        self._finish("other")

    def _leave_open_calls(self) -> str:
        """Leave the calls that nobody answered to the client; returns the reason to finish."""
        open_calls = self._open_calls()
        for call in open_calls:
            self.say({**_input(call), "providerExecuted": False})
        return "tool-calls" if open_calls else self._finish_reason

    def _open_calls(self) -> list[dict[str, Any]]:
        parts = [part for part in self.fold.parts if isinstance(part, dict)]
        return [part for part in parts if part.get("state") == "called"]

    def _finish(self, reason: str) -> None:
        self.say({"type": "finish-step"})
        self.say({"type": "finish", "finishReason": reason, "messageMetadata": self._metadata()})
        self.say_raw(_DONE)

    def _metadata(self) -> dict[str, Any]:
        metadata: dict[str, Any] = {"runId": self._run_id}
        if self.fold.title is not None:
            metadata["title"] = self.fold.title
        if self.fold.usage is not None:
            metadata["usage"] = usage_of(self.fold.usage)
        return metadata

    # -- texts

    def text_began(self, part: int, kind: str) -> None:
        self._texts += 1
        began: dict[str, Any] = {"type": f"{_text_type(kind)}-start", "id": self._text_id}
        if kind == "refusal":  # the protocol has no such part
            began["providerMetadata"] = {"mainstem": {"refusal": True}}
        self.say(began)

    def text_grew(self, part: int, kind: str, text: str) -> None:
        self.say({"type": f"{_text_type(kind)}-delta", "id": self._text_id, "delta": text})

    def text_ended(self, part: int, kind: str, text: str) -> None:
        self.say({"type": f"{_text_type(kind)}-end", "id": self._text_id})

    # -- parts that come whole

    def part_set(self, part: Mapping[str, Any], *, again: bool) -> None:
        if part["type"] == "data":
            self.say({"type": f"data-{part['name']}", "id": part["id"], "data": part["value"]})
        elif not again:  # the client cannot take these back
            self.say(parts.ui_part(part))

    def annotated(self, annotation: Mapping[str, Any]) -> None:
        self._annotations += 1
        if said := parts.ui_source(annotation, number=self._annotations):
            self.say(said)

    def output_changed(self, value: Any) -> None:
        self.say({"type": "data-output", "id": "output", "data": value})

    @property
    def _text_id(self) -> str:
        return f"t{self._texts}"

    # -- tool calls

    def call_began(self, call: Mapping[str, Any]) -> None:
        if isinstance(call["arguments"], str):
            self.say(
                {
                    "type": "tool-input-start",
                    "toolCallId": call["call_id"],
                    "toolName": call["name"],
                    "providerExecuted": True,
                }
            )

    def arguments_grew(self, call: Mapping[str, Any], text: str) -> None:
        self.say({"type": "tool-input-delta", "toolCallId": call["call_id"], "inputTextDelta": text})

    def call_ready(self, call: Mapping[str, Any]) -> None:
        self.say({**_input(call), "providerExecuted": True})

    def call_ended(self, call: Mapping[str, Any]) -> None:
        call_id, result = call["call_id"], call["result"]
        about = {"toolCallId": call_id, "providerExecuted": True}
        if call["state"] == "completed":
            self.say({"type": "tool-output-available", **about, "output": result})
        elif call_id in self._denied and self._version != 5:
            self.say({"type": "tool-output-denied", "toolCallId": call_id})
        elif isinstance(call["arguments"], str):
            self.say(
                {
                    "type": "tool-input-error",
                    **about,
                    "toolName": call["name"],
                    "input": call["arguments"],
                    "errorText": error_text(result),
                }
            )
        else:
            self.say({"type": "tool-output-error", **about, "errorText": error_text(result)})

    # -- humans

    def asked(self, action: Mapping[str, Any]) -> None:
        for call in action.get("calls", ()):
            if self._version == 5:
                self._ask(action, call["call_id"], _as_question(call))
                continue
            request = _request(action, call)
            reason = call.get("reason")
            self.say(request if reason is None else {**request, "reason": reason})
        if action.get("calls") and self._version != 5:
            self._approve_others(action)
        for question in action.get("questions", ()):
            asked = {name: question[name] for name in ASKED if name in question}
            self._ask(action, question["question_id"], asked)

    def _ask(self, action: Mapping[str, Any], asked_id: str, question: Mapping[str, Any]) -> None:
        about = {"toolCallId": f"{action['action_id']}:{asked_id}", "toolName": ASK_USER}
        self.say({"type": "tool-input-available", **about, "input": question})

    def _approve_others(self, action: Mapping[str, Any]) -> None:
        """Close calls that nobody is asked about: clients send decisions once no call is open."""
        asked = {call["call_id"] for call in action["calls"]}
        for call in self._open_calls():
            if call["call_id"] in asked:
                continue
            if self._version == 7:
                request = _request(action, call)
                self.say({**request, "isAutomatic": True})
                about = {"approvalId": request["approvalId"], "approved": True}
                self.say({"type": "tool-approval-response", **about})
            else:
                about = {"toolCallId": call["call_id"], "providerExecuted": True}
                self.say({"type": "tool-output-available", **about, "output": WAITS})

    def decided(
        self, action: Mapping[str, Any], decisions: Sequence[Mapping[str, Any]], *, expired: bool
    ) -> None:
        for decision in decisions:
            about = f"{action['action_id']}:{decision['id']}"
            if "name" in decision:  # of the tool that was decided about
                self._judged(about, decision)
            else:
                self._answered(about, decision)

    def _judged(self, approval_id: str, decision: Mapping[str, Any]) -> None:
        approved = decision["type"] != "reject"
        if not approved:
            self._denied.add(decision["id"])
        if self._version == 5:
            self._answered(approval_id, {"type": "answer", "text": "approve" if approved else "reject"})
        if self._version != 7:
            return  # the outcome follows, which says as much
        said = {"type": "tool-approval-response", "approvalId": approval_id, "approved": approved}
        reason = decision.get("reason")
        self.say(said if reason is None else {**said, "reason": reason})

    def _answered(self, call_id: str, decision: Mapping[str, Any]) -> None:
        # From now on the call counts as ours: clients that send answers by themselves would send it again.
        about = {"toolCallId": call_id, "providerExecuted": True}
        if decision["type"] == "answer":
            self.say({"type": "tool-output-available", **about, "output": decision["text"]})
        else:
            reason = decision.get("reason") or "Nobody answered."
            self.say({"type": "tool-output-error", **about, "errorText": reason})

    # -- the rest

    def title_changed(self, title: str) -> None:
        self.say({"type": "message-metadata", "messageMetadata": {"title": title}})

    def step_began(self, step: Mapping[str, Any]) -> None:
        self._tell_step(step)

    def step_ended(self, step: Mapping[str, Any]) -> None:
        self._tell_step(step)

    def _tell_step(self, step: Mapping[str, Any]) -> None:
        shown = {name: step[name] for name in ("kind", "name", "state")}
        self.say({"type": "data-step", "id": step["step_id"], "data": shown})

    def noted(self, kind: str, data: Mapping[str, Any]) -> None:
        match kind:
            case Type.CUSTOM:
                self._tell_custom(data["name"], data["data"])
            case Type.AGENT_UPDATED:
                self.say({"type": "data-agent", "id": "agent", "data": data})
            case Type.CONTEXT_USAGE:
                self.say({"type": "data-context-usage", "id": "context-usage", "data": data})
            case Type.INPUT_ACCEPTED if "text" in data and "input_id" in data and self._version not in (5, 6):
                said = [{"type": "text", "text": data["text"]}]
                self.say({"type": "steering-message", "id": data["input_id"], "parts": said})
            case _:
                pass  # the client fails on a type that it does not know

    def _tell_custom(self, name: str, data: Any) -> None:
        if name == "finish" and isinstance(data, dict) and "finish_reason" in data:
            self._finish_reason = _FINISH_REASONS.get(str(data["finish_reason"]), "other")
            return
        part: dict[str, Any] = {"type": f"data-{name}", "data": data}
        if isinstance(data, dict) and isinstance(data.get("id"), str):
            part["id"] = data["id"]  # later parts of this name and id replace the data
        self.say(part)


def _text_type(kind: str) -> str:
    return "text" if kind == "refusal" else kind


def _as_question(call: Mapping[str, Any]) -> dict[str, Any]:
    text = call.get("reason") or f"Approve the call of {call['name']}?"
    about = {"name": call["name"], "arguments": call["arguments"]}
    return {"text": text, "options": ["approve", "reject"], "call": about}


def _request(action: Mapping[str, Any], call: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "tool-approval-request",
        "approvalId": f"{action['action_id']}:{call['call_id']}",
        "toolCallId": call["call_id"],
    }


def _input(call: Mapping[str, Any]) -> dict[str, Any]:
    agent = agent_of(call)
    return {
        "type": "tool-input-available",
        "toolCallId": call["call_id"],
        "toolName": call["name"],
        "input": call["arguments"],
        **({"providerMetadata": {"mainstem": agent}} if agent else {}),
    }


def usage_of(usage: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's usage under the AI SDK's names."""
    return {
        "inputTokens": usage.get("input_tokens", 0),
        "outputTokens": usage.get("output_tokens", 0),
        "totalTokens": usage.get("total_tokens", 0),
        "reasoningTokens": usage.get("reasoning_tokens", 0),
        "cachedInputTokens": usage.get("cached_input_tokens", 0),
        **({"estimated": True} if usage.get("estimated") else {}),
        **({"costUsd": usage["cost_usd"]} if usage.get("cost_usd") is not None else {}),
    }


def error_text(result: Any) -> str:
    """Return a failed call's result as the text that the client shows."""
    if isinstance(result, dict) and len(result) == 1:
        (result,) = result.values()
    return result if isinstance(result, str) else jsontext.dumps(result).decode()
