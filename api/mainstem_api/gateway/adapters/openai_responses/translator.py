"""Translates a run's events into a response's; `sequencer` orders and numbers them.

It begins with a `AttachPoint`, wherever the client is, and ends with the run, or with the pause that ends the
response. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from mainstem_api.gateway.adapters.attaching import AttachPoint
from mainstem_api.gateway.adapters.openai_responses import ids, response_object
from mainstem_api.gateway.adapters.openai_responses.sequencer import Sequencer
from mainstem_api.gateway.adapters.translator import Translator
from mainstem_shared import errors
from mainstem_shared.eventlog.reading.frames import Frame
from mainstem_shared.model import openai_responses
from mainstem_shared.model.contents import Content, TextPart
from mainstem_shared.model.events import Type
from mainstem_shared.model.openai_responses import ResponseId
from mainstem_shared.model.runs import Status

EVERYTHING: Final = -1
"""The number before the first event's."""


class Responses(Translator):
    """One response, for a client that has its events up to number `after`.

    Raises:
        NotFound: the run was not paused so often that there is such a response.
    """

    rests = False  # a pause ends the response by itself

    def __init__(self, name: ResponseId, attach_point: AttachPoint, *, after: int = EVERYTHING) -> None:
        super().__init__()
        if name.turn > len(attach_point.pauses):
            raise errors.NotFound(f"Response with id {str(name)!r} not found.")
        self.name = name
        self.status = "queued"
        self._attach_point = attach_point
        self._outcome: Mapping[str, Any] | None = None
        before = attach_point.pauses[name.turn - 1] if name.turn else None
        self._before: Mapping[str, Any] | None = before
        self._start: Mapping[str, Any] = (before or {}).get("mark") or _AT_START
        self._sequencer = Sequencer(
            name,
            restarts=attach_point.restarts,
            after=after,
            say=self._say_event,
            summarised=response_object.wants_summaries(attach_point.spec),
        )
        self._usage: Mapping[str, Any] | None = None
        self._opening: bytes | None = None
        self._epoch = attach_point.cursor.epoch

    def _say_event(self, kind: str, payload: Mapping[str, Any]) -> None:
        self.say(payload, event=kind)

    # -- what the stream calls

    def prepare(self) -> None:
        """Make what `opening` returns: it may be large, and be made in a thread."""
        self._opening = super().opening()

    def opening(self) -> bytes:
        if self._opening is None:
            self.prepare()
        said, self._opening = self._opening, b""
        return said or b""

    def opened(self) -> None:
        attach_point = self._attach_point
        self._lifecycle(0, "created")
        self._lifecycle(1, "queued")
        answered = self._answered
        self.fold = attach_point.fold
        self._usage = answered["mark"]["usage"] if answered else self.fold.usage
        if answered or self._is_started:
            self._lifecycle(2, "in_progress")
        self._push(answered)
        if answered is not None:
            self._pause(answered["asked"])
        elif attach_point.outcome is None and self.fold.action is not None:
            self._pause(self.fold.action)
        elif attach_point.outcome is not None:
            self._take_state(Type.FINISHED, dict(attach_point.outcome))
        self._sequencer.pump()

    def take(self, frames: Sequence[Frame]) -> bytes:
        for frame in frames:
            if self.over:
                break
            epoch, self._epoch = self._epoch, frame.cursor.epoch
            if frame.type == Type.SNAPSHOT and epoch != self._epoch:
                # Perhaps it stands in for a pause too: this response would end in the middle of it.
                raise errors.StoreUnavailable("The log cannot continue this stream; connect again.")
            self.follow(frame)
            self._sequencer.pump()
        return self._said()

    @property
    def last_number(self) -> int:
        """The number of the last event that was told, or that the client has."""
        return self._sequencer.next_number - 1

    @property
    def failure(self) -> Mapping[str, Any] | None:
        """The outcome of a run whose provider refused or failed."""
        error: Mapping[str, Any] | None = self._outcome["error"] if self._outcome else None
        return self._outcome if error and error.get("status") else None

    @property
    def has_output(self) -> bool:
        """Whether anything was said."""
        return bool(self._sequencer.items)

    def response(self) -> dict[str, Any]:
        """Return the response object as of now; once `opening` was called."""
        draft = self._sequencer.draft()
        output = [*self._sequencer.items, *([] if draft is None else [draft])]
        return self._object(self.status, output)

    # -- where it stands

    @property
    def _answered(self) -> Mapping[str, Any] | None:
        """The pause that ended this response, if that was decided."""
        pauses = self._attach_point.pauses
        pause = pauses[self.name.turn] if self.name.turn < len(pauses) else None
        return pause if pause is not None and pause.get("mark") else None

    @property
    def _is_started(self) -> bool:
        attach_point = self._attach_point
        if attach_point.outcome is not None or not self.name.turn:
            return attach_point.started
        return attach_point.status is not Status.QUEUED

    def _push(self, answered: Mapping[str, Any] | None) -> None:
        """Push the content of this response that is known by now."""
        end: Mapping[str, Any] | None = answered["mark"] if answered else None
        others = [part for part in self.fold.parts if not isinstance(part, TextPart)]
        calls = {part["call_id"]: part for part in others if part["type"] == "tool_call"}
        unknown = frozenset(end["open"]) if end else frozenset[str]()
        for call_id in self._start["open"]:
            self._push_call(calls.get(call_id), call_id, unknown)
        for number, part in enumerate(self.fold.parts[: end["parts"] if end else None]):
            if isinstance(part, TextPart):
                self._push_text(number, part, end)
            elif number >= self._start["parts"] and part["type"] == "tool_call":
                self._push_call(part, part["call_id"], unknown)

    def _push_call(self, part: Mapping[str, Any] | None, call_id: str, unknown: frozenset[str]) -> None:
        self._sequencer.open_call(call_id, approved_by=self._approved_by(call_id))
        if part is not None and call_id not in unknown and part["state"] not in ("streaming", "called"):
            self._sequencer.close_call(part)

    def _push_text(self, number: int, part: TextPart, end: Mapping[str, Any] | None) -> None:
        first, last = self._start["parts"] - 1, (end["parts"] if end else len(self.fold.parts)) - 1
        if number < first:
            return
        text = part.text[: end["chars"] if end and number == last else None]
        if number == first:
            text = text[self._start["chars"] :]
            if not text:
                return
        self._sequencer.open_text(number, part.kind)
        self._sequencer.grow_text(text)
        if number < last or end is not None:
            self._sequencer.close_text(part.annotations or ())
        elif self._attach_point.outcome is None and self.fold.action is None:
            self._open = (number, part.kind)  # it may grow

    def _approved_by(self, call_id: str) -> str | None:
        if self._before is None:
            return None
        asked = self._before.get("asked", {}).get("calls", ())
        if not any(call["call_id"] == call_id for call in asked):
            return None
        return ids.approval(self.name.run_id, self._before["action_id"], call_id)

    # -- what happens

    def began(self, kind: str, data: Mapping[str, Any]) -> None:
        if kind in (Type.STARTED, Type.RESUMED, Type.RESTARTED):
            self._lifecycle(2, "in_progress")

    def text_began(self, part: int, kind: str) -> None:
        self._sequencer.open_text(part, kind)

    def text_grew(self, part: int, kind: str, text: str) -> None:
        self._sequencer.grow_text(text)

    def text_ended(self, part: int, kind: str, text: str) -> None:
        ended = self.fold.parts[part]
        self._sequencer.close_text(ended.annotations or () if isinstance(ended, TextPart) else ())

    def annotated(self, annotation: Mapping[str, Any]) -> None:
        parts = list(enumerate(self.fold.parts))
        for number, part in reversed(parts):
            if isinstance(part, TextPart) and part.kind == "text":
                self._sequencer.annotate(number, part.annotations or ())
                return

    def call_began(self, call: Mapping[str, Any]) -> None:
        self._sequencer.open_call(call["call_id"])

    def call_ended(self, call: Mapping[str, Any]) -> None:
        self._sequencer.close_call(call)

    def usage_changed(self, usage: Mapping[str, Any]) -> None:
        self._usage = usage

    def asked(self, action: Mapping[str, Any]) -> None:
        self._pause(action)

    def finished(self, outcome: Mapping[str, Any]) -> None:
        self._outcome = outcome
        self._usage = outcome.get("usage")
        content = outcome["content"] or self.fold.dump()["content"]
        self._sequencer.finish(succeeded=outcome["status"] == "succeeded", content=content)
        self._end(openai_responses.status_of(outcome))

    def rewound(self) -> None:
        # A fail-over took back what was told, and nobody said so in the log yet.
        self._begin_anew(counted=False)

    def _take_state(self, kind: str, data: dict[str, Any]) -> None:
        if kind == Type.RESYNC or (kind == Type.RESTARTED and "content" in data):
            self.fold = Content()
            self.fold.apply(kind, data)
            self._open = None
            self._begin_anew(counted=True)
            self._usage = self.fold.usage
            self._push(None)
        else:
            super()._take_state(kind, data)

    # -- beginning and end

    def _begin_anew(self, *, counted: bool) -> None:
        self._sequencer.begin_anew(counted=counted)
        for number, status in enumerate(("created", "queued", "in_progress")):
            self._lifecycle(number, status)

    def _lifecycle(self, number: int, kind: str) -> None:
        status = "queued" if kind == "created" else kind
        self.status = status
        self._sequencer.lifecycle(number, f"response.{kind}", lambda: self._object(status, ()))

    def _pause(self, action: Mapping[str, Any]) -> None:
        self._sequencer.pause(action)
        self._end("completed")

    def _end(self, status: str) -> None:
        self.status, self.over = status, True
        self._sequencer.emit(
            response_object.event_of(status),
            lambda: {"response": self._object(status, self._sequencer.items)},
        )

    def _object(self, status: str, output: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        finished_ms = self._outcome["at"] if self._outcome else None
        usage = None
        if status not in ("queued", "in_progress"):
            usage = response_object.usage_since(self._start["usage"], self._usage)
        return response_object.response(
            self.name,
            self._attach_point.spec,
            status=status,
            output=output,
            usage=usage,
            outcome=self._outcome,
            finished_ms=finished_ms,
        )


_AT_START: Final[Mapping[str, Any]] = {"parts": 0, "chars": 0, "open": [], "usage": None}


def following(name: ResponseId, attach_point: AttachPoint, *, after: int = EVERYTHING) -> Responses:
    """Return the translator for a client that has the events up to `after`; its opening is made.

    A number that the response does not have (yet) cannot be continued: such a client gets everything.
    """
    if after > EVERYTHING:
        count = Responses(name, attach_point, after=2**63)
        count.opening()
        if count.last_number < after:
            after = EVERYTHING
    words = Responses(name, attach_point, after=after)
    words.prepare()
    return words
