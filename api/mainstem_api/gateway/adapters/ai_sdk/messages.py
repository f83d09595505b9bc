"""Parses what AI SDK clients send: a list of UI messages. Pure.

Of decisions we take the ids and the verdicts, nothing else: what is decided about stands in our record. The
conversation before is the client's own word, as it is with every backend of this protocol.
"""

# what clients and providers send is checked by models or by hand, not by types.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mainstem_api.gateway.adapters import engine_input
from mainstem_api.gateway.adapters.ai_sdk.stream import ASK_USER, DENIED
from mainstem_shared import errors
from mainstem_shared.model import runs

UNANSWERED: Final = "The call was not answered."
"""Stands in for a result that the conversation has not: models refuse a call without one."""


class _Lenient(BaseModel):
    # Frontends send members of their own with everything; the protocol adds some in every version.
    model_config = ConfigDict(extra="ignore", frozen=True)


class UIMessage(_Lenient):
    """A message as the client has it."""

    id: Annotated[str, Field(max_length=255)] = ""
    role: Literal["system", "user", "assistant"]
    parts: list[dict[str, Any]] = Field(default_factory=list)


class ChatOptions(engine_input.Options):
    """Mainstem's part of a request. `if_active` is about runs of the user's own; others are left alone."""

    # Stock frontends stop by cutting their connection: what they send next is meant to supersede.
    if_active: runs.IfActive = "replace"


class ChatRequest(_Lenient):
    """What the client's transport posts."""

    id: runs.ThreadId
    messages: Annotated[list[UIMessage], Field(min_length=1, max_length=10_000)]
    """The conversation; or, as `message`, its last message alone: the server knows those before it."""
    message_id: Annotated[str | None, Field(max_length=255, alias="messageId")] = None
    """The message that is replaced: one of the user's that was edited, or an answer to be given again."""
    is_whole: bool = True
    trigger: Literal["submit-message", "regenerate-message"] = "submit-message"
    mainstem: ChatOptions = Field(default_factory=ChatOptions)

    @model_validator(mode="before")
    @classmethod
    def _take_one_message(cls, body: Any) -> Any:
        if isinstance(body, dict) and "messages" not in body and isinstance(body.get("message"), dict):
            return {**body, "messages": [body["message"]], "is_whole": False}
        return {**body, "is_whole": True} if isinstance(body, dict) else body

    @property
    def is_regeneration(self) -> bool:
        """Whether an answer is to be given again."""
        return self.trigger == "regenerate-message"

    @property
    def said(self) -> UIMessage | None:
        """The user's message that is to be answered, if it is one."""
        last = self.messages[-1]
        return last if last.role == "user" else None

    @property
    def parent(self) -> str | None:
        """The message that the run follows, where it is not the thread's latest."""
        if self.is_regeneration:
            return self.said.id if self.said is not None and self.said.id else None
        if self.message_id is None or self.said is None or not self.is_whole:
            return None
        return (self.messages[-2].id or None) if len(self.messages) > 1 else "root"

    @property
    def continued(self) -> UIMessage | None:
        """The assistant's message that this request continues, if it does."""
        last = self.messages[-1]
        return last if last.role == "assistant" and self.trigger == "submit-message" else None


# -- decisions


class Verdicts(_Lenient):
    """What a message says about one action: ours, if its id is that of a pending one."""

    action_id: str
    decisions: list[dict[str, Any]]
    answers: list[dict[str, Any]]


def verdicts(message: UIMessage, pending: str | None) -> Verdicts | None:
    """Return what the user decided in a message; None if nothing.

    Answers stay in a message for good: those to the `pending` action count, and if there is none those that
    no stream has acknowledged. A message about several actions is about none: its `action_id` is empty.
    """
    decisions = [_decision(part["approval"]) for part in message.parts if _is_decided(part)]
    answers = [_answer(part) for part in message.parts if _is_answer(part, pending)]
    if not decisions and not answers:
        return None
    actions = {said.pop("action_id") for said in [*decisions, *answers]}
    action_id = actions.pop() if len(actions) == 1 else ""
    return Verdicts(action_id=action_id, decisions=decisions, answers=answers)


def _is_decided(part: Mapping[str, Any]) -> bool:
    approval: Any = part.get("approval")
    is_one = part.get("state") == "approval-responded" and isinstance(approval, dict)
    return is_one and approval.get("isAutomatic") is not True  # which nobody was asked about


def _decision(approval: Mapping[str, Any]) -> dict[str, Any]:
    action_id, _, call_id = str(approval.get("id")).partition(":")
    reason = approval.get("reason")
    kinds = {True: "approve", False: "reject"}
    approved = approval.get("approved")
    return {
        "action_id": action_id,
        "call_id": call_id,
        "type": kinds[approved] if isinstance(approved, bool) else str(approved),
        "reason": reason if isinstance(reason, str) else None,
    }


def _is_answer(part: Mapping[str, Any], pending: str | None) -> bool:
    if _tool_of(part) != ASK_USER or part.get("state") != "output-available":
        return False
    if pending is None:
        return not part.get("providerExecuted")
    return str(part.get("toolCallId")).startswith(f"{pending}:")


def _answer(part: Mapping[str, Any]) -> dict[str, Any]:
    action_id, _, question_id = str(part.get("toolCallId")).partition(":")
    return {"action_id": action_id, "question_id": question_id, "text": _encoded(part.get("output"))}


def as_decisions(answers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return answers to calls that were put as questions as decisions: all but `approve` reject."""
    return [_as_decision(answer["question_id"], answer["text"].strip()) for answer in answers]


def _as_decision(call_id: str, text: str) -> dict[str, Any]:
    if text.casefold() == "approve":
        return {"call_id": call_id, "type": "approve"}
    reason = text if text.casefold() != "reject" else None
    return {"call_id": call_id, "type": "reject", "reason": reason}


# -- the conversation


def chat_messages(messages: Sequence[UIMessage]) -> list[dict[str, Any]]:
    """Return the conversation in the format of chat completions: every tool call has its result."""
    return [chat for message in messages for chat in _chat(message)]


def _chat(message: UIMessage) -> Iterator[dict[str, Any]]:
    if message.role == "assistant":
        yield from _Turn().of(message)
    elif message.role == "system":
        yield {"role": "system", "content": _texts(message)}
    elif content := _content(message):
        yield {"role": "user", "content": content}


def _texts(message: UIMessage) -> str:
    return "".join(str(part.get("text", "")) for part in message.parts if part.get("type") == "text")


def _content(message: UIMessage) -> str | list[dict[str, Any]]:
    files = [_file(part) for part in message.parts if part.get("type") == "file"]
    text = _texts(message)
    if not files:
        return text
    return [*([{"type": "text", "text": text}] if text else []), *files]


def _file(part: Mapping[str, Any]) -> dict[str, Any]:
    url = str(part.get("url", ""))
    if str(part.get("mediaType", "")).startswith("image"):
        return {"type": "image_url", "image_url": {"url": url}}
    return {"type": "file", "file": {"filename": str(part.get("filename") or "file"), "file_data": url}}


class _Turn:
    """An assistant's message as the rounds it was made of: text, calls, their results, and again."""

    def __init__(self) -> None:
        self._text = ""
        self._calls: list[dict[str, Any]] = []
        self._results: list[dict[str, Any]] = []

    def of(self, message: UIMessage) -> Iterator[dict[str, Any]]:
        for part in message.parts:
            kind = part.get("type")
            if kind == "text":
                if self._calls:
                    yield from self._round()
                self._text += str(part.get("text", ""))
            elif kind == "step-start":
                yield from self._round()
            elif kind == "steering-message":
                yield from self._round()
                yield from _steered(part)
            elif _tool_of(part) and part.get("state") != "input-streaming":
                self._call(part)
        yield from self._round()

    def _round(self) -> Iterator[dict[str, Any]]:
        if self._text or self._calls:
            said: dict[str, Any] = {"role": "assistant", "content": self._text or None}
            yield {**said, "tool_calls": self._calls} if self._calls else said
            yield from self._results
        self._text, self._calls, self._results = "", [], []

    def _call(self, part: Mapping[str, Any]) -> None:
        call_id = str(part.get("toolCallId"))
        arguments = _encoded(part.get("input") or {})
        function = {"name": _tool_of(part), "arguments": arguments}
        self._calls.append({"id": call_id, "type": "function", "function": function})
        self._results.append({"role": "tool", "tool_call_id": call_id, "content": _result(part)})


def _steered(part: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    parts: Any = part.get("parts")
    if isinstance(parts, list):
        said = [piece for piece in parts if isinstance(piece, dict)]
        yield from _chat(UIMessage(role="user", parts=said))


def _tool_of(part: Mapping[str, Any]) -> str:
    """Return the name of the tool that a part calls; nothing if it calls none."""
    kind = part.get("type")
    if kind == "dynamic-tool":
        return str(part.get("toolName", ""))
    return kind.removeprefix("tool-") if isinstance(kind, str) and kind.startswith("tool-") else ""


def _result(part: Mapping[str, Any]) -> str:
    match part.get("state"):
        case "output-available":
            return _encoded(part.get("output"))
        case "output-error":
            return str(part.get("errorText") or "error")
        case "output-denied":
            approval: Any = part.get("approval")
            reason = approval.get("reason") if isinstance(approval, dict) else None
            return f"{DENIED} {reason}" if reason else DENIED
        case _:
            return UNANSWERED


def _encoded(value: Any) -> str:
    try:
        return engine_input.json_text(value)
    except ValueError as error:  # the encoder's own limit
        raise errors.InvalidRequest("messages: nested too deeply.") from error
