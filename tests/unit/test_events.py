"""Entries: how they are read, what they say of their predecessor, how they are presented."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstem_shared import errors
from mainstem_shared.model import events, jsontext
from mainstem_shared.model.cursors import START, Cursor
from mainstem_shared.model.events import EVENT_LIMIT, MERGE_LIMIT, Entry, Type
from support.models.emitting import TEXTS


def test_an_entry_is_read_from_either_form_of_a_reply():
    """A flat list, as scripts and raw connections return it, or a mapping, as redis-py does."""
    flat = events.entry(b"3-14", [b"d", b'{"part":0,"text":"x"}'])
    mapped = events.entry(b"3-14", {b"d": b'{"part":0,"text":"x"}'})
    assert (
        flat == mapped == Entry(cursor=Cursor(3, 14), type=Type.MESSAGE_DELTA, data=b'{"part":0,"text":"x"}')
    )
    assert flat.payload() == {"part": 0, "text": "x"}


@pytest.mark.parametrize("kind", [*Type, "later.invention"])
def test_a_type_survives_its_spelling(kind: str):
    """What is written under a field name is read as the same type; unknown types as they are."""
    assert events.entry(b"1-1", [events.field(kind).encode(), b"{}"]).type == kind


def test_field_names_are_unambiguous():
    """No two types share a field name, and no short code is a type."""
    assert len({events.field(kind) for kind in Type}) == len(Type)
    assert not {events.field(kind) for kind in Type if events.field(kind) != kind} & set(Type)


def test_only_control_entries_name_a_predecessor():
    """An engine cannot forge one: `prev` in an event's own payload means nothing."""
    control = events.entry(b"3-0", [b"run.sealed", b'{"prev":"2-7","cause":"x"}'])
    assert control.prev == Cursor(2, 7)
    assert control.follows(Cursor(2, 7))
    assert not control.follows(Cursor(2, 6))
    forged = events.entry(b"3-1", [b"custom", b'{"prev":"2-7","name":"x"}'])
    assert forged.prev is None
    assert not forged.follows(Cursor(2, 7))
    assert events.entry(b"1-0", [b"run.created", b'{"prev":"0-0"}']).follows(START)
    assert not events.entry(b"3-0", [b"run.sealed", b'{"cause":"x"}']).follows(Cursor(2, 7))


@given(st.lists(st.fixed_dictionaries({"type": st.sampled_from(["text", "reasoning"]), "text": TEXTS})))
def test_states_gain_their_text_and_nothing_else_changes(content: list[dict[str, str]]):
    """`text` is all text parts, in order; the stored members stay as they are."""
    state = {"content": content, "steps": [], "usage": None}
    data = jsontext.dumps(state)
    for kind in Type:
        shown = events.presented(kind, data)
        if kind in events.STATES:
            text = "".join(part["text"] for part in content if part["type"] == "text")
            assert jsontext.loads(shown) == {**state, "text": text}
        else:
            assert shown is data


def test_the_size_limit_is_inclusive():
    """Exactly the limit is accepted; one byte more is refused, with both numbers."""
    assert events.check_size(b"x" * EVENT_LIMIT)
    with pytest.raises(errors.EventTooLarge) as refusal:
        events.check_size(b"x" * (EVENT_LIMIT + 1))
    assert (refusal.value.size, refusal.value.limit) == (EVENT_LIMIT + 1, EVENT_LIMIT)


@pytest.mark.parametrize("character", ["\x01", "\ud83d", "😀", '"', "\\", "a"])
def test_a_full_merged_delta_fits_into_an_event(character: str):
    """The worst escapes of the worst characters stay under the limit of an entry."""
    assert len(jsontext.dumps({"part": 10**6, "text": character * MERGE_LIMIT})) <= EVENT_LIMIT
