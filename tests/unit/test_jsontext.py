"""JSON as it stands in the log: exact, compact, and forgiving towards what providers send."""

from __future__ import annotations

import functools
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstem_shared.model import jsontext

SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64) | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)
ANY_TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates included


@given(VALUES)
def test_values_survive(value: object):
    """What was encoded is decoded the same; browsers' JSON agrees; the text is one line of UTF-8."""
    data = jsontext.dumps(value)
    assert jsontext.loads(data) == json.loads(data) == value
    assert b"\n" not in data
    data.decode("utf-8")


@given(ANY_TEXT)
def test_any_string_is_encoded_as_valid_utf8_json(text: str):
    """Lone surrogates are written with escapes; the decoder brings them back (and joins halves that met)."""
    data = jsontext.dumps({"text": text})
    data.decode("utf-8")
    decoded = jsontext.loads(data)["text"]
    assert decoded.encode("utf-16", "surrogatepass") == text.encode("utf-16", "surrogatepass")


def test_halves_of_a_pair_join():
    """A provider that splits an escape sequence over two tokens still yields the character."""
    assert jsontext.loads(jsontext.dumps("\ud83d" + "\ude00")) == "😀"
    assert jsontext.loads(jsontext.dumps(["\ud83d", "\ude00"])) == ["\ud83d", "\ude00"]


@pytest.mark.parametrize("half", ["", "\ud83d"])
def test_a_surrogate_does_not_change_what_else_can_be_encoded(half: str):
    """Dates, tuples, and numbers that JSON lacks: the same text with and without a lone surrogate beside."""
    value = {"at": datetime(2026, 1, 2, tzinfo=UTC), "t": (1, 2), "n": float("nan"), "x": half}
    decoded = jsontext.loads(jsontext.dumps(value))
    assert decoded == {"at": "2026-01-02T00:00:00Z", "t": [1, 2], "n": None, "x": half}


def test_names_may_have_lone_surrogates_too():
    """A model's tool arguments can: they are kept like values, whatever stands beside them."""
    value = {"\ud83d": {"\ude00": "\udfff"}, 1: (float("nan"), datetime(2026, 1, 2, tzinfo=UTC))}
    decoded = jsontext.loads(jsontext.dumps(value))
    assert decoded == {"\ud83d": {"\ude00": "\udfff"}, "1": [None, "2026-01-02T00:00:00Z"]}
    with pytest.raises(ValueError, match="nested too deeply"):
        jsontext.dumps({"\ud83d": functools.reduce(lambda inner, _: [inner], range(300), 1)})


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_lacks_become_null(number: float):
    """No browser's JSON.parse meets NaN or Infinity."""
    assert jsontext.dumps({"n": number}) == b'{"n":null}'


@pytest.mark.parametrize("data", [b"", b"{", b"[1,]", b'{"a":1}x', b"\xff", b'"\xff"', b"'a'"])
def test_what_is_not_json_is_refused(data: bytes):
    """With a ValueError, whichever decoder found out."""
    with pytest.raises(ValueError):
        jsontext.loads(data)


MOST = jsontext.MOST_VALUES


@pytest.mark.parametrize(
    "text",
    [
        b"[" + b"[]," * MOST + b"[]]",
        b"[" + b"1," * MOST + b"1]",
        b"[" + b'"",' * MOST + b'""]',
        b'["' + b"," * MOST + b'",' + b"{}," * MOST + b"1]",
        b"[" + b'"\\\\",' * MOST + b'"",[]]',
        b"{" + b",".join(b'"%d":{}' % n for n in range(MOST)) + b"}",
    ],
)
def test_a_text_from_outside_has_so_many_values(text: bytes):
    """Told without making them; what trusted processes wrote is read whatever it has."""
    assert jsontext.has_more_values(text)
    assert jsontext.has_more_values(text.decode())
    with pytest.raises(ValueError, match="more than 250,000 values"):
        jsontext.checked(text)


@pytest.mark.parametrize(
    "text",
    [
        b"[" + b"1," * (MOST - 10) + b"1]",
        b'["' + b"a, [b] {c: d} " * MOST + b'"]',
        b'["' + b'\\",' * MOST + b'"]',
        b'["' + b"\\\\" * MOST + b'", "' + b"," * MOST + b'"]',
    ],
)
def test_what_stands_in_a_text_is_no_value(text: bytes):
    """Prose, code, and JSON in a string, with its quotes escaped."""
    assert not jsontext.has_more_values(text)
    assert not jsontext.has_more_values(text.decode())
    jsontext.checked(text)


@given(
    st.recursive(
        SCALARS | ANY_TEXT, lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner), max_leaves=9
    )
)
def test_any_value_is_made_well_formed(value: object):
    """What was valid Unicode is untouched; afterwards every encoder takes it, and once more changes nothing."""
    mended = jsontext.well_formed(value)
    json.dumps(mended, ensure_ascii=False).encode("utf-8")
    assert jsontext.well_formed(mended) == mended
    if _encodes(value):
        assert mended is value


def _encodes(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def test_halves_side_by_side_are_joined_and_halves_alone_are_replaced():
    """In texts and in names, at any depth."""
    assert jsontext.well_formed({"\ud83d\ude00": ["a\ud83d", "\ude00b", 1, None]}) == {
        "😀": ["a\ufffd", "\ufffdb", 1, None]
    }


@pytest.mark.parametrize("text", ['"\ud83d"', '{"a":"\ud83d\ude00"}', '"x\udfff"'])
def test_a_text_with_surrogates_in_it_is_decoded(text: str):
    """A `str` that holds halves is JSON too: never a TypeError."""
    assert jsontext.well_formed(jsontext.loads(text)) is not None
