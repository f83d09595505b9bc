"""The demo engine: its exact text is what every reader's proof stands on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstem_shared import errors
from mainstem_tasks import registry
from mainstem_tasks.engines.demo import DemoError, DemoInput, words
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
    begun = loop.time()
    result = await run_engine("demo", {"tokens": 21, "interval_ms": 20}, channel=Slow())
    took_s = loop.time() - begun
    assert result.text.endswith("w20")
    # 20 intervals of 20 ms; with the delays added it would be 700 ms.
    assert 0.4 <= took_s < 0.6


@pytest.mark.parametrize(
    "wrong",
    [{"tokens": -1}, {"tokens": "many"}, {"interval_ms": -5}, {"tokenz": 3}, {"text": 5}, {"fail_at": -1}],
)
def test_malformed_input_is_refused(wrong: dict[str, Any]):
    """A typo or a wrong type is no run."""
    with pytest.raises(errors.InvalidInput):
        registry.get("demo").parse(wrong)
