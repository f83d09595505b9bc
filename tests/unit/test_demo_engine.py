"""The demo engine: its exact text is what every reader's proof stands on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstem_shared import errors
from mainstem_shared.model.actions import Decision
from mainstem_tasks.engines.demo import DemoError, DemoInput, words
from mainstem_tasks.sdk import registry
from mainstem_tasks.testing import MemoryChannel, run_engine


async def test_words_are_numbered_and_separated_by_one_space():
    """The first word is `w0`, each later one ` w{k}`; every word is one emission."""
    result = await run_engine("demo", {"tokens": 4, "interval_ms": 0})
    assert [payload["text"] for payload in result.payloads("message.delta")] == ["w0", " w1", " w2", " w3"]
    assert result.content == [{"type": "text", "text": "w0 w1 w2 w3"}]


async def test_no_tokens_are_no_text():
    """Zero words: the run succeeds with an empty text."""
    assert (await run_engine("demo", {"tokens": 0})).events == []


@given(st.text() | st.text(" \n\tab", max_size=40))
def test_a_given_text_comes_out_exactly(text: str):
    """White space, wherever it stands, survives; no piece is empty, and each has one word."""
    pieces = list(words(DemoInput(text=text)))
    assert "".join(pieces) == text
    assert all(pieces)
    assert len(pieces) == max(len(text.split()), 1 if text else 0)


@pytest.mark.parametrize(("fail_at", "text"), [(0, ""), (1, "w0"), (3, "w0 w1 w2")])
async def test_it_fails_before_the_word_it_is_told(fail_at: int, text: str):
    """The words before k are out, word k is not, and the error says that this was asked for."""
    given_input = {"tokens": 5, "interval_ms": 0, "fail_at": fail_at}
    result = await run_engine("demo", given_input, check=False)
    assert isinstance(result.error, DemoError)
    assert f"before word {fail_at}" in str(result.error)
    assert result.text == text


async def test_it_fails_within_a_given_text_too():
    """`fail_at` counts the words of `text`."""
    result = await run_engine("demo", {"text": "one two three", "interval_ms": 0, "fail_at": 2}, check=False)
    assert (result.text, type(result.error)) == ("one two", DemoError)


async def test_delays_do_not_add_up():
    """Words keep to their schedule: slow emitting does not lengthen the whole."""

    class Slow(MemoryChannel):
        @property
        def congested(self) -> bool:
            return True

        async def drained(self) -> None:
            await asyncio.sleep(0.015)

    loop = asyncio.get_running_loop()

    async def took_s() -> float:
        begun = loop.time()
        result = await run_engine("demo", {"tokens": 21, "interval_ms": 20}, channel=Slow())
        assert result.text.endswith("w20")
        return loop.time() - begun

    # 20 intervals of 20 ms; with the delays added it would be 700 ms each time, with a busy machine it may be once.
    tries = [await took_s() for _ in range(3)]
    assert 0.4 <= min(tries) < 0.6


@pytest.mark.parametrize(
    "wrong",
    [{"tokens": -1}, {"tokens": "many"}, {"interval_ms": -5}, {"tokenz": 3}, {"text": 5}, {"fail_at": -1}],
)
def test_malformed_input_is_refused(wrong: dict[str, Any]):
    """A typo or a wrong type is no run."""
    with pytest.raises(errors.InvalidInput):
        registry.get("demo").parse(wrong)


async def played(wanted: dict[str, Any], said: list[dict[str, Any]], inbox: tuple[str, ...] = ()) -> str:
    """Play a run through its pauses, each decided by the next of `said`; returns the text."""
    run = await run_engine("demo", {"interval_ms": 0, **wanted}, inbox=inbox)
    decisions: dict[str, Decision] = {}
    for segment, decided in enumerate(said, 2):
        assert run.action is not None
        asked = [call.call_id for call in run.action.calls] or [q.question_id for q in run.action.questions]
        decisions |= {name: Decision(id=name, **decided) for name in asked}
        state, channel = run.checkpoint, MemoryChannel(run.fold, epoch=segment + 1)
        run = await run_engine(
            "demo",
            {"interval_ms": 0, **wanted},
            segment=segment,
            state=state,
            decisions=decisions,
            channel=channel,
        )
    assert run.action is None
    return run.text


@pytest.mark.parametrize(
    ("wanted", "said", "text"),
    [
        ({"tokens": 2, "ask_at": [0]}, [{"type": "answer", "text": "yes"}], "yes w0 w1"),
        ({"tokens": 2, "ask_at": [1]}, [{"type": "answer", "text": "yes"}], "w0 yes w1"),
        ({"tokens": 2, "approve_at": [0]}, [{"type": "approve"}], "w0 w1"),
        ({"tokens": 2, "approve_at": [0]}, [{"type": "reject"}], "[rejected:0] w1"),
        ({"tokens": 2, "approve_at": [0]}, [{"type": "edit", "arguments": {"at": 7}}], "w7 w1"),
        ({"tokens": 2, "approve_at": [0]}, [{"type": "respond", "text": "hi"}], "hi w1"),
        (
            {"tokens": 3, "ask_at": [0, 1], "approve_at": [0, 2]},
            [
                {"type": "answer", "text": "a"},
                {"type": "approve"},
                {"type": "answer", "text": "b"},
                {"type": "reject"},
            ],
            "a w0 b w1 [rejected:2]",
        ),
        ({"text": "one two", "ask_at": [0]}, [{"type": "answer", "text": "zero"}], "zero one two"),
    ],
)
async def test_what_humans_decide_is_inserted(wanted: dict[str, Any], said: list[dict[str, Any]], text: str):
    """Each piece is preceded by one space, unless it is the first."""
    assert await played(wanted, said) == text


async def test_what_users_say_is_echoed_if_wanted():
    """Before the next word; without `echo_input` nobody reads it."""
    assert await played({"tokens": 2, "echo_input": True}, [], ("hello", "you")) == "hello you w0 w1"
    assert await played({"tokens": 2}, [], ("hello",)) == "w0 w1"
