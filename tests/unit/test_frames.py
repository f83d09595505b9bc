"""Frames, chains and batches: no entry passes over a hole, and none comes twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mainstem_shared.eventlog.reading.frames import Batch, Frame, chain
from mainstem_shared.model import jsontext
from mainstem_shared.model.cursors import START, Cursor
from mainstem_shared.model.events import Entry, Type


@st.composite
def logs(draw: st.DrawFn) -> list[Entry]:
    """A log without a hole: epochs that grow by any step, each opened by a control entry."""
    entries: list[Entry] = []
    cursor, epoch = START, 0
    for size in draw(st.lists(st.integers(0, 4), min_size=1, max_size=4)):
        epoch += draw(st.integers(1, 3))
        control = jsontext.dumps({"prev": str(cursor), "at": 1})
        entries.append(Entry(cursor=Cursor(epoch, 0), type=Type.STARTED, data=control))
        entries += [
            Entry(cursor=Cursor(epoch, seq), type=Type.TITLE, data=b'{"title":"t"}')
            for seq in range(1, size + 1)
        ]
        cursor = entries[-1].cursor
    return entries


@given(log=logs(), data=st.data())
def test_a_chain_takes_everything_after_a_cursor_and_stops_at_a_hole(log: list[Entry], data: st.DataObject):
    """From any event on; with any one entry missing, exactly those before it."""
    at = data.draw(st.integers(0, len(log) - 1))
    cursor = log[at - 1].cursor if at else START
    rest = log[at:]
    assert [frame.cursor for frame in chain(cursor, rest)] == [entry.cursor for entry in rest]
    missing = data.draw(st.integers(0, len(rest) - 1))
    holed = rest[:missing] + rest[missing + 1 :]
    assert len(chain(cursor, holed)) == missing


@given(log=logs(), data=st.data())
def test_a_batch_continues_exactly_the_readers_it_fits(log: list[Entry], data: st.DataObject):
    """A reader within it or before it gets the rest, one beyond it nothing, one behind a hole is told."""
    begin = data.draw(st.integers(0, len(log) - 1))
    end = data.draw(st.integers(begin + 1, len(log)))
    after = log[begin - 1].cursor if begin else START
    batch = Batch(after, [Frame(entry) for entry in log[begin:end]])
    for at, cursor in enumerate([START, *(entry.cursor for entry in log)]):
        newer = batch.newer(cursor)
        if at < begin:
            assert newer is None
        else:
            assert newer is not None
            assert [frame.cursor for frame in newer] == [entry.cursor for entry in log[at:end]]


def test_a_batch_after_a_hole_continues_nobody_before_it():
    """Its predecessor is unknown: only readers that are within it already can go on."""
    frames = [Frame(Entry(cursor=Cursor(2, seq), type=Type.TITLE, data=b"{}")) for seq in (5, 6)]
    batch = Batch(None, frames)
    assert batch.newer(Cursor(2, 4)) is None
    assert batch.newer(Cursor(2, 5)) == frames[1:]
    assert batch.newer(Cursor(2, 6)) == []


def test_a_resync_continues_any_cursor_before_it():
    """It replaces the whole content, so that nothing can be missing."""
    data = b'{"prev":"1-4","content":[],"steps":[]}'
    resync = Entry(cursor=Cursor(3, 0), type=Type.RESYNC, data=data)
    for cursor in (START, Cursor(1, 4), Cursor(2, 99)):
        assert len(chain(cursor, [resync])) == 1
    assert chain(Cursor(3, 0), [resync]) == []


def test_states_gain_their_text_and_everything_else_passes_untouched():
    """One encoding for all readers; `data` is what stands in the frame."""
    state = (
        b'{"content":[{"type":"text","text":"a"},{"type":"reasoning","text":"b"},{"type":"text","text":"c"}]}'
    )
    frame = Frame(Entry(cursor=Cursor(2, 1), type=Type.SNAPSHOT, data=state))
    assert frame.payload()["text"] == "ac"
    assert frame.wire == b"id: 2-1\nevent: snapshot\ndata: " + frame.data + b"\n\n"
    odd = Frame(Entry(cursor=Cursor(2, 1), type="future.type", data=b'{"x" : 1}'))
    assert odd.data == b'{"x" : 1}'


@given(
    text=st.text(st.characters(exclude_categories=("Cs",)) | st.sampled_from("\x85\u2028\u2029\r\n\v\f\x1c"))
)
def test_a_payload_is_one_line_to_whoever_splits_lines(text: str):
    """Three lines and two empty ones, by Unicode's notion of a line too; the text is what it was."""
    frame = Frame(Entry(cursor=Cursor(2, 1), type=Type.TITLE, data=jsontext.dumps({"title": text})))
    lines = frame.wire.decode().splitlines()
    assert [line.partition(":")[0] for line in lines] == ["id", "event", "data", ""]
    assert frame.payload() == {"title": text}
