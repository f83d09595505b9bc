"""Folding: snapshot and tail lead to the same bytes as all events, for whatever engines emit."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstem_shared.model import contents, events, jsontext
from mainstem_shared.model.contents import Content
from mainstem_shared.model.events import Entry, Type
from support.models.emitting import SCRIPTS, Model, recorded


@given(SCRIPTS)
def test_the_fold_is_what_the_engine_said(script: list[tuple[Any, ...]]):
    """Content, title and usage are those of a model that knows nothing of events."""
    model = Model()
    for step in script:
        model.follow(step)
    fold = contents.fold(recorded(script))
    assert fold.dump()["content"] == model.content
    assert (fold.title, fold.usage) == (model.title, model.usage)
    assert fold.text == events.text_of(model.content)


@given(SCRIPTS, st.data())
def test_snapshot_and_tail_are_the_whole(script: list[tuple[Any, ...]], data: st.DataObject):
    """Cut anywhere, store the head as JSON, fold the tail onto it: the same bytes."""
    entries = recorded(script)
    cut = data.draw(st.integers(0, len(entries)))
    state = jsontext.loads(jsontext.dumps(contents.fold(entries[:cut]).dump()))
    assert jsontext.dumps(contents.fold(entries[cut:], state).dump()) == jsontext.dumps(
        contents.fold(entries).dump()
    )


def test_a_step_that_began_before_a_snapshot_ends_after_it():
    """And a call gets its result: each is the one that began, once."""
    began = [
        (Type.STEP_STARTED, {"step_id": "s", "kind": "step", "name": "n", "at": 1}),
        (Type.STEP_STARTED, {"step_id": "c", "kind": "tool_call", "name": "f", "arguments": {}, "at": 1}),
    ]
    head = Content()
    for kind, data in began:
        head.apply(kind, data)
    tail = contents.fold([], jsontext.loads(jsontext.dumps(head.dump())))
    for step_id in "sc":
        data = {"step_id": step_id, "state": "completed", "result": 1, "at": 2}
        tail.apply(Type.STEP_COMPLETED, data)
    assert [(step["step_id"], step["state"]) for step in tail.steps] == [
        ("s", "completed"),
        ("c", "completed"),
    ]
    assert [(part["call_id"], part["state"], part["result"]) for part in tail.dump()["content"]] == [
        ("c", "completed", 1)
    ]


@given(SCRIPTS)
def test_a_state_event_replaces_everything(script: list[tuple[Any, ...]]):
    """A resync or a final event folded onto anything is what was dumped into it."""
    state = contents.fold(recorded(script)).dump()
    fold = Content()
    fold.apply(Type.MESSAGE_DELTA, {"part": 0, "text": "something else"})
    for kind in (Type.RESYNC, Type.SNAPSHOT, Type.FINISHED):
        fold.apply(kind, jsontext.loads(jsontext.dumps({"prev": "1-0", "text": "", **state})))
        assert jsontext.dumps(fold.dump()) == jsontext.dumps(state)


@given(SCRIPTS)
def test_size_is_about_the_payload(script: list[tuple[Any, ...]]):
    """What the content limit counts is within the content's own size: re-sent arguments count once."""
    entries = recorded(script)
    size = contents.fold(entries).size
    content = len(jsontext.dumps(contents.fold(entries).dump()["content"]))
    results = sum(len(e.data) for e in entries if e.type == Type.STEP_COMPLETED)
    assert 0 <= size <= content + results + 8


def test_unknown_events_and_parts_change_nothing():
    """A reader of this version folds the logs of a later one."""
    fold = Content()
    fold.apply("later.invention", {"x": 1})
    assert fold.dump() == Content().dump()
    state = {**Content().dump(), "content": [{"type": "image", "url": "u"}, {"type": "text", "text": "t"}]}
    fold.load(jsontext.loads(jsontext.dumps(state)))
    assert fold.dump() == state
    assert fold.text == "t"


def test_open_calls_are_those_without_a_result():
    """Streaming and called ones; not completed, failed or aborted ones."""
    script = [("stream", "c1"), ("call", "c2", {}), ("call", "c3", {}), ("result", "c3", 1)]
    assert contents.fold(recorded(script)).open_calls == ["c1", "c2"]


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (Type.MESSAGE_DELTA, {"part": 0, "text": "x"}),
        (Type.FINISHED, {"content": []}),
        (Type.STEP_STARTED, {"kind": "tool_call", "name": "n", "at": 1, "arguments": {}}),
        (Type.STEP_STARTED, {"step_id": "s", "kind": "tool_call", "name": "n", "at": 1}),
        (Type.STEP_STARTED, {"step_id": "s", "kind": "step", "name": "n", "at": "now"}),
        (Type.STEP_STARTED, {"step_id": "s", "kind": "step", "name": "n", "at": 10**18}),
        (Type.STEP_DELTA, {"step_id": "s", "arguments": {}}),
        (Type.STEP_COMPLETED, {"step_id": "s", "at": 1}),
        (Type.TITLE, {"title": None}),
        (Type.APPROVAL_REQUIRED, {}),
        (Type.PART, {}),
        (Type.PART, {"part": {"type": "text", "id": "x"}}),
        (Type.PART, {"part": {"type": "data", "id": ""}}),
        (Type.PART, {"part": {"type": "data"}}),
        (Type.ANNOTATION, {"annotation": "x"}),
        (Type.OUTPUT, {}),
        (Type.CUSTOM, ["not an object"]),
    ],
)
def test_payloads_that_no_fold_can_take_are_refused(kind: str, payload: Any):
    """Where they are emitted, with a sentence that says what is missing."""
    with pytest.raises(ValueError, match=kind.replace(".", r"\.")):
        contents.check(kind, payload)


@given(SCRIPTS)
def test_the_weight_bounds_the_whole_state(script: list[tuple[Any, ...]]):
    """No event adds more than was weighed before it was let in, and the state has no more bytes than its weight."""
    fold, admitted = Content(), 0
    for entry in recorded(script):
        payload, parts, before = entry.payload(), len(fold.parts), fold.weight
        fold.apply_entry(entry)
        texts = contents.PART_SIZE if entry.type in contents.type_of_delta and len(fold.parts) > parts else 0
        allowed = contents.weight_of(entry.type, payload, len(entry.data)) + texts
        assert fold.weight - before <= allowed
        admitted += allowed
    assert len(jsontext.dumps(fold.dump())) <= admitted + EMPTY + sum(map(_escaped, recorded(script)))
    again = contents.fold([], jsontext.dumps(fold.dump()))
    assert len(jsontext.dumps(again.dump())) <= again.weight + EMPTY


EMPTY = len(jsontext.dumps(Content().dump())) + 200
"""What every state has, and the names of members that it may have."""


def _escaped(entry: Entry) -> int:
    """Characters that JSON spells longer than UTF-8 does: the limit counts text as it is read."""
    return 5 * sum(ord(char) < 0x20 or char in '"\\' or ord(char) > 0x7E for char in entry.data.decode())
