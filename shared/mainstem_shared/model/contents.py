"""Folds a run's events into its content; nothing else knows what an event does to it.

The worker folds what it writes, readers fold snapshot and tail; both reach the same bytes. A fold's JSON
(`dump`) is what snapshots, resyncs and the final event store.
"""

# what clients and providers send is checked by models or by hand, not by types.
# pyright: reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Final, cast

from mainstem_shared.model import jsontext, usage
from mainstem_shared.model.events import STATES, Entry, Type
from mainstem_shared.model.runs import rfc3339


class TextPart:
    """A text, reasoning or refusal under construction: pieces are joined only when somebody looks."""

    __slots__ = ("_pieces", "annotations", "kind")

    def __init__(self, kind: str, text: str = "", annotations: list[dict[str, Any]] | None = None) -> None:
        self.kind = kind
        self.annotations = annotations
        self._pieces = [text] if text else []

    def append(self, text: str) -> None:
        self._pieces.append(text)

    @property
    def text(self) -> str:
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0] if self._pieces else ""

    def dump(self) -> dict[str, Any]:
        noted = {} if self.annotations is None else {"annotations": self.annotations}
        return {"type": self.kind, **noted, "text": self.text}  # text last: snapshots are extended there


PART_SIZE: Final = 40
"""Bytes of JSON that a text part takes beside its text; the first one is free of charge."""
STEP_SIZE: Final = 160
"""Bytes of JSON that a step takes beside its id and its name, completed."""
CALL_SIZE: Final = 120
"""Bytes of JSON that a tool call takes beside its id, its name, its arguments and its result."""

type_of_delta: dict[str, str] = {
    Type.MESSAGE_DELTA: "text",
    Type.REASONING_DELTA: "reasoning",
    Type.REFUSAL_DELTA: "refusal",
}
TEXTS: Final = frozenset(type_of_delta.values())
"""Types of parts that grow."""
KEYED: Final = frozenset({"data", "source", "file"})
"""Types of parts that come whole, and that a later one with the same id replaces."""
_KEPT: Final = ("context_usage", "agent", "output", "finish_reason")
"""Members of a state of which a run has only the latest."""


class Content:
    """A run's content as of some cursor.

    `size` is the payload bytes folded so far, which snapshots are paced by. CONTENT_LIMIT bounds `weight`:
    these and what the state takes around them.

    `damaged` tells that an entry or a state could not be read: what it said is missing.
    """

    def __init__(self) -> None:
        self.parts: list[TextPart | dict[str, Any]] = []
        self.steps: list[dict[str, Any]] = []
        self.usage: dict[str, Any] | None = None
        self.title: str | None = None
        self.action: dict[str, Any] | None = None
        self.extra: dict[str, Any] = {}
        self.inputs: list[dict[str, Any]] = []
        self.unread: list[dict[str, Any]] = []
        self.size = 0
        self.damaged = False
        self._beside = 0
        self._singles: dict[str, int] = {}
        self._calls: dict[str, dict[str, Any]] = {}
        self._steps: dict[str, dict[str, Any]] = {}
        self._keyed: dict[tuple[str, str], dict[str, Any]] = {}

    # -- reading

    @property
    def weight(self) -> int:
        """About how many bytes of JSON the state has: payloads, and the steps and titles around them."""
        return self.size + self._beside

    def dump(self) -> dict[str, Any]:
        """Return the state as the JSON-able mapping that snapshots store."""
        content = [part.dump() if isinstance(part, TextPart) else part for part in self.parts]
        return {
            "content": content,
            "steps": self.steps,
            "usage": self.usage,
            "title": self.title,
            "action": self.action,
            **self.extra,
            **({"inputs": self.inputs} if self.inputs else {}),
        }

    @property
    def text(self) -> str:
        """All text parts, concatenated."""
        return "".join(p.text for p in self.parts if isinstance(p, TextPart) and p.kind == "text")

    @property
    def open_calls(self) -> list[str]:
        """Ids of tool calls that have no result yet."""
        return [call_id for call_id, part in self._calls.items() if part["state"] in ("streaming", "called")]

    @property
    def interrupted(self) -> bool:
        """Whether a user's input stands behind the last part: what follows opens a new one."""
        return bool(self.inputs) and self.inputs[-1]["part"] == len(self.parts)

    # -- folding

    def load(self, state: dict[str, Any]) -> None:
        """Replace everything by a dumped state."""
        self.__init__()  # pyright: ignore[reportUnnecessaryComparison]
        for part in state["content"]:
            if part["type"] in TEXTS:
                self.parts.append(TextPart(part["type"], part["text"], part.get("annotations")))
            else:
                self.parts.append(part)
                if part["type"] == "tool_call":
                    self._calls[part["call_id"]] = part
                elif part["type"] in KEYED:
                    self._keyed[key_of(part)] = part
        self.steps = state["steps"]
        self._steps = {step["step_id"]: step for step in self.steps}
        self.usage, self.title, self.action = state["usage"], state["title"], state["action"]
        self.extra = {key: value for key, value in state.items() if key in _KEPT}
        self.inputs = state.get("inputs", [])
        self.unread = state.get("unread", [])
        self.size = len(jsontext.dumps(state["content"])) + _size_of_inputs(self.inputs)
        self._beside = len(jsontext.dumps(self.steps))
        self._weigh_usage((self.usage or {}).get("calls", []))
        for name, value in (("title", self.title), ("action", self.action)):
            self._weigh(name, value)
        for name, value in self.extra.items():
            self._weigh(name, value)

    def restore(self, state: bytes | dict[str, Any]) -> None:
        """Replace everything by a dumped or encoded state; one that cannot be read leaves nothing."""
        try:
            self.load(jsontext.loads(state) if isinstance(state, bytes) else state)
        except UNREADABLE:
            self.__init__()
            self.damaged = True

    def _weigh(self, name: str, value: Any) -> None:
        """Count a value of which a run has only the latest."""
        size = 0 if value is None else len(jsontext.dumps(value))
        self._beside += size - self._singles.get(name, 0)
        self._singles[name] = size

    def _weigh_usage(self, calls: list[Any]) -> None:
        """Count the latest sums, and what came to the list of calls: it only grows."""
        self._weigh("usage", self.usage and {k: v for k, v in self.usage.items() if k != "calls"})
        self._beside += sum(len(jsontext.dumps(call)) for call in calls)

    @property
    def keys(self) -> set[tuple[str, str]]:
        """Type and id of all parts that have one: a later event about it opens no other part."""
        return {*self._keyed, *(("tool_call", call_id) for call_id in self._calls)}

    @property
    def calls(self) -> Iterable[str]:
        """Ids of all tool calls in the content."""
        return self._calls.keys()

    def append_text(self, kind: str, part: int, text: str, *, size: int | None = None) -> None:
        """Append to text or reasoning part number `part`; a number past the end opens a new part."""
        if part < len(self.parts):
            target = self.parts[part]
            if not isinstance(target, TextPart):
                raise ValueError(f"part {part} is no text")
        elif (last := self._last_text(kind) if self.damaged else None) is not None:
            target = last  # the parts before it are missing: else every delta would open another one
        else:
            target = TextPart(kind)
            self._beside += PART_SIZE if self.parts else 0
            self.parts.append(target)
        target.append(text)
        self.size += len(text) if size is None else size

    def _last_text(self, kind: str) -> TextPart | None:
        last = self.parts[-1] if self.parts else None
        return last if isinstance(last, TextPart) and last.kind == kind else None

    def apply(self, kind: str, data: dict[str, Any]) -> None:
        """Fold one event's payload. Unknown types change nothing."""
        if kind in type_of_delta:
            self.append_text(type_of_delta[kind], data["part"], data["text"])
        elif kind in STATES or (kind == Type.RESTARTED and "content" in data):
            self.load({"steps": [], "usage": None, "title": None, "action": None, **data})
        elif handler := self._HANDLERS.get(kind):
            handler(self, data)

    def apply_entry(self, entry: Entry) -> None:
        """Fold one log entry; one that cannot be read changes nothing but `damaged`."""
        try:
            self.apply(entry.type, entry.payload())
        except UNREADABLE:
            self.damaged = True

    def _step_started(self, data: dict[str, Any]) -> None:
        step_id, call = data["step_id"], data["kind"] == "tool_call"
        step = {
            "step_id": step_id,
            "kind": data["kind"],
            "name": data["name"],
            "state": "running",
            "started_at": rfc3339(data["at"]),
            "completed_at": None,
            **_agent_of(data),
        }
        if step_id in self._steps:
            self._steps[step_id].update(step)
        else:
            self.steps.append(step)
            self._steps[step_id] = step
            self._beside += STEP_SIZE + _size_of_names(data)
        if call:
            self._call_started(step_id, data)

    def _call_started(self, call_id: str, data: dict[str, Any]) -> None:
        arguments = data["arguments"]
        part = {
            "type": "tool_call",
            "call_id": call_id,
            "name": data["name"],
            "arguments": arguments,
            "result": None,
            "state": "streaming" if isinstance(arguments, str) else "called",
            **_agent_of(data),
        }
        if known := self._calls.get(call_id):
            self.size -= len(jsontext.dumps(known))
            known.update(part)
        else:
            self.parts.append(part)
            self._calls[call_id] = part
        self.size += len(jsontext.dumps(part))

    def _step_delta(self, data: dict[str, Any]) -> None:
        part = self._calls.get(data["step_id"])
        if part is not None and isinstance(part["arguments"], str):
            part["arguments"] += data["arguments"]
            self.size += utf8_size(data["arguments"])

    def _step_completed(self, data: dict[str, Any]) -> None:
        if step := self._steps.get(data["step_id"]):
            step["state"], step["completed_at"] = data["state"], rfc3339(data["at"])
        if part := self._calls.get(data["step_id"]):
            part["state"], part["result"] = data["state"], data.get("result")
            self.size += len(jsontext.dumps(part["result"]))

    def _part(self, data: dict[str, Any]) -> None:
        part = data["part"]
        size = len(jsontext.dumps(part))
        if (known := self._keyed.get(key_of(part))) is not None:
            size -= len(jsontext.dumps(known))
            known.clear()
            known.update(part)
        else:
            self.parts.append(part)
            self._keyed[key_of(part)] = part
        self.size += size

    def _annotation(self, data: dict[str, Any]) -> None:
        """Note something about the last text; without one there is nothing to note it about."""
        for part in reversed(self.parts):
            if isinstance(part, TextPart) and part.kind == "text":
                part.annotations = [*(part.annotations or ()), data["annotation"]]
                self.size += len(jsontext.dumps(data))
                return

    def _output(self, data: dict[str, Any]) -> None:
        self.extra["output"] = data["value"]
        self._weigh("output", data["value"])

    def _custom(self, data: dict[str, Any]) -> None:
        """Keep the reason to stop, which engines tell of as an event of their own; nothing else of those."""
        about = data.get("data")
        if data.get("name") == FINISH and isinstance(about, dict):
            reason = cast("dict[str, Any]", about).get("finish_reason")
            if isinstance(reason, str):
                self.extra["finish_reason"] = reason
                self._weigh("finish_reason", reason)

    def _usage(self, data: dict[str, Any]) -> None:
        self.usage = usage.folded(self.usage, data)
        self._weigh_usage([data["call"]] if "call" in data else [])

    def _title(self, data: dict[str, Any]) -> None:
        self.title = data["title"]
        self._weigh("title", self.title)

    def _approval_required(self, data: dict[str, Any]) -> None:
        self.action = data["action"]
        self._weigh("action", self.action)

    def _approval_closed(self, data: dict[str, Any]) -> None:
        del data
        self.action = None
        self._weigh("action", None)

    def _context_usage(self, data: dict[str, Any]) -> None:
        self.extra["context_usage"] = data
        self._weigh("context_usage", data)

    def _agent_updated(self, data: dict[str, Any]) -> None:
        self.extra["agent"] = data
        self._weigh("agent", data)

    def _input_accepted(self, data: dict[str, Any]) -> None:
        self.inputs.append({**data, "part": len(self.parts)})
        self.size += _size_of_inputs(self.inputs[-1:])

    _HANDLERS: ClassVar[dict[str, Callable[[Content, dict[str, Any]], None]]] = {
        Type.STEP_STARTED: _step_started,
        Type.STEP_DELTA: _step_delta,
        Type.STEP_COMPLETED: _step_completed,
        Type.PART: _part,
        Type.ANNOTATION: _annotation,
        Type.OUTPUT: _output,
        Type.CUSTOM: _custom,
        Type.USAGE: _usage,
        Type.TITLE: _title,
        Type.APPROVAL_REQUIRED: _approval_required,
        Type.APPROVAL_RESOLVED: _approval_closed,
        Type.APPROVAL_EXPIRED: _approval_closed,
        Type.CONTEXT_USAGE: _context_usage,
        Type.AGENT_UPDATED: _agent_updated,
        Type.INPUT_ACCEPTED: _input_accepted,
    }


def key_of(part: Mapping[str, Any]) -> tuple[str, str]:
    """Return what a part that comes whole is known by."""
    return part["type"], part["id"]


def opened_by(kind: str, payload: dict[str, Any]) -> tuple[str, str] | None:
    """Return type and id of the part that an event is about, if it opens one unless that is there."""
    if kind == Type.STEP_STARTED and payload["kind"] == "tool_call":
        return "tool_call", payload["step_id"]
    return key_of(payload["part"]) if kind == Type.PART else None


def utf8_size(text: str) -> int:
    """Return the bytes of a text in UTF-8, halves of surrogate pairs included."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def weight_of(kind: str, payload: dict[str, Any], size: int) -> int:
    """Return how much an event of `size` bytes of JSON may add to a content's weight, at most."""
    if kind == Type.STEP_STARTED:
        names = _size_of_names(payload)
        return STEP_SIZE + names + (CALL_SIZE + size if payload["kind"] == "tool_call" else 0)
    if kind == Type.ANNOTATION:
        return size + PART_SIZE  # the name of the list, once
    return size


def _agent_of(started: dict[str, Any]) -> dict[str, Any]:
    """Return who makes a step, if that is a sub-agent: its id, and the call that it works for."""
    return {name: started[name] for name in ("agent", "parent") if isinstance(started.get(name), str)}


def _size_of_names(started: dict[str, Any]) -> int:
    named, agent = [started["step_id"], started["name"]], _agent_of(started)
    return len(jsontext.dumps(named)) + (len(jsontext.dumps(agent)) if agent else 0)


def _size_of_inputs(inputs: list[dict[str, Any]]) -> int:
    return len(jsontext.dumps(inputs)) if inputs else 0


def fold(entries: Iterable[Entry], state: bytes | dict[str, Any] | None = None) -> Content:
    """Fold a snapshot's state, if any, and the entries after it; what cannot be read is left out.

    The result's `damaged` tells whether anything was.
    """
    result = Content()
    if state is not None:
        result.restore(state)
    for entry in entries:
        result.apply_entry(entry)
    return result


FINISH: Final = "finish"
"""The name of the engine's own event that says why a model stopped: `{"finish_reason", …}`."""

UNREADABLE: Final = (ValueError, KeyError, TypeError, AttributeError)
"""What folding raises for a payload that is damaged, or that no version of this code has written."""

LAST_MS: Final = 253_402_300_799_999
"""The end of the year 9999, the last time that RFC 3339 can express."""

_REQUIRED: Final[dict[str, tuple[tuple[str, type], ...]]] = {
    Type.STEP_STARTED: (("step_id", str), ("kind", str), ("name", str), ("at", int)),
    Type.STEP_DELTA: (("step_id", str), ("arguments", str)),
    Type.STEP_COMPLETED: (("step_id", str), ("state", str), ("at", int)),
    Type.TITLE: (("title", str),),
    Type.APPROVAL_REQUIRED: (("action", dict),),
    Type.PART: (("part", dict),),
    Type.ANNOTATION: (("annotation", dict),),
    Type.INPUT_ACCEPTED: (("input_id", str), ("text", str), ("sent_at", str)),
}


def check(kind: str, data: Any) -> dict[str, Any]:
    """Return an event's payload if every fold can take it: a mistake shows where it is made.

    Raises:
        ValueError: it cannot.
    """
    if kind in type_of_delta or kind in STATES:
        raise ValueError(f"{kind} is not emitted as an event: texts and states have ways of their own")
    if not isinstance(data, dict):
        raise ValueError(f"the payload of {kind} must be an object")  # noqa: TRY004 - one kind of refusal
    payload: dict[str, Any] = data
    for name, expected in _REQUIRED.get(kind, ()):
        if not isinstance(payload.get(name), expected):
            raise ValueError(f"the payload of {kind} needs {name!r} as {expected.__name__}")  # noqa: TRY004
    if ("at", int) in _REQUIRED.get(kind, ()) and not 0 <= payload["at"] <= LAST_MS:
        raise ValueError(f"the payload of {kind} needs 'at' in milliseconds since 1970")
    if kind == Type.OUTPUT and "value" not in payload:
        raise ValueError(f"the payload of {kind} needs 'value'")
    if kind == Type.PART:
        _check_part(payload["part"])
    if kind == Type.STEP_STARTED and payload["kind"] == "tool_call" and "arguments" not in payload:
        raise ValueError(f"the payload of {kind} needs 'arguments' for a tool call")
    return payload


def _check_part(part: dict[str, Any]) -> None:
    if part.get("type") not in KEYED or not isinstance(part.get("id"), str) or not part["id"]:
        raise ValueError(f"the payload of {Type.PART} needs a 'part' of type {sorted(KEYED)} with an 'id'")
