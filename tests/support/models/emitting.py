"""What engines emit, as hypothesis strategies and as a model: a second opinion on what must come out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from hypothesis import strategies as st

from mainstem_shared.model import jsontext
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.events import Entry, Type

TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
CALLS = st.sampled_from(["c1", "c2", "c3"])
JSON = st.recursive(
    st.none() | st.integers(-5, 5) | TEXTS,
    lambda x: st.lists(x, max_size=2) | st.dictionaries(TEXTS, x, max_size=2),
)
STEPS = st.one_of(
    st.tuples(st.just("text"), TEXTS),
    st.tuples(st.just("reasoning"), TEXTS),
    st.tuples(st.just("call"), CALLS, st.dictionaries(TEXTS, JSON, max_size=2)),
    st.tuples(st.just("stream"), CALLS),
    st.tuples(st.just("arguments"), CALLS, TEXTS),
    st.tuples(st.just("result"), CALLS, JSON),
    st.tuples(st.just("step"), st.sampled_from(["s1", "s2"])),
    st.tuples(st.just("usage"), st.integers(0, 9)),
    st.tuples(st.just("title"), TEXTS),
    st.tuples(st.just("action"), st.booleans()),
    st.tuples(st.just("agent"), TEXTS),
    st.tuples(st.just("context"), st.integers(0, 9)),
    st.tuples(st.just("custom"), JSON),
    st.tuples(st.just("refusal"), TEXTS),
    st.tuples(st.just("data"), st.sampled_from(["d1", "d2"]), JSON),
    st.tuples(st.just("source"), st.sampled_from(["d1", "d2"])),
    st.tuples(st.just("annotate"), TEXTS),
    st.tuples(st.just("output"), JSON),
    st.tuples(st.just("finish"), TEXTS),
)
SCRIPTS = st.lists(STEPS, max_size=30)


class Emits(Protocol):
    """A channel, or whatever stands in for one."""

    def text(self, kind: Type, text: str) -> None: ...

    def emit(self, kind: str, payload: dict[str, Any]) -> None: ...


def perform(step: tuple[Any, ...], out: Emits) -> None:
    """Emit one step of a script."""
    match step:
        case "text", text:
            out.text(Type.MESSAGE_DELTA, text)
        case "reasoning", text:
            out.text(Type.REASONING_DELTA, text)
        case "refusal", text:
            out.text(Type.REFUSAL_DELTA, text)
        case _:
            for kind, payload in events_of(step):
                out.emit(kind, payload)


def events_of(step: tuple[Any, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The events, other than texts, of one step of a script."""
    match step:
        case "call", call, arguments:
            yield Type.STEP_STARTED, _started(call, "tool_call") | {"arguments": arguments}
        case "stream", call:
            yield Type.STEP_STARTED, _started(call, "tool_call") | {"arguments": ""}
        case "arguments", call, text:
            yield Type.STEP_DELTA, {"step_id": call, "arguments": text}
        case "result", call, result:
            yield Type.STEP_COMPLETED, {"step_id": call, "state": "completed", "result": result, "at": 2}
        case "step", step_id:
            yield Type.STEP_STARTED, _started(step_id, "step")
        case "usage", tokens:
            yield Type.USAGE, {"input_tokens": tokens}
        case "title", title:
            yield Type.TITLE, {"title": title}
        case "action", opens:
            yield (Type.APPROVAL_REQUIRED, {"action": {"id": "a"}}) if opens else (Type.APPROVAL_RESOLVED, {})
        case "agent", name:
            yield Type.AGENT_UPDATED, {"name": name}
        case "context", used:
            yield Type.CONTEXT_USAGE, {"used": used}
        case "custom", data:
            yield Type.CUSTOM, {"name": "n", "data": data}
        case "data", key, value:
            yield Type.PART, {"part": _data(key, value)}
        case "source", key:
            yield Type.PART, {"part": {"type": "source", "id": key, "url": key}}
        case "annotate", text:
            yield Type.ANNOTATION, {"annotation": {"title": text}}
        case "output", value:
            yield Type.OUTPUT, {"value": value}
        case "finish", reason:
            yield Type.CUSTOM, {"name": "finish", "data": {"finish_reason": reason}}
        case _:
            raise AssertionError(step)


def _data(key: str, value: Any) -> dict[str, Any]:
    return {"type": "data", "id": key, "name": "n", "value": value}


def _started(step_id: str, kind: str) -> dict[str, Any]:
    return {"step_id": step_id, "kind": kind, "name": f"name of {step_id}", "at": 1}


class Recorder:
    """Turns a script into log entries, one per emission, numbering parts as the channel must."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.parts: list[str] = []

    def text(self, kind: Type, text: str) -> None:
        if text:
            if not self.parts or self.parts[-1] != kind:
                self.parts.append(kind)
            self._add(kind, {"part": len(self.parts) - 1, "text": text})

    def emit(self, kind: str, payload: dict[str, Any]) -> None:
        if (
            kind == Type.STEP_STARTED
            and payload["kind"] == "tool_call"
            and payload["step_id"] not in self.parts
        ):
            self.parts.append(payload["step_id"])
        elif kind == Type.PART:
            key = "{type} {id}".format_map(payload["part"])
            if key not in self.parts:
                self.parts.append(key)
        self._add(kind, payload)

    def _add(self, kind: str, payload: dict[str, Any]) -> None:
        cursor = Cursor(2, len(self.entries) + 1)
        self.entries.append(Entry(cursor=cursor, type=kind, data=jsontext.dumps(payload)))


def recorded(script: list[tuple[Any, ...]]) -> list[Entry]:
    recorder = Recorder()
    for step in script:
        perform(step, recorder)
    return recorder.entries


class Model:
    """The content that a script must lead to, by the contract's words alone."""

    def __init__(self) -> None:
        self.content: list[dict[str, Any]] = []
        self.title: str | None = None
        self.usage: dict[str, int] | None = None

    def follow(self, step: tuple[Any, ...]) -> None:
        match step:
            case ("text" | "reasoning" | "refusal") as kind, text:
                self._text(kind, text)
            case "call", call, arguments:
                self._call(call, arguments=arguments, state="called")
            case "stream", call:
                self._call(call, arguments="", state="streaming")
            case "arguments", call, text:
                part = self._part(call)
                if part is not None and isinstance(part["arguments"], str):
                    part["arguments"] += text
            case "result", call, result:
                part = self._part(call)
                if part is not None:
                    part.update(state="completed", result=result)
            case "data", key, value:
                self._whole(_data(key, value))
            case "source", key:
                self._whole({"type": "source", "id": key, "url": key})
            case "annotate", text:
                for part in reversed(self.content):
                    if part["type"] == "text":
                        part.setdefault("annotations", []).append({"title": text})
                        break
            case "title", title:
                self.title = title
            case "usage", tokens:
                self.usage = {"input_tokens": tokens}
            case _:
                pass

    def _text(self, kind: str, text: str) -> None:
        if text and self.content and self.content[-1]["type"] == kind:
            self.content[-1]["text"] += text
        elif text:
            self.content.append({"type": kind, "text": text})

    def _whole(self, made: dict[str, Any]) -> None:
        for part in self.content:
            if (part["type"], part.get("id")) == (made["type"], made["id"]):
                part.update(made)
                return
        self.content.append(made)

    def _part(self, call: str) -> dict[str, Any] | None:
        return next((part for part in self.content if part.get("call_id") == call), None)

    def _call(self, call: str, **fields: Any) -> None:
        made = {"type": "tool_call", "call_id": call, "name": f"name of {call}", "result": None, **fields}
        part = self._part(call)
        if part is None:
            self.content.append(made)
        else:
            part.update(made)
