"""Translates a run into chunks of a chat completion. Pure.

Only text, reasoning and the caller's own calls are said: tools that run in a worker are the server's affair.
A client continues with the `id` of the last event that it has: how much text, reasoning and how many calls
those before it said, which any gateway can tell from the run's content alone, at any time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from mainstem_api.gateway.adapters.attaching import AttachPoint
from mainstem_api.gateway.adapters.engine_input import json_text
from mainstem_api.gateway.adapters.openai_responses import ids
from mainstem_api.gateway.adapters.translator import Translator, encode_event
from mainstem_shared import errors
from mainstem_shared.model import runs
from mainstem_shared.model.contents import Content, TextPart
from mainstem_shared.model.events import Type
from mainstem_shared.model.usage import Usage

ASK: Final = "ask_user"
APPROVE: Final = "approve_tool_call"
"""Functions that stand for what a paused run waits for; a `tool` message with their id decides it."""
FINISH_REASONS: Final = frozenset({"stop", "length", "content_filter"})
_MEMBERS: Final = {"text": "content", "reasoning": "reasoning_content", "refusal": "refusal"}
_DONE: Final = b"data: [DONE]\n\n"
_PLACE: Final = re.compile(r"([0-9]{1,9})\.([0-9]{1,9})\.([0-9]{1,9})")


class Place(NamedTuple):
    """How much of a completion a client has: characters of text (or refusal) and of reasoning, and calls."""

    text: int = 0
    reasoning: int = 0
    calls: int = 0

    def __str__(self) -> str:
        return f"{self.text}.{self.reasoning}.{self.calls}"


def place(event_id: str | None) -> Place:
    """Read the id of an event.

    Raises:
        InvalidCursor: it is none.
    """
    if event_id is None:
        return Place()
    found = _PLACE.fullmatch(event_id)
    if found is None:
        raise errors.InvalidCursor(cursor=event_id[:80])
    return Place(*map(int, found.groups()))


class Completion(Translator):
    """One completion, for a client that has it up to `after`.

    `usage`: whether the last chunk says what was spent.
    """

    rests = True

    def __init__(
        self, attach_point: AttachPoint, *, model: str, after: Place | None = None, usage: bool = False
    ) -> None:
        super().__init__()
        spec = attach_point.spec
        self.run_id = spec.run_id
        self.about = {"id": f"chatcmpl-{spec.run_id}", "created": spec.created_ms // 1000, "model": model}
        self.message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
        self.finish_reason = "stop"
        self.failure: Mapping[str, Any] | None = None
        """The outcome of a run that failed."""
        self._attach_point = attach_point
        self._after = after or Place()
        self._place = Place()
        self._tells_usage = usage
        self._calls: list[dict[str, Any]] = []

    @property
    def told(self) -> Place:
        """How much was said so far."""
        return self._place

    # -- what happens

    def opened(self) -> None:
        if self._after == Place():
            self._say_delta({"role": "assistant", "content": ""})
        fold = self._attach_point.fold
        self.begin_with(fold.dump())
        for part in fold.parts:
            if isinstance(part, TextPart):
                self._grow(part.kind, part.text)
        if self._attach_point.outcome is not None:
            self._take_state(Type.FINISHED, dict(self._attach_point.outcome))

    def text_grew(self, part: int, kind: str, text: str) -> None:
        self._grow(kind, text)

    def rewound(self) -> None:
        self._fail(
            "The run began again: what was said is replaced. Ask for the completion again.", "restarted"
        )

    def rested(self, action: Mapping[str, Any]) -> None:
        for call in action.get("calls", ()):
            call_id = ids.approval(self.run_id, action["action_id"], call["call_id"])
            self._add_call(call_id, APPROVE, {"name": call["name"], "arguments": call["arguments"]})
        for asked in action.get("questions", ()):
            call_id = ids.question(self.run_id, action["action_id"], asked["question_id"])
            told = {
                "question": asked["text"],
                **({"options": asked["options"]} if asked.get("options") else {}),
            }
            self._add_call(call_id, ASK, told)
        self._finish()

    def finished(self, outcome: Mapping[str, Any]) -> None:
        if outcome["status"] == "failed" and outcome["reason"] != runs.Reason.CONTENT_TOO_LARGE:
            self.failure = outcome
            error: Mapping[str, Any] = outcome["error"] or {}
            self._fail(error.get("message") or f"The run failed: {outcome['reason']}.", outcome["reason"])
            return
        if outcome["status"] != "succeeded":
            self.finish_reason = "length"  # it was cut: by its user, or by a limit
        else:
            reason = self.fold.extra.get("finish_reason")
            self.finish_reason = reason if reason in FINISH_REASONS else "stop"
            self._leave_open_calls()
        self._finish()

    def _leave_open_calls(self) -> None:
        """Leave to the client what is its own to call; if calls ran here, too, ids that say where."""
        calls = [part for part in self.fold.parts if not isinstance(part, TextPart) and "call_id" in part]
        ran_some = any(call["state"] not in ("streaming", "called") for call in calls)
        for call in calls:
            if call["state"] == "called":
                call_id = ids.shared(self.run_id, call["call_id"]) if ran_some else call["call_id"]
                self._add_call(call_id, call["name"], call["arguments"])

    # -- chunks

    def _grow(self, kind: str, text: str) -> None:
        member = _MEMBERS[kind]
        count = "reasoning" if kind == "reasoning" else "text"
        begin: int = getattr(self._place, count)
        known = getattr(self._after, count) - begin
        self._place = self._place._replace(**{count: begin + len(text)})
        if fresh := text[max(known, 0) :]:
            self.message[member] = (self.message.get(member) or "") + fresh
            self._say_delta({member: fresh})

    def _add_call(self, call_id: str, name: str, arguments: Any) -> None:
        call = {
            "id": call_id,
            "type": "function",
            "function": {"name": name, "arguments": json_text(arguments)},
        }
        index = len(self._calls)
        self._calls.append(call)
        self._place = self._place._replace(calls=index + 1)
        self.finish_reason = "tool_calls"
        if index >= self._after.calls:
            self._say_delta({"tool_calls": [{"index": index, **call}]})

    def _finish(self) -> None:
        if self._calls:
            self.message["tool_calls"] = self._calls
        if cited := citations(self.fold):
            self.message["annotations"] = cited
            self._say_delta({"annotations": cited})
        self._say([{"index": 0, "delta": {}, "logprobs": None, "finish_reason": self.finish_reason}])
        if self._tells_usage:
            self._say([], usage=self.usage())
        self.say_raw(_DONE)
        self.over = True

    def _fail(self, message: str, code: str) -> None:
        self.say({"error": {"message": message, "type": "server_error", "param": None, "code": code}})
        self.over = True

    def usage(self) -> dict[str, Any]:
        """Return what the run has spent, under this API's names."""
        spent = Usage.model_validate(self.fold.usage or {})
        return {
            "prompt_tokens": spent.input_tokens,
            "completion_tokens": spent.output_tokens,
            "total_tokens": spent.total_tokens,
            "prompt_tokens_details": {"cached_tokens": spent.cached_input_tokens},
            "completion_tokens_details": {"reasoning_tokens": spent.reasoning_tokens},
        }

    def completion(self) -> dict[str, Any]:
        """Return the whole completion, once it is over."""
        choice = {"index": 0, "message": self.message, "logprobs": None, "finish_reason": self.finish_reason}
        return {**self.about, "object": "chat.completion", "choices": [choice], "usage": self.usage()}

    def _say_delta(self, delta: Mapping[str, Any]) -> None:
        self._say([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}])

    def _say(self, choices: Sequence[Mapping[str, Any]], **more: Any) -> None:
        chunk = {**self.about, "object": "chat.completion.chunk", "choices": choices, **more}
        self.say_raw(b"id: %s\n%s" % (str(self._place).encode(), encode_event(chunk)))


def citations(fold: Content) -> list[dict[str, Any]]:
    """Return the pages that a content's texts and sources name, as annotations of a message."""
    texts = [part for part in fold.parts if isinstance(part, TextPart)]
    noted = [annotation for part in texts for annotation in part.annotations or ()]
    noted += [part for part in fold.parts if not isinstance(part, TextPart) and part["type"] == "source"]
    return [
        {
            "type": "url_citation",
            "url_citation": {
                "url": each["url"],
                "title": str(each.get("title", "")),
                "start_index": each.get("start_index", 0),
                "end_index": each.get("end_index", 0),
            },
        }
        for each in noted
        if isinstance(each.get("url"), str)
    ]
