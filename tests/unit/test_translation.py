"""The base of all protocol adapters: what it says, in order, is enough to have the run's content."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mainstem_api.gateway.adapters.translator import Translator, encode_event
from mainstem_shared.eventlog.reading.frames import Frame
from mainstem_shared.model import contents, jsontext
from mainstem_shared.model.contents import Content
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.events import Entry, Type
from support.models import goldens
from support.models.emitting import SCRIPTS, recorded


class Listener(Translator):
    """A client that knows nothing but what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[dict[str, Any]] = []
        self.told: list[str] = []
        self.growing: dict[str, Any] | None = None

    def text_began(self, part: int, kind: str) -> None:
        assert self.growing is None
        self.growing = {"type": kind, "text": ""}
        self.parts.append(self.growing)

    def text_grew(self, part: int, kind: str, text: str) -> None:
        assert text
        assert self.growing is not None
        self.growing["text"] += text

    def text_ended(self, part: int, kind: str, text: str) -> None:
        assert self.growing is not None
        assert (self.growing["type"], self.growing["text"]) == (kind, text)
        self.growing = None

    def call_began(self, call: Any) -> None:
        assert self.growing is None
        assert call["call_id"] not in [part.get("call_id") for part in self.parts]
        fields = {"arguments": "", "result": None, "state": "streaming"}
        self.parts.append({"type": "tool_call", "call_id": call["call_id"], "name": call["name"], **fields})

    def arguments_grew(self, call: Any, text: str) -> None:
        part = self.part(call)
        if not isinstance(part["arguments"], str):
            part["arguments"] = ""  # it is called anew
        part["arguments"] += text
        part["state"] = call["state"]

    def call_ready(self, call: Any) -> None:
        self.part(call).update(arguments=call["arguments"], state=call["state"], result=call["result"])

    def call_ended(self, call: Any) -> None:
        self.part(call).update(state=call["state"], result=call["result"])

    def part_set(self, part: Any, *, again: bool) -> None:
        assert self.growing is None or again
        known = [old for old in self.parts if (old["type"], old.get("id")) == (part["type"], part["id"])]
        assert bool(known) is again
        if again:
            known[0].update(part)
        else:
            self.parts.append(dict(part))

    def annotated(self, annotation: Any) -> None:
        last = [part for part in self.parts if part["type"] == "text"][-1]
        last["annotations"] = [*last.get("annotations", ()), annotation]

    def output_changed(self, value: Any) -> None:
        self.told.append("output")

    def rewound(self) -> None:
        self.parts, self.growing = [], None
        self.told.append("rewound")

    def asked(self, action: Any) -> None:
        self.told.append("asked")

    def decided(self, action: Any, decisions: Any, *, expired: bool) -> None:
        self.told.append("decided")

    def rested(self, action: Any) -> None:
        self.told.append("rested")

    def finished(self, outcome: Any) -> None:
        assert self.growing is None
        self.told.append(outcome["status"])

    def part(self, call: Any) -> dict[str, Any]:
        return next(part for part in self.parts if part.get("call_id") == call["call_id"])


def tell(listener: Listener, *entries: Entry) -> None:
    listener.take([Frame(entry) for entry in entries])


def state(kind: Type, entries: list[Entry]) -> Entry:
    dumped = jsontext.dumps({"prev": "1-0", **contents.fold(entries).dump()})
    return Entry(Cursor(3, 0), kind, dumped)


def once(script: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The script without calls that begin anew, which engines do only to complete or edit one."""
    seen: set[Any] = set()
    kept = []
    for step in script:
        if step[0] in ("call", "stream"):
            if step[1] in seen:
                continue
            seen.add(step[1])
        kept.append(step)
    return kept


@given(SCRIPTS)
def test_what_it_says_is_the_content(script: list[tuple[Any, ...]]):
    """Texts, reasoning and tool calls: a client that only hears of changes has what the fold has."""
    entries = recorded(once(script))
    listener = Listener()
    tell(listener, *entries)
    assert listener.parts == contents.fold(entries).dump()["content"]
    assert listener.fold.dump()["content"] == listener.parts


@given(SCRIPTS, st.data())
def test_a_state_brings_what_is_missing(script: list[tuple[Any, ...]], data: st.DataObject):
    """A snapshot of later is said as the change it is, without taking anything back."""
    entries = recorded(once(script))
    cut = data.draw(st.integers(0, len(entries)))
    then = data.draw(st.integers(cut, len(entries)))
    listener = Listener()
    tell(listener, *entries[:cut], state(Type.SNAPSHOT, entries[:then]), *entries[then:])
    assert listener.parts == contents.fold(entries).dump()["content"]
    assert "rewound" not in listener.told


@example(before=[("stream", "c1"), ("result", "c1", None)], after=[("stream", "c1")], kind=Type.SNAPSHOT)
@example(
    before=[("text", "0"), ("call", "c1", {})], after=[("text", "00"), ("call", "c1", {})], kind=Type.SNAPSHOT
)
@given(SCRIPTS, SCRIPTS, st.sampled_from([Type.SNAPSHOT, Type.RESYNC, Type.RESTARTED, Type.FINISHED]))
def test_any_state_may_follow_anything(
    before: list[tuple[Any, ...]], after: list[tuple[Any, ...]], kind: Type
):
    """A lost tail, a restart, another content altogether: the client has the new one."""
    entries = recorded(once(after))
    listener = Listener()
    final = state(kind, entries)
    if kind is Type.FINISHED:
        final = final._replace(data=final.data[:-1] + b',"status":"succeeded"}')
    tell(listener, *recorded(once(before)), final)
    assert listener.parts == contents.fold(entries).dump()["content"]
    assert listener.over is (kind is Type.FINISHED)


@pytest.mark.parametrize("log", goldens.LOGS)
def test_a_reader_of_a_recorded_log_has_its_content(log: str):
    """Every recorded log, as one client hears it."""
    listener = Listener()
    goldens.translate(listener, goldens.frames(log))
    fold = Content()
    for frame in goldens.frames(log):
        fold.apply(frame.type, frame.payload())
    assert listener.parts == fold.dump()["content"]
    assert listener.over
    assert listener.told[-1] in ("rested", "succeeded", "failed", "aborted")


def test_it_rests_only_at_a_pause_that_lasts():
    """A pause in the past is passed over; one that is still there ends the stream."""
    past = Listener()
    goldens.translate(past, goldens.frames("decided"))
    assert past.told == ["asked", "decided", "succeeded"]
    now = Listener()
    now.take(goldens.frames("paused"))
    assert (now.resting, now.over) == (True, False)
    now.rest()
    assert (now.told, now.over) == (["asked", "rested"], True)


def test_an_event_is_one_line_for_every_reader():
    """What some clients take for line breaks is escaped; halves of surrogate pairs pass."""
    assert encode_event({"a": "x\u2028y\x85\n"}) == b'data: {"a":"x\\u2028y\\u0085\\n"}\n\n'
    assert encode_event({"a": "\ud83d"}, event="e") == b'event: e\ndata: {"a":"\\ud83d"}\n\n'
