"""A channel alone: what it encodes, what it counts, and who it wakes. No server: the test is the writer."""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from typing import Any

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstem_shared import errors, transitions
from mainstem_shared.eventlog.writing.channels import BUFFER_LIMIT, GROUP_LIMIT, Channel, Group, Phase
from mainstem_shared.model import contents, events, ids, jsontext
from mainstem_shared.model.contents import Content
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.events import CONTENT_LIMIT, MERGE_LIMIT, Entry, Type
from mainstem_shared.model.snapshot_pacing import WHOLE_FACTOR
from support.models.emitting import SCRIPTS, Model, perform

CONTROL = transitions.Control(
    run_id=ids.run_id("t", "t", uuid.UUID(int=1)), epoch=2, owner="me", nonce="mine"
)
MESSAGE = Type.MESSAGE_DELTA


class Carrier:
    """The writer's place: notes what the channel asks for, and keeps the log that results."""

    url = ""

    def __init__(self, fold: Content | None = None) -> None:
        self.asked: list[str] = []
        self.marked = False
        self.snapshots: list[tuple[Cursor, bytes]] = []
        self.log: list[Entry] = []
        self.channel = Channel(self, CONTROL, fold or Content())

    def mark(self, channel: Channel) -> None:
        self.marked = True

    def retry_later(self, channel: Channel) -> None:
        self.asked.append("retry")

    def probe(self, channel: Channel) -> None:
        channel.phase = Phase.PROBING
        self.asked.append("probe")

    def reconnect(self) -> None:
        self.asked.append("reconnect")

    def moved(self, channel: Channel) -> None:
        self.asked.append("moved")

    def resync(self, channel: Channel) -> None:
        self.asked.append("resync")

    def snapshot(self, channel: Channel, cursor: Cursor, state: bytes) -> None:
        self.snapshots.append((cursor, state))
        channel.snapshot_pending = False

    def forget(self, channel: Channel) -> None:
        self.asked.append("forget")

    def send(self) -> Group | None:
        """Take a group as the server would get it."""
        self.marked = False
        if not self.channel.ready:
            return None
        group = self.channel.next_group()
        reader = hiredis.Reader()
        reader.feed(group.packed)
        commands = []
        while (command := reader.gets()) is not False:
            commands.append(command)
        assert len(commands) == group.replies
        if len(commands) > 1:
            assert (commands[0], commands[-1]) == ([b"MULTI"], [b"EXEC"])
            commands = commands[1:-1]
        for name, _, flag, raw_id, field, data in commands:
            assert (name, flag) == (b"XADD", b"NOMKSTREAM")
            self.log.append(events.entry(raw_id, [field, data]))
        assert len(commands) == group.items
        return group

    def deliver(self) -> None:
        """Send all there is and acknowledge it."""
        while group := self.send():
            self.channel.replied(
                [b"2-1"] if group.replies == 1 else [b"OK", *[b"QUEUED"] * group.items, [b"2-1"]]
            )


@given(SCRIPTS, st.data())
def test_whatever_is_merged_the_log_is_what_the_engine_said(
    script: list[tuple[Any, ...]], data: st.DataObject
):
    """Send after any emissions: ids without a hole, the order of the engine, log and fold the same bytes."""
    carrier, model = Carrier(), Model()
    for step in script:
        perform(step, carrier.channel)
        model.follow(step)
        if data.draw(st.booleans()):
            carrier.deliver()
    carrier.deliver()
    cursor = Cursor(2, 0)
    for entry in carrier.log:
        assert entry.follows(cursor)
        cursor = entry.cursor
    assert carrier.channel.acknowledged == cursor
    folded = contents.fold(carrier.log)
    assert folded.dump()["content"] == model.content
    assert jsontext.dumps(carrier.channel.fold.dump()) == jsontext.dumps(folded.dump())
    assert carrier.channel.buffered == 0


def test_deltas_of_different_parts_are_never_one_event():
    """Text, reasoning and text again, all waiting to be sent: three events, in the order in which they were said."""
    carrier = Carrier()
    said = [(Type.MESSAGE_DELTA, "a"), (Type.REASONING_DELTA, "b"), (Type.MESSAGE_DELTA, "c")]
    for kind, text in said:
        carrier.channel.text(kind, text)
    carrier.deliver()
    assert [(entry.type, entry.payload()) for entry in carrier.log] == [
        (kind, {"part": n, "text": text}) for n, (kind, text) in enumerate(said)
    ]


@given(SCRIPTS, SCRIPTS)
def test_a_continuation_goes_on_numbering_parts(before: list[tuple[Any, ...]], after: list[tuple[Any, ...]]):
    """A channel over a fold that has content already writes entries that fold onto it."""
    first = Carrier()
    for step in before:
        perform(step, first.channel)
    first.deliver()
    state = jsontext.loads(jsontext.dumps(first.channel.fold.dump()))
    restored = Content()
    restored.load(jsontext.loads(jsontext.dumps(state)))
    second = Carrier(restored)
    for step in after:
        perform(step, second.channel)
    second.deliver()
    assert jsontext.dumps(contents.fold(second.log, state).dump()) == jsontext.dumps(
        second.channel.fold.dump()
    )


def test_consecutive_deltas_of_a_part_become_one_event():
    """Up to the merge limit; longer texts are cut, and nothing is added or lost."""
    carrier = Carrier()
    for _ in range(1000):
        carrier.channel.text(MESSAGE, "ab")
    carrier.channel.text(MESSAGE, "c" * (2 * MERGE_LIMIT + 1))
    carrier.deliver()
    assert [len(entry.payload()["text"]) for entry in carrier.log] == [2000, MERGE_LIMIT, MERGE_LIMIT, 1]
    assert carrier.channel.fold.text == "ab" * 1000 + "c" * (2 * MERGE_LIMIT + 1)


@pytest.mark.parametrize("character", ["a", "é", "😀", "\ud83d"])
def test_the_buffer_is_empty_when_everything_is_sent(character: str):
    """Bytes that went in come out again, whatever the script: else engines would be slowed down for ever."""
    carrier = Carrier()
    for _ in range(BUFFER_LIMIT // 100 + 1):
        carrier.channel.text(MESSAGE, character * 100)
    carrier.channel.emit(Type.CUSTOM, {"name": "n", "data": character * 10})
    assert carrier.channel.congested
    carrier.deliver()
    assert carrier.channel.buffered == 0
    assert not carrier.channel.congested


def test_an_empty_delta_opens_no_part():
    """Providers send empty deltas: they change nothing, and the numbers of later parts are right."""
    carrier = Carrier()
    for kind, text in [
        (MESSAGE, ""),
        (Type.REASONING_DELTA, "r"),
        (MESSAGE, ""),
        (Type.REASONING_DELTA, "s"),
    ]:
        carrier.channel.text(kind, text)
    carrier.deliver()
    assert contents.fold(carrier.log).dump()["content"] == [{"type": "reasoning", "text": "rs"}]


def test_what_the_engine_does_to_its_objects_later_changes_nothing():
    """The fold has what the log has, not what the tool made of its arguments."""
    carrier = Carrier()
    arguments = {"items": [1]}
    carrier.channel.emit(
        Type.STEP_STARTED, {"step_id": "c", "kind": "tool_call", "name": "n", "arguments": arguments, "at": 1}
    )
    arguments["items"].append(2)
    carrier.deliver()
    arguments["items"].append(3)
    assert carrier.channel.fold.dump()["content"][0]["arguments"] == {"items": [1]}
    assert contents.fold(carrier.log).dump() == carrier.channel.fold.dump()


def test_a_group_is_bounded_and_one_large_event_still_fits():
    """Groups end at their limit, whatever is the size of the last event; nothing waits for ever."""
    carrier = Carrier()
    large = "x" * (events.EVENT_LIMIT - 100)
    for _ in range(5):
        carrier.channel.emit(Type.CUSTOM, {"name": "n", "data": large})
    sizes = []
    while group := carrier.send():
        sizes.append(group.size)
        carrier.channel.replied(
            [b"2-1"] if group.replies == 1 else [b"OK", *[b"QUEUED"] * group.items, [b"2-1"]]
        )
    assert len(carrier.log) == 5
    assert max(sizes) < GROUP_LIMIT + events.EVENT_LIMIT + 200


def test_an_event_too_large_is_refused_and_the_next_one_is_not():
    """Nothing of it is written; the channel goes on."""
    carrier = Carrier()
    with pytest.raises(errors.EventTooLarge):
        carrier.channel.emit(Type.CUSTOM, {"name": "n", "data": "x" * events.EVENT_LIMIT})
    carrier.channel.text(MESSAGE, "ok")
    carrier.deliver()
    assert [entry.type for entry in carrier.log] == [MESSAGE]


@pytest.mark.parametrize("character", ["a", "é"])
def test_the_content_limit_counts_bytes_and_refuses_what_passes_it(character: str):
    """Exactly the limit fits; one byte more is refused and leaves the run able to write and to end."""
    carrier = Carrier()
    width = len(character.encode())
    chunk = character * (MERGE_LIMIT // width)
    for _ in range(CONTENT_LIMIT // MERGE_LIMIT):
        carrier.channel.text(MESSAGE, chunk)
        if carrier.channel.congested:
            carrier.deliver()
    with pytest.raises(errors.ContentTooLarge):
        carrier.channel.text(MESSAGE, "x")
    carrier.deliver()
    assert len(carrier.channel.fold.text.encode()) == CONTENT_LIMIT == carrier.channel.fold.size


def test_a_malformed_payload_is_the_emitters_error():
    """It is refused at once and nothing is queued."""
    carrier = Carrier()
    with pytest.raises(ValueError, match="title"):
        carrier.channel.emit(Type.TITLE, {})
    assert not carrier.channel.ready


OOM = hiredis.ReplyError("OOM command not allowed when used memory > 'maxmemory'.")
SMALL = hiredis.ReplyError("ERR The ID specified in XADD is equal or smaller than the target stream top item")
READONLY = hiredis.ReplyError("READONLY You can't write against a read only replica.")


@pytest.mark.parametrize(
    ("replies", "asked", "phase"),
    [
        ([], [], Phase.PROBING),
        ([OOM], ["retry"], Phase.WAITING),
        ([SMALL], ["probe"], Phase.PROBING),
        ([None], ["probe"], Phase.PROBING),
        ([READONLY], ["reconnect"], Phase.PROBING),
        ([b"2-1"], [], Phase.OPEN),
    ],
)
async def test_each_answer_to_a_single_event_leads_to_its_state(
    replies: list, asked: list[str], phase: Phase
):
    """As the state machine says; the same bytes go again where they did not land."""
    carrier = Carrier()
    carrier.channel.text(MESSAGE, "x")
    group = carrier.send()
    carrier.channel.replied(replies)
    assert (carrier.asked, carrier.channel.phase) == (asked, phase)
    if phase is not Phase.OPEN:
        carrier.channel.again()
        assert carrier.marked
        assert carrier.channel.next_group() is group


ABORTED = hiredis.ReplyError("EXECABORT Transaction discarded because of previous errors.")


@pytest.mark.parametrize(
    ("replies", "phase"),
    [
        ([b"OK", b"QUEUED", b"QUEUED", [b"2-1", b"2-2"]], Phase.OPEN),
        ([b"OK", OOM, OOM, ABORTED], Phase.WAITING),
        ([b"OK", b"QUEUED", OOM, ABORTED], Phase.WAITING),
        ([b"OK", b"QUEUED", b"QUEUED", [SMALL, SMALL]], Phase.PROBING),
        ([b"OK", b"QUEUED", b"QUEUED", [None, None]], Phase.PROBING),
        ([b"OK", b"QUEUED", b"QUEUED", READONLY], Phase.PROBING),
        ([b"OK", b"QUEUED", b"QUEUED", None], Phase.PROBING),
        ([], Phase.PROBING),
    ],
)
async def test_each_answer_to_a_group_leads_to_its_state(replies: list, phase: Phase):
    """A refusal anywhere in a transaction is a refusal of all of it."""
    carrier = Carrier()
    carrier.channel.text(MESSAGE, "x")
    carrier.channel.emit(Type.TITLE, {"title": "t"})
    carrier.send()
    carrier.channel.replied(replies)
    assert carrier.channel.phase is phase


async def sent_and_unknown() -> Carrier:
    carrier = Carrier()
    carrier.channel.text(MESSAGE, "x")
    carrier.deliver()
    carrier.channel.text(MESSAGE, "y")
    carrier.send()
    carrier.channel.replied([])
    return carrier


@pytest.mark.parametrize(
    ("top", "phase", "acknowledged"),
    [
        (Cursor(2, 2), Phase.OPEN, Cursor(2, 2)),  # landed
        (Cursor(2, 1), Phase.OPEN, Cursor(2, 1)),  # not there: the same bytes again
        (Cursor(3, 1), Phase.RESYNC, Cursor(2, 1)),  # somebody without control wrote
        (Cursor(2, 0), Phase.RESYNC, Cursor(2, 1)),  # an acknowledged event is missing
        (Cursor(1, 0), Phase.RESYNC, Cursor(2, 1)),
        (None, Phase.RESYNC, Cursor(2, 1)),
    ],
)
async def test_the_logs_top_decides_what_became_of_a_group(
    top: Cursor | None, phase: Phase, acknowledged: Cursor
):
    """Every case of a lost reply has one outcome."""
    carrier = await sent_and_unknown()
    carrier.channel.probed(transitions.Probe(top=top, control=CONTROL))
    assert (carrier.channel.phase, carrier.channel.acknowledged) == (phase, acknowledged)


@pytest.mark.parametrize("top", [Cursor(2, 2), Cursor(2, 1), Cursor(3, 0), None])
@pytest.mark.parametrize(
    "control",
    [
        None,  # over, queued, waiting for a human, or gone
        dataclasses.replace(CONTROL, owner="other"),
        dataclasses.replace(CONTROL, epoch=3),
        dataclasses.replace(CONTROL, nonce="another claim of the same process"),
    ],
)
async def test_the_record_decides_who_has_control(top: Cursor | None, control: transitions.Control | None):
    """Whatever the log looks like: by ids alone, a former owner's log may look like its own."""
    carrier = await sent_and_unknown()
    carrier.channel.probed(transitions.Probe(top=top, control=control))
    assert carrier.channel.phase is Phase.LOST


async def test_flush_waits_while_it_is_not_known_what_the_log_has():
    """Even with nothing pending: after a resync, control and cursor are others than before."""
    carrier = await sent_and_unknown()
    carrier.channel.probed(transitions.Probe(top=Cursor(1, 0), control=CONTROL))
    flush = asyncio.ensure_future(carrier.channel.close())
    await asyncio.sleep(0)
    assert not flush.done()
    carrier.channel.resynced(3)
    assert await flush == Cursor(3, 0)
    assert carrier.channel.control.epoch == 3
    with pytest.raises(errors.ChannelClosed):
        carrier.channel.text(MESSAGE, "z")


async def test_losing_the_run_wakes_everybody():
    """Flushing, draining and closing end in Fenced; the loss is told once; nothing is written after it."""
    carrier, told = Carrier(), []
    carrier.channel.on_lost = lambda: told.append("lost")
    while not carrier.channel.congested:
        carrier.channel.text(MESSAGE, "x" * 1000)
    waits = [
        asyncio.ensure_future(w)
        for w in (carrier.channel.flush(), carrier.channel.drained(), carrier.channel.close())
    ]
    await asyncio.sleep(0)
    carrier.channel.lose()
    carrier.channel.lose()
    for wait in waits:
        with pytest.raises(errors.Fenced):
            await wait
    with pytest.raises(errors.Fenced):
        carrier.channel.text(MESSAGE, "z")
    assert told == ["lost"]
    assert not carrier.channel.ready


async def test_who_discards_is_not_told():
    """The loss callback is for news."""
    carrier, told = Carrier(), []
    carrier.channel.on_lost = lambda: told.append("lost")
    carrier.channel.text(MESSAGE, "x")
    carrier.channel.discard()
    assert told == []
    with pytest.raises(errors.Fenced):
        await carrier.channel.flush()


async def test_waiting_for_the_store_is_not_the_engines_silence():
    """`last_emit` moves on while a flush waits, and stands still while the engine is silent."""
    carrier = Carrier()
    carrier.channel.text(MESSAGE, "x")
    before = carrier.channel.last_emit
    assert carrier.channel.last_emit == before
    flush = asyncio.ensure_future(carrier.channel.flush())
    await asyncio.sleep(0)
    assert carrier.channel.last_emit > before
    carrier.deliver()
    await flush
    after = carrier.channel.last_emit
    assert after > before
    assert carrier.channel.last_emit == after


async def test_snapshots_are_amortised():
    """Over a run of n bytes snapshots add up to a constant times n, and each is the fold of its cursor."""
    carrier = Carrier()
    written = 0
    for _ in range(2000):
        carrier.channel.text(MESSAGE, "x" * 200)
        written += 200
        carrier.deliver()
    sizes = [len(state) for _, state in carrier.snapshots]
    assert len(sizes) >= 4
    assert sum(sizes) < 1.2 * written * (1 + WHOLE_FACTOR) / WHOLE_FACTOR
    for cursor, state in carrier.snapshots:
        upto = [entry for entry in carrier.log if entry.cursor <= cursor]
        assert jsontext.loads(state) == contents.fold(upto).dump()
