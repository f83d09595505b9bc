"""However a valid stream is written, split, merged, repeated, reordered or cut: the same message, or an honest failure.

Never another message, never another call. `make fuzz-providers` runs 200,000 streams; MAINSTEM_FUZZ_STREAMS says how many.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mainstem_shared import errors
from mainstem_shared.model import jsontext
from mainstem_tasks.engines.anthropic.events import EventReader
from mainstem_tasks.engines.assembly.calls import Call, Calls
from mainstem_tasks.engines.assembly.completeness import Completeness
from mainstem_tasks.engines.assembly.finishes import Ending, announces_calls, ending_of
from mainstem_tasks.engines.assembly.messages import CallBegan, CallGrew, Increment, Message, TextGrew
from mainstem_tasks.engines.assembly.pieces import CallPiece, Kind
from mainstem_tasks.engines.assembly.texts import SurrogateJoiner, ThinkSplitter
from mainstem_tasks.engines.openai.chunks import ChunkReader
from mainstem_tasks.engines.openai.items import ItemReader
from mainstem_tasks.engines.turns.endpoints import PieceReader
from mainstem_tasks.engines.turns.reading import AnswerReader
from support.models import event_streams, streams
from support.models.streams import CUT, NAMES, Truth

STREAMS = int(os.environ.get("MAINSTEM_FUZZ_STREAMS", "4000"))
CUTS = 40 if STREAMS < 100_000 else 160
"""Places where each stream is cut."""
EXAMPLES = -(-STREAMS // (CUTS + 2) // 3)
"""Of each protocol."""


_counted = {"streams": 0}


@pytest.fixture(scope="module", autouse=True)
def counted() -> Iterator[None]:
    """Say how many streams were read, when that is the question."""
    yield
    if STREAMS >= 100_000:
        print(f"\n{_counted['streams']} streams were read")  # noqa: T201 - the question's answer


@dataclass
class Told:
    """What a run's readers were told on the way."""

    texts: dict[Kind, str] = field(default_factory=lambda: dict.fromkeys(Kind, ""))
    calls: dict[int, list[str]] = field(default_factory=dict)

    def take(self, increment: Increment) -> None:
        match increment:
            case TextGrew(kind=kind, text=text):
                self.texts[kind] += text
            case CallBegan(call=call):
                assert call.number not in self.calls
                self.calls[call.number] = [call.name, ""]
            case CallGrew(call=call, text=text):
                self.calls[call.number][1] += text


def chat(data: st.DataObject, truth: Truth) -> bytes:
    return data.draw(streams.bodies(truth))


def messages(data: st.DataObject, truth: Truth) -> bytes:
    return data.draw(event_streams.bodies(data.draw(event_streams.message_events(truth))))


def responses(data: st.DataObject, truth: Truth) -> bytes:
    return data.draw(event_streams.bodies(data.draw(event_streams.response_events(truth))))


Write = Callable[[st.DataObject, Truth], bytes]
READERS: dict[Write, tuple[Callable[[], PieceReader], bool]] = {
    chat: (ChunkReader, True),
    messages: (EventReader, False),
    responses: (ItemReader, False),
}
"""How streams of each protocol are written; how they are read, and whether a text may begin with `<think>`."""


def read(pieces: list[bytes], write: Write = chat) -> tuple[Told, Message | errors.ProviderError]:
    pieces_of, is_tagged = READERS[write]
    reader, told = AnswerReader(pieces_of(), NAMES, is_tagged=is_tagged), Told()
    try:
        for piece in pieces:
            for increment in reader.feed(piece):
                told.take(increment)
        for increment in reader.finish():
            told.take(increment)
    except errors.ProviderError as error:
        return told, error
    return told, reader.message()


def check_whole(truth: Truth, told: Told, message: Message | errors.ProviderError) -> None:
    assert isinstance(message, Message), message
    assert (message.reasoning, message.text) == (truth.reasoning, truth.text)
    assert (told.texts[Kind.REASONING], told.texts[Kind.TEXT]) == (truth.reasoning, truth.text)
    parsed = [(name, jsontext.well_formed(jsontext.loads(arguments))) for name, arguments in truth.calls]
    assert [call.name for call in message.calls] == [name for name, _ in parsed]
    if truth.reason in CUT:
        assert all(call.fault and call.arguments is None for call in message.calls)
    else:
        assert [(call.name, call.arguments) for call in message.calls] == parsed


def check_part(truth: Truth, told: Told, message: Message | errors.ProviderError) -> None:
    """What a cut stream brought is the beginning of the truth, and no message unless it is the whole."""
    if isinstance(message, Message):
        check_whole(truth, told, message)
        return
    assert truth.text.startswith(told.texts[Kind.TEXT].removesuffix("\ufffd"))
    assert truth.reasoning.startswith(told.texts[Kind.REASONING].removesuffix("\ufffd"))
    for number, (name, _) in told.calls.items():
        assert name == truth.calls[number][0]


@pytest.mark.parametrize("write", READERS, ids=lambda write: write.__name__)
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_stream_means_one_message_or_fails(write: Write, data: st.DataObject):
    """In every protocol: whole, in any pieces; and cut at any byte."""
    truth = data.draw(streams.truths())
    body = write(data, truth)
    whole, at = read([body], write), data.draw(st.lists(st.integers(0, len(body)), max_size=12))
    check_whole(truth, *whole)
    check_whole(truth, *read(streams.split(body, at), write))
    _counted["streams"] += CUTS + 2
    first = data.draw(st.integers(0, 10_000))
    for step in range(CUTS):
        cut = (first + step * (len(body) // CUTS + 1)) % (len(body) + 1)
        check_part(truth, *read(streams.split(body[:cut], [*at, cut // 2]), write))


@given(st.text(st.characters(exclude_categories=())), st.lists(st.integers(0, 40)))
def test_halves_meet_wherever_a_text_is_cut(text: str, at: list[int]):
    """The joined pieces are the text, well-formed."""
    joiner, places = SurrogateJoiner(), sorted({0, *at, len(text)})
    pieces = [text[a:b] for a, b in itertools.pairwise(places)] + [text[places[-1] :]]
    joined = "".join(joiner.push(piece) for piece in pieces if piece) + joiner.flush()
    assert joined == jsontext.well_formed(text)


@given(
    st.lists(
        st.sampled_from(
            ["<think>", "</think>", "<thi", "nk>", "a", " ", "\n", "<", "[THINK]", "[/THINK]", "</th", "é"]
        )
    ),
    st.randoms(),
)
def test_a_thinking_block_is_found_wherever_a_text_is_cut(parts: list[str], random):
    """Pieces or whole: the same reasoning, the same text."""
    text = "".join(parts)
    at = sorted(random.sample(range(len(text) + 1), min(len(text), 4)))
    pieces = [text[a:b] for a, b in zip([0, *at], [*at, len(text)], strict=True)]
    assert _told(pieces) == _told([text])


def _told(pieces: list[str]) -> tuple[str, str]:
    splitter = ThinkSplitter()
    said = [told for piece in pieces if piece for told in splitter.push(piece)] + list(splitter.flush())
    return tuple("".join(text for kind, text in said if kind is wanted) for wanted in Kind)


@given(st.recursive(st.none() | st.text(), lambda i: st.lists(i) | st.dictionaries(st.text(), i)), st.data())
def test_a_text_is_whole_where_its_json_is(value: object, data: st.DataObject):
    """No beginning of an object or list is whole; the whole is, in any pieces."""
    text = jsontext.dumps([value]).decode()
    progress, at = Completeness(), data.draw(st.integers(0, len(text)))
    progress.push(text[:at])
    assert progress.is_whole == (at == len(text))
    progress.push(text[at:])
    assert progress.is_whole


PIECES = st.builds(
    CallPiece,
    index=st.sampled_from([None, 0, 1]),
    id=st.sampled_from(["", "a", "b"]),
    name=st.sampled_from(["", "f", "g"]),
    arguments=st.sampled_from(["", "{", "}", "{}", '{"a":', "1}", '{"a":1}', '"', " "]),
)


@given(st.lists(PIECES, max_size=8))
def test_whatever_pieces_come_what_runs_was_sent(pieces: list[CallPiece]):
    """Arguments that may run are the text of consecutive pieces, whole and valid; empty ones came as none."""
    calls = Calls()
    for piece in pieces:
        calls.take(piece)
    sent = {"".join(p.arguments for p in pieces[a:b]).replace(" ", "") for a in range(9) for b in range(a, 9)}
    for call in calls.finish():
        assert (call.arguments is None) == bool(call.fault)
        if (
            call.arguments
            and len({piece.index for piece in pieces}) == 1
            and len({p.id for p in pieces}) == 1
        ):
            assert jsontext.dumps(call.arguments).decode() in sent


@pytest.mark.parametrize(
    ("word", "ending"),
    [
        *[
            (word, Ending.ORDINARY)
            for word in ("stop", "tool_calls", "TOOL_USE", "end_turn", "eos", "COMPLETE", "function_call")
        ],
        *[
            (word, Ending.CUT)
            for word in (
                "length",
                "max_tokens",
                "MAX_TOKENS",
                "model_length",
                "incomplete",
                "MAX_OUTPUT_TOKENS",
            )
        ],
        *[
            (word, Ending.FILTERED)
            for word in (
                "content_filter",
                "SAFETY",
                "sensitive",
                "RECITATION",
                "PROHIBITED_CONTENT",
                "blocklist",
            )
        ],
        *[
            (word, Ending.FAILED)
            for word in (
                "error",
                "abort",
                "insufficient_system_resource",
                "network_error",
                "MALFORMED_FUNCTION_CALL",
                "cancelled",
            )
        ],
        (None, Ending.UNSAID),
    ],
)
def test_reasons_to_stop_have_one_meaning(word: str | None, ending: Ending):
    """In the words of any provider."""
    assert ending_of(word) is ending
    assert announces_calls(word) == (word in ("tool_calls", "TOOL_USE", "function_call"))


def test_a_stream_of_calls_is_read_in_linear_time():
    """Ten thousand pieces that repeat the name cost no more than each is long."""
    calls = Calls()
    calls.take(CallPiece(index=0, id="a", name="f", arguments='{"a":"'))
    for _ in range(10_000):
        calls.take(CallPiece(index=0, id="a", name="f", arguments="x" * 100))
    call: Call = calls.take(CallPiece(index=0, arguments='"}'))[0]
    assert len(calls.finish()) == 1
    assert "bytes" in call.fault
