"""The cursor algebra, attacked with generated logs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstem_shared import errors
from mainstem_shared.model import cursors
from mainstem_shared.model.cursors import START, Cursor, follows

EPOCH_LENGTHS = st.lists(
    st.tuples(st.integers(min_value=1, max_value=3), st.integers(min_value=0, max_value=6)),
    min_size=1,
    max_size=6,
)
"""For each epoch: how far it is after the one before, and how many events follow its control entry."""


def log_of(lengths: list[tuple[int, int]]) -> list[tuple[Cursor, Cursor | None]]:
    """A log as the writer and the verbs make it: ids, and what control entries name as `prev`."""
    log: list[tuple[Cursor, Cursor | None]] = []
    top, epoch = START, 0
    for step, events in lengths:
        epoch += step
        log.append((Cursor(epoch, 0), top))
        log.extend((Cursor(epoch, seq), None) for seq in range(1, events + 1))
        top = log[-1][0]
    return log


@given(EPOCH_LENGTHS)
def test_each_entry_of_a_log_follows_the_one_before(lengths: list[tuple[int, int]]):
    """Nothing is reported missing from a log that is whole."""
    cursor = START
    for entry, prev in log_of(lengths):
        assert follows(cursor, entry, prev)
        assert entry > cursor
        cursor = entry


@given(EPOCH_LENGTHS)
def test_follows_is_exactly_next(lengths: list[tuple[int, int]]):
    """Of all pairs of a log's entries, only neighbours follow each other: every hole shows."""
    log = log_of(lengths)
    places = [START, *(cursor for cursor, _ in log)]
    for at, cursor in enumerate(places):
        for number, (entry, prev) in enumerate(log):
            assert follows(cursor, entry, prev) == (number == at)


@given(EPOCH_LENGTHS, st.data())
def test_a_hole_is_seen_at_its_first_entry(lengths: list[tuple[int, int]], data: st.DataObject):
    """Whatever is missing from a log, a reader notices at the first entry after each hole."""
    log = log_of(lengths)
    kept = data.draw(st.lists(st.booleans(), min_size=len(log), max_size=len(log)))
    cursor, missing = START, False
    for (entry, prev), is_kept in zip(log, kept, strict=True):
        if not is_kept:
            missing = True
            continue
        assert follows(cursor, entry, prev) is not missing
        cursor, missing = entry, False


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_a_cursor_is_read_as_it_is_written(epoch: int, seq: int):
    """Text and bytes, over the whole range that the server has."""
    cursor = Cursor(epoch, seq)
    assert cursors.parse(str(cursor)) == cursors.parse(str(cursor).encode()) == cursor


@pytest.mark.parametrize(
    "text",
    [
        "", "-", "1", "1-", "-1", "1-2-3", "01-2", "1-02", "+1-2", "1 -2", " 1-2", "1-2\n", "1_0-2", "$", "*",
        "1-*", "\u0661-\u0662",
        "18446744073709551616-0", "0-18446744073709551616", "1" * 5000 + "-0", "0x1-0", "1.0-1",
    ],
)  # fmt: skip
def test_what_no_server_spells_is_refused(text: str):
    """Hostile cursors end here, with a short message, and never reach the store."""
    with pytest.raises(errors.InvalidCursor) as refusal:
        cursors.parse(text)
    assert len(str(refusal.value)) < 300
    with pytest.raises(errors.InvalidCursor):
        cursors.parse(text.encode())


@given(st.text())
def test_parse_accepts_only_its_own_spelling(text: str):
    """Whatever is accepted is spelled the same by the cursor it became."""
    try:
        cursor = cursors.parse(text)
    except errors.InvalidCursor:
        return
    assert str(cursor) == text


@given(st.binary())
def test_parse_of_bytes_raises_nothing_else(data: bytes):
    """Bytes that are no ASCII are refused, not crashed on."""
    try:
        cursor = cursors.parse(data)
    except errors.InvalidCursor:
        return
    assert str(cursor).encode() == data


def test_cursors_sort_as_the_server_sorts():
    """By epoch, then by sequence number; as numbers, not as text."""
    assert Cursor(2, 10) > Cursor(2, 9) > Cursor(1, 100) > START
    assert Cursor(2, 0).is_control
    assert not Cursor(2, 1).is_control
    assert Cursor(2, 0).next() == Cursor(2, 1)
