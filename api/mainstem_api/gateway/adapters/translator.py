"""The base translator follows a run's events for one connection and reports, in order, what changed.

Protocols of the outside know only deltas. So a translator keeps the fold of what its client has: where our
events replace a whole state (`snapshot`, `resync`, `run.restarted`, `run.finished`), it sends what the client
lacks of it, or takes everything back if the state is no continuation (`rewound`). Pure: no I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from mainstem_shared.eventlog.reading.frames import Frame, without_line_breaks
from mainstem_shared.model import jsontext, salvage
from mainstem_shared.model.contents import KEYED, Content, TextPart, key_of, type_of_delta
from mainstem_shared.model.events import STATES, Type


class Translator:
    """One protocol's words for one run, for one client. Subclasses override the methods under "what happens".

    `EventStream` calls `opening` once, `take` for all frames, `rest` when nothing more is to be read of a
    run that waits for a human. It ends the response cleanly as soon as `over` is true.
    """

    headers: Sequence[tuple[bytes, bytes]] = ()
    """Response headers of the protocol, beside those of every event stream."""
    rests: ClassVar[bool] = True
    """Whether a stream ends at a pause; if not, it waits for the run to go on."""

    def __init__(self) -> None:
        self.fold = Content()
        """What the client has."""
        self.over = False
        """Nothing more will be said."""
        self._out: list[bytes] = []
        self._open: tuple[int, str] | None = None  # the text part that grows: its number and kind
        self._heard: set[str] = set()  # the inputs of users that were told of

    # -- what the stream calls

    def opening(self) -> bytes:
        """Return what is said before the first event."""
        self.opened()
        return self._said()

    def take(self, frames: Sequence[Frame]) -> bytes:
        """Return what events are in this protocol: possibly nothing."""
        for frame in frames:
            if not self.over:
                self.follow(frame)
        return self._said()

    def follow(self, frame: Frame) -> None:
        """Take one event; one that no decoder reads says nothing, so that what comes after it is told."""
        payload = frame.payload()
        if payload != salvage.UNREADABLE:
            self._take(frame.type, payload)

    @property
    def resting(self) -> bool:
        """Whether this stream ends here, if nothing follows: the run waits for a human."""
        return self.rests and self.fold.action is not None and not self.over

    def rest(self) -> bytes:
        """Return what is said at a pause; the response ends after it."""
        self._close_text()
        assert self.fold.action is not None
        self.rested(self.fold.action)
        self.over = True
        return self._said()

    # -- what happens (for subclasses)

    def opened(self) -> None:
        """The client is there; nothing is known yet."""

    def began(self, kind: str, data: Mapping[str, Any]) -> None:
        """Control of the run changed hands: `run.created` up to `run.sealed`, or `run.restarted`."""

    def text_began(self, part: int, kind: str) -> None:
        """A part begins: `kind` is `text`, `reasoning` or `refusal`."""

    def text_grew(self, part: int, kind: str, text: str) -> None:
        """A part grows by `text`."""

    def text_ended(self, part: int, kind: str, text: str) -> None:
        """A part is complete: something else follows. `text` is all of it."""

    def call_began(self, call: Mapping[str, Any]) -> None:
        """A tool call appears. Its arguments follow, by `arguments_grew` or by `call_ready`."""

    def arguments_grew(self, call: Mapping[str, Any], text: str) -> None:
        """A tool call's arguments, which stream, grow by `text`."""

    def call_ready(self, call: Mapping[str, Any]) -> None:
        """A tool call's arguments are known as an object. Again, if somebody edits them."""

    def call_ended(self, call: Mapping[str, Any]) -> None:
        """A tool call has its result; `state` is `completed`, `failed` or `aborted`."""

    def step_began(self, step: Mapping[str, Any]) -> None:
        """A step that is no tool call begins."""

    def step_ended(self, step: Mapping[str, Any]) -> None:
        """A step that is no tool call is over."""

    def part_set(self, part: Mapping[str, Any], *, again: bool) -> None:
        """A part that comes whole (`data`, `source`, `file`) is there; `again`: it replaces one of its id."""

    def annotated(self, annotation: Mapping[str, Any]) -> None:
        """Something is noted about the last text."""

    def output_changed(self, value: Any) -> None:
        """The run has a structured result."""

    def usage_changed(self, usage: Mapping[str, Any]) -> None:
        """The run has used so many tokens in all."""

    def title_changed(self, title: str) -> None:
        """The run has a title."""

    def noted(self, kind: str, data: Mapping[str, Any]) -> None:
        """No content: `agent.updated`, `context_usage`, `custom`, `input.accepted`, and types yet unknown."""

    def asked(self, action: Mapping[str, Any]) -> None:
        """The run waits for a human; perhaps it did, and `decided` follows at once."""

    def decided(
        self, action: Mapping[str, Any], decisions: Sequence[Mapping[str, Any]], *, expired: bool
    ) -> None:
        """The action is decided. `decisions` is empty where only a state tells of it."""

    def rested(self, action: Mapping[str, Any]) -> None:
        """The run waits, and this stream ends: say the protocol's last words."""

    def rewound(self) -> None:
        """Everything is taken back; the content follows from its start."""

    def finished(self, outcome: Mapping[str, Any]) -> None:
        """The run is over: `run.finished`. Its content was said before."""

    # -- for subclasses

    def begin_with(self, state: Mapping[str, Any]) -> None:
        """Take for granted that the client has this state."""
        self.fold.load({**Content().dump(), **state})
        self._heard = {said["input_id"] for said in state.get("inputs", ())}

    def say(self, payload: Any, *, event: str | None = None) -> None:
        """Send one SSE event."""
        self._out.append(encode_event(payload, event=event))

    def say_raw(self, said: bytes) -> None:
        """Send bytes that are no JSON event."""
        self._out.append(said)

    # -- events

    def _said(self) -> bytes:
        said, self._out = self._out, []
        return said[0] if len(said) == 1 else b"".join(said)

    def _take(self, kind: str, data: dict[str, Any]) -> None:
        if kind in type_of_delta:
            self._text(data["part"], type_of_delta[kind], data["text"])
        elif kind in STATES or kind == Type.RESTARTED:
            self._take_state(kind, data)
        elif kind in (Type.STEP_STARTED, Type.STEP_DELTA, Type.STEP_COMPLETED):
            self._take_step(kind, data)
        else:
            self._take_rest(kind, data)

    def _text(self, part: int, kind: str, text: str) -> None:
        if self._open != (part, kind):
            self._close_text()
            self._open = (part, kind)
            self.text_began(part, kind)
        self.fold.append_text(kind, part, text)
        if text:
            self.text_grew(part, kind, text)

    def _close_text(self) -> None:
        if self._open is not None:
            part, kind = self._open
            self._open = None
            grown = self.fold.parts[part]
            assert isinstance(grown, TextPart)
            self.text_ended(part, kind, grown.text)

    def _take_step(self, kind: str, data: dict[str, Any]) -> None:
        step_id = data["step_id"]
        is_known = _call(self.fold, step_id) is not None
        self.fold.apply(kind, data)
        call = _call(self.fold, step_id)
        if call is None:
            self._say_step(kind, step_id)
        elif kind == Type.STEP_DELTA:
            if isinstance(call["arguments"], str) and data["arguments"]:
                self.arguments_grew(call, data["arguments"])
        elif kind == Type.STEP_COMPLETED:
            self.call_ended(call)
        else:
            if not is_known:
                self._close_text()
                self.call_began(call)
            self._say_arguments(call, "")

    def _say_step(self, kind: str, step_id: str) -> None:
        step = next((step for step in self.fold.steps if step["step_id"] == step_id), None)
        if step is not None:
            (self.step_began if kind == Type.STEP_STARTED else self.step_ended)(step)

    def _say_arguments(self, call: Mapping[str, Any], known: str) -> None:
        arguments = call["arguments"]
        if not isinstance(arguments, str):
            self.call_ready(call)
        elif arguments != known:
            self.arguments_grew(call, arguments[len(known) :])

    def _take_rest(self, kind: str, data: dict[str, Any]) -> None:
        action = self.fold.action
        if kind == Type.PART:
            self._take_part(data["part"])
            return
        self.fold.apply(kind, data)
        match kind:
            case Type.USAGE:
                self.usage_changed(data)
            case Type.TITLE:
                self.title_changed(data["title"])
            case Type.APPROVAL_REQUIRED:
                self.asked(data["action"])
            case Type.APPROVAL_RESOLVED | Type.APPROVAL_EXPIRED:
                if action is not None:
                    self.decided(action, data.get("decisions", ()), expired=kind == Type.APPROVAL_EXPIRED)
            case Type.ANNOTATION:
                self._take_annotation(data["annotation"])
            case Type.OUTPUT:
                self.output_changed(data["value"])
            case Type.CREATED | Type.STARTED | Type.RESUMED | Type.QUEUED | Type.SEALED:
                self.began(kind, data)
            case _:
                self._note(kind, data)

    def _take_annotation(self, annotation: Mapping[str, Any]) -> None:
        if any(isinstance(part, TextPart) and part.kind == "text" for part in self.fold.parts):
            self.annotated(annotation)

    def _take_part(self, part: dict[str, Any]) -> None:
        again = key_of(part) in self.fold.keys
        if not again:
            self._close_text()
        self.fold.apply(Type.PART, {"part": part})
        self.part_set(part, again=again)

    def _note(self, kind: str, data: Mapping[str, Any]) -> None:
        if kind == Type.INPUT_ACCEPTED and "input_id" in data:
            self._heard.add(data["input_id"])
        self.noted(kind, data)

    # -- states

    def _take_state(self, kind: str, data: dict[str, Any]) -> None:
        if kind == Type.RESTARTED:
            self.began(kind, data)
        if "content" in data:
            self._become(data)
        if kind == Type.FINISHED:
            self._close_text()
            self.over = True
            self.finished(data)

    def _become(self, state: dict[str, Any]) -> None:
        """Bring the client from what it has to `state`."""
        state = {"steps": [], "usage": None, "title": None, "action": None, **state}
        if not extends(self.fold, state["content"]):
            self._open = None
            self.fold = Content()
            self._heard.clear()
            self.rewound()
        if self.fold.action is not None and self.fold.action != state["action"]:
            self.decided(self.fold.action, (), expired=False)
        self._say_content(state["content"], state.get("inputs", ()))
        self._say_steps(state["steps"])
        before, self.fold = self.fold, Content()
        self.fold.load(state)
        self._say_facts(before, self.fold)

    def _say_content(self, content: list[dict[str, Any]], inputs: Sequence[Mapping[str, Any]]) -> None:
        fresh = [said for said in inputs if said["input_id"] not in self._heard]
        for number, part in enumerate(content):
            self._say_inputs(said for said in fresh if said["part"] == number)
            if part["type"] == "tool_call":
                self._say_call(number, part)
            elif part["type"] in type_of_delta.values():
                known = self._known_text(number)
                if len(known) < len(part["text"]) or number >= len(self.fold.parts):
                    self._text(number, part["type"], part["text"][len(known) :])
                self._say_annotations(number, part.get("annotations", ()))
            elif part["type"] in KEYED:
                if number >= len(self.fold.parts) or self.fold.parts[number] != part:
                    self._take_part(part)
            elif number >= len(self.fold.parts):
                self.fold.parts.append(part)  # of a later version's; it keeps the numbers right
        self._say_inputs(said for said in fresh if said["part"] >= len(content))

    def _say_inputs(self, inputs: Iterable[Mapping[str, Any]]) -> None:
        for said in inputs:
            self._note(Type.INPUT_ACCEPTED, said)

    def _say_annotations(self, number: int, annotations: Sequence[Mapping[str, Any]]) -> None:
        known = self.fold.parts[number]
        if not isinstance(known, TextPart):
            return
        for annotation in annotations[len(known.annotations or ()) :]:
            known.annotations = [*(known.annotations or ()), dict(annotation)]  # for `text_ended`
            self.annotated(annotation)

    def _known_text(self, number: int) -> str:
        known = self.fold.parts[number] if number < len(self.fold.parts) else None
        return known.text if isinstance(known, TextPart) else ""

    def _say_call(self, number: int, call: dict[str, Any]) -> None:
        known = self.fold.parts[number] if number < len(self.fold.parts) else None
        assert not isinstance(known, TextPart)
        if known is None:
            self._close_text()
            self.fold.parts.append(call)
            self.call_began(call)
        if known is None or known["arguments"] != call["arguments"]:
            arguments = "" if known is None else known["arguments"]
            self._say_arguments(call, arguments if isinstance(arguments, str) else "")
        if call["state"] not in ("streaming", "called") and (known is None or _end(known) != _end(call)):
            self.call_ended(call)

    def _say_steps(self, steps: Sequence[Mapping[str, Any]]) -> None:
        known = {step["step_id"]: step for step in self.fold.steps}
        for step in steps:
            if step["kind"] == "tool_call":
                continue
            before = known.get(step["step_id"])
            if before is None:
                self.step_began(step)
            if step["state"] != "running" and (before is None or before["state"] == "running"):
                self.step_ended(step)

    def _say_facts(self, before: Content, after: Content) -> None:
        if after.usage is not None and after.usage != before.usage:
            self.usage_changed(after.usage)
        if "output" in after.extra and after.extra["output"] != before.extra.get("output"):
            self.output_changed(after.extra["output"])
        if after.title is not None and after.title != before.title:
            self.title_changed(after.title)
        for name, kind in (("agent", Type.AGENT_UPDATED), ("context_usage", Type.CONTEXT_USAGE)):
            if name in after.extra and after.extra[name] != before.extra.get(name):
                self.noted(kind, after.extra[name])
        if after.action is not None and after.action != before.action:
            self.asked(after.action)


def _call(fold: Content, call_id: str) -> dict[str, Any] | None:
    for part in reversed(fold.parts):  # it is one of the last
        if not isinstance(part, TextPart) and part.get("call_id") == call_id:
            return part
    return None


def _end(call: Mapping[str, Any]) -> tuple[Any, Any]:
    return call["state"], call["result"]


def extends(fold: Content, content: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether a content continues what a fold has, so that only what is missing need be said."""
    last = len(fold.parts) - 1
    return last < len(content) and all(
        _continues(known, part, is_last=number == last)
        for number, (known, part) in enumerate(zip(fold.parts, content, strict=False))
    )


def _continues(known: TextPart | Mapping[str, Any], part: Mapping[str, Any], *, is_last: bool) -> bool:
    if isinstance(known, TextPart):
        return _continues_text(known, part, is_last=is_last)
    if part["type"] != known["type"] or part.get("call_id") != known.get("call_id"):
        return False
    if part["type"] in KEYED:
        return part["id"] == known["id"]
    if part["type"] != "tool_call":
        return part == known
    arguments, before = part["arguments"], known["arguments"]
    if isinstance(arguments, str) and not (isinstance(before, str) and arguments.startswith(before)):
        return False
    return known["state"] in ("streaming", "called") or part["state"] == known["state"]


def _continues_text(known: TextPart, part: Mapping[str, Any], *, is_last: bool) -> bool:
    told = known.annotations or []
    if part["type"] != known.kind or part.get("annotations", [])[: len(told)] != told:
        return False
    # A text that something follows has ended for the client: it cannot be said to have grown.
    return part["text"].startswith(known.text) if is_last else part["text"] == known.text


def encode_event(payload: Any, *, event: str | None = None) -> bytes:
    """Return one SSE event: LF only, one data line (clients split on either)."""
    head = b"" if event is None else b"event: %s\n" % event.encode()
    return b"%sdata: %s\n\n" % (head, without_line_breaks(jsontext.dumps(payload)))


def agent_of(call: Mapping[str, Any]) -> dict[str, Any]:
    """Return whose call it is, if a sub-agent makes it: its id, and the call that it works for."""
    return {name: call[name] for name in ("agent", "parent") if name in call}
