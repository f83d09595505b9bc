"""OpenAI's Responses API: golden streams, and numbers that depend on nothing but the run's content."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from mainstem_api.gateway.adapters.attaching import AttachPoint
from mainstem_api.gateway.adapters.openai_responses import ids, response_object, translator
from mainstem_api.gateway.adapters.openai_responses.chunking import chunk_bounds
from mainstem_api.gateway.adapters.openai_responses.sequencer import STRIDE
from mainstem_api.gateway.adapters.openai_responses.translator import Responses
from mainstem_shared import errors
from mainstem_shared.eventlog.reading.frames import Frame
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.events import Type
from mainstem_shared.model.openai_responses import ResponseId
from mainstem_shared.model.runs import Status
from support.models import goldens
from support.models.record_model import NEW, RUN, Record, fresh

KNOWN: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def told(said: bytes) -> list[dict[str, Any]]:
    """The events of a stream; each has its type in both places."""
    events = []
    for block in said.decode("utf-8", "surrogatepass").split("\n\n")[:-1]:
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


def follow(words: Responses, frames: Sequence[Frame]) -> list[dict[str, Any]]:
    said = [words.opening()]
    said += [words.take([frame]) for frame in frames if not words.over]
    return told(b"".join(said))


def turns(frames: Sequence[Frame]) -> list[tuple[int, AttachPoint, Sequence[Frame]]]:
    """Where each response of a log begins, and what follows."""
    record, found = Record(), [(0, NEW, frames)]
    for at, frame in enumerate(frames):
        record.take(frame)
        if frame.type in (Type.APPROVAL_RESOLVED, Type.APPROVAL_EXPIRED):
            found.append((len(record.pauses), record.attach_point(), frames[at + 1 :]))
    return found


CASES = [
    (log, turn, attach_point, rest)
    for log in goldens.LOGS
    for turn, attach_point, rest in turns(goldens.frames(log))
    if not any(frame.type == Type.SNAPSHOT for frame in rest)
]
IDS = [f"{log}-{turn}" for log, turn, *_ in CASES]


@pytest.mark.parametrize(("log", "turn", "attach_point", "rest"), CASES, ids=IDS)
def test_the_stream_of_a_recorded_log_is_the_golden_one(log, turn, attach_point, rest):
    """Each response of each log, from its beginning."""
    words = Responses(ResponseId(RUN, turn), fresh(attach_point))
    said = [words.opening(), *(words.take([frame]) for frame in rest if not words.over)]
    goldens.check("responses", log if not turn else f"{log}_{turn}", b"".join(said))


@pytest.mark.parametrize(("log", "turn", "attach_point", "rest"), CASES, ids=IDS)
def test_the_stock_client_has_a_type_for_every_event(log, turn, attach_point, rest):
    """Every event validates, strictly, as one of openai-python's own union."""
    for event in follow(Responses(ResponseId(RUN, turn), fresh(attach_point)), rest):
        parsed = KNOWN.validate_python(event)
        assert parsed.type == event["type"]
        assert type(parsed).__name__.startswith("Response")


def summarised(attach_point: AttachPoint) -> AttachPoint:
    """The same of a run whose request asked for summaries of reasoning."""
    echo = {response_object.ECHO: {"reasoning": {"summary": "auto"}}}
    return dataclasses.replace(attach_point, spec=attach_point.spec.model_copy(update={"metadata": echo}))


@pytest.mark.parametrize(("log", "turn", "attach_point", "rest"), CASES, ids=IDS)
def test_who_asks_for_summaries_is_told_reasoning_as_such(log, turn, attach_point, rest):
    """Under the same numbers, in the events that clients of OpenAI's own models read; all else is the same."""
    name = ResponseId(RUN, turn)
    plain = follow(Responses(name, fresh(attach_point)), rest)
    events = follow(Responses(name, fresh(summarised(attach_point))), rest)
    assert [event["sequence_number"] for event in events] == [event["sequence_number"] for event in plain]
    texts: dict[str, str] = {}
    for event, other in zip(events, plain, strict=True):
        KNOWN.validate_python(event)
        if event["type"] == "response.reasoning_summary_text.delta":
            assert other["type"] == "response.reasoning_text.delta"
            texts[event["item_id"]] = texts.get(event["item_id"], "") + event["delta"]
            assert event["summary_index"] == 0
        elif "reasoning" not in event["type"]:
            assert event["type"].replace("content_part", "") == other["type"].replace("content_part", "")
    output = next((event["response"]["output"] for event in reversed(events) if "response" in event), [])
    for item in output:
        if item["type"] == "reasoning":
            assert item["summary"] == [{"type": "summary_text", "text": texts[item["id"]]}]
            assert "content" not in item
    assert bool(texts) == any("reasoning" in event["type"] for event in plain)


def test_some_recorded_log_has_reasoning():
    """The test above tells of it at all."""
    assert any(
        event["type"] == "response.reasoning_summary_text.delta"
        for _, turn, attach_point, rest in CASES
        for event in follow(Responses(ResponseId(RUN, turn), fresh(summarised(attach_point))), rest)
    )


@pytest.mark.parametrize(("log", "turn", "attach_point", "rest"), CASES, ids=IDS)
def test_whoever_continues_anywhere_gets_what_the_first_reader_gets(log, turn, attach_point, rest):
    """From any number, attached at any moment, from the log or the final state alone: the same events."""
    name = ResponseId(RUN, turn)
    whole = follow(Responses(name, fresh(attach_point)), rest)
    numbers = [event["sequence_number"] for event in whole]
    assert numbers == sorted(set(numbers))
    record = Record()
    frames = goldens.frames(log)
    for at, frame in enumerate(frames):
        record.take(frame)
        now = record.attach_point()
        if turn > len(now.pauses):
            continue
        for after in (-1, *numbers[:: max(1, len(numbers) // 12)], numbers[-1]):
            got = follow(translator.following(name, record.attach_point(), after=after), frames[at + 1 :])
            if got and got[0]["sequence_number"] <= after:
                continue  # it was ahead of what there was: it gets everything
            base = now.restarts * STRIDE
            expected = [event for event in whole if event["sequence_number"] > max(after, base - 1)]
            assert [brief(event) for event in got] == [brief(event) for event in expected]


def brief(event: dict[str, Any]) -> Any:
    """An event without what a response object says of its own moment."""
    return {name: value for name, value in event.items() if name != "response"} | {
        "output": event.get("response", {}).get("output")
    }


@given(st.text(max_size=300), st.lists(st.integers(0, 300), max_size=20))
def test_cuts_do_not_depend_on_how_text_comes(text, arrivals):
    """However it grows, the deltas of a text are the same, and together they are the text."""
    whole = list(chunk_bounds(0, len(text), complete=True))
    assert "".join(text[b:e] for b, e in whole) == text
    got, at = [], 0
    for length in sorted(min(n, len(text)) for n in arrivals):
        for begin, end in chunk_bounds(at, length, complete=False):
            got.append((begin, end))
            at = end
    got += chunk_bounds(at, len(text), complete=True)
    assert got == whole


def test_the_largest_content_has_some_ten_thousand_deltas():
    assert sum(1 for _ in chunk_bounds(0, 8 * 1024 * 1024, complete=True)) < 12_000


@pytest.mark.parametrize(
    "spelled", ["", "resp_", "resp_x", f"resp_{RUN}_0", f"resp_{RUN}_x", f"resp_{RUN}\n", RUN]
)
def test_what_is_no_response_id_is_not_found(spelled):
    with pytest.raises(errors.NotFound):
        ids.response(spelled)


def test_ids_are_read_as_they_are_spelled():
    for name in (ResponseId(RUN), ResponseId(RUN, 3)):
        assert ids.response(str(name)) == name
    assert ids.asked(ids.approval(RUN, "act_1", "a.b\nc")) == (RUN, "act_1", "a.b\nc", True)
    assert ids.asked(ids.question(RUN, "act_1", "q")) == (RUN, "act_1", "q", False)
    assert ids.asked("call_1") is None


def test_a_response_that_never_was_is_not_found():
    with pytest.raises(errors.NotFound):
        Responses(ResponseId(RUN, 1), NEW)


def test_a_response_reports_its_own_usage_only():
    """A continuation leaves out what was spent before the pause; one that spent nothing known says so."""
    before = {"input_tokens": 5, "output_tokens": 1, "total_tokens": 6}
    now = {"input_tokens": 9, "output_tokens": 4, "total_tokens": 13, "cached_input_tokens": 2}
    spent = {"input_tokens": 4, "output_tokens": 3, "total_tokens": 7, "cached_input_tokens": 2}
    assert response_object.usage_since(before, now) == spent
    assert response_object.usage_since(None, now) == now
    assert response_object.usage_since(None, None) is None
    last = follow(Responses(ResponseId(RUN), fresh(NEW)), goldens.frames("text"))[-1]["response"]["usage"]
    assert (last["input_tokens"], last["input_tokens_details"]["cached_tokens"]) == (12, 4)
    assert (last["output_tokens"], last["output_tokens_details"]["reasoning_tokens"]) == (7, 2)


def test_a_continuation_that_waits_for_a_worker_again_keeps_its_numbers():
    """Handed over in mid-response, it is queued: who attaches then gets the same numbers all the same."""
    frames = goldens.frames("decided")
    _, attach_point, rest = turns(frames)[1]
    name = ResponseId(RUN, 1)
    whole = follow(Responses(name, fresh(attach_point)), rest)
    record = Record()
    for at, frame in enumerate(frames):
        record.take(frame)
        if frame.type == Type.MESSAGE_DELTA and len(record.pauses) == 1:
            queued = dataclasses.replace(record.attach_point(), status=Status.QUEUED)
            got = follow(translator.following(name, queued, after=5), frames[at + 1 :])
            assert [brief(event) for event in got] == [brief(event) for event in whole[6:]]
            return
    pytest.fail("the log has no text after its pause")


def test_a_snapshot_over_a_change_of_control_is_not_followed():
    """Somewhere in it the response may have ended: the reader connects again, and is told from the record."""
    frames = goldens.frames("trimmed")
    at = next(at for at, frame in enumerate(frames) if frame.type == Type.SNAPSHOT)
    words = Responses(ResponseId(RUN), fresh(NEW))
    words.opening()
    with pytest.raises(errors.StoreUnavailable):
        words.take(frames[at : at + 1])
    same = dataclasses.replace(fresh(NEW), cursor=Cursor(frames[at].cursor.epoch, 0), started=True)
    said = follow(Responses(ResponseId(RUN), same), frames[at:])
    assert said[-1]["type"] == "response.completed"


def test_a_response_says_that_its_usage_is_estimated():
    """Beside the counts, in the response object too; an exact one has no such member."""
    now = {"input_tokens": 9, "output_tokens": 4, "total_tokens": 13, "estimated": True}
    assert (response_object.usage_since({"input_tokens": 9, "estimated": True}, now) or {})[
        "estimated"
    ] is True
    assert response_object._usage(now)["estimated"] is True
    assert "estimated" not in response_object._usage({**now, "estimated": False})
