"""`docs/engines.md` runs as written: its code is executed from the page, and its tests are run here."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

from mainstem_shared import errors
from mainstem_shared.model.actions import Decision
from mainstem_tasks.sdk import registry
from mainstem_tasks.testing import MemoryChannel, run_engine

PAGE: Final = Path(__file__, "..", "..", "..", "docs", "engines.md").resolve()


@pytest.fixture(scope="module")
def tutorial() -> Iterator[Any]:
    """The page's Python, top to bottom, as one module; its engines are forgotten afterwards."""
    registry.load()
    before = dict(registry._engines)
    module = ModuleType("engines_tutorial")
    sys.modules[module.__name__] = module
    try:
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
            exec(compile(block, str(PAGE), "exec"), module.__dict__)
        yield module
    finally:
        del sys.modules[module.__name__]
        registry._engines.clear()
        registry._engines.update(before)


async def test_the_first_engine_shouts(tutorial: Any):
    """An engine is a function: what it emits is the answer."""
    run = await run_engine("shout", {"text": "hello there"})
    assert run.text == "HELLO! THERE! "


async def test_an_input_model_refuses_what_does_not_fit(tutorial: Any):
    """The model decides about the input; the title belongs to the run."""
    run = await run_engine(tutorial.countdown, {"start": 1})
    assert (run.text, run.fold.title) == ("1 0 ", "From 1 to 0")
    with pytest.raises(errors.InvalidInput, match="start"):
        await run_engine("countdown", {"start": -1})


async def test_a_tool_call_has_its_result_and_its_step(tutorial: Any):
    """A repeated run of the same id books with the same key."""
    runs = [await run_engine("travel", run_id="r1", segment=segment) for segment in (1, 2)]
    assert [part["type"] for part in runs[0].content] == ["reasoning", "tool_call", "text"]
    assert runs[0].content[1]["result"] == runs[1].content[1]["result"]
    assert {step["state"] for step in runs[0].fold.steps} == {"completed"}


async def test_a_plain_function_is_an_engine(tutorial: Any):
    """A plain `def` emits without `await`."""
    run = await run_engine("blocking", {"lines": ["a", "b"]})
    assert run.text == "a\nb\n"


async def test_an_engine_asks_a_human_and_is_entered_again(tutorial: Any):
    """Nothing of the first segment runs twice; the decision says what the tool is called with."""
    run = await run_engine("payment", {"amount": 5})
    assert run.action is not None
    assert (run.text, run.checkpoint, run.action.calls[0].call_id) == ("I am going to pay. ", b"1", "pay")
    decided = {"pay": Decision(id="pay", type="edit", name="transfer", arguments={"amount": 4})}
    channel = MemoryChannel(run.fold, epoch=5)
    again = await run_engine(
        "payment", {"amount": 5}, segment=2, state=b"1", decisions=decided, channel=channel
    )
    assert (again.action, again.text) == (None, "I am going to pay. ")
    assert again.content[1]["result"] == {"paid": 4}


async def test_an_engine_hears_what_users_say_meanwhile(tutorial: Any):
    """It is an event in its place; what comes after it is a part of its own."""
    run = await run_engine("patient", {"text": "one two"}, inbox=["hello", "again"])
    assert run.text == "(hello) (again) one two "
    assert [said["text"] for said in run.payloads("input.accepted")] == ["hello", "again"]
    assert [said["part"] for said in run.fold.inputs] == [0, 1]


async def test_the_pages_own_tests_pass(tutorial: Any):
    """The tests that the page shows are tests."""
    shown = [value for name, value in vars(tutorial).items() if name.startswith("test_")]
    assert len(shown) == 2
    for test in shown:
        await test()


async def test_the_page_names_every_way_to_emit(tutorial: Any):
    """No method of the context that emits is missing on the page."""
    page = PAGE.read_text()
    emitting = ("text", "reasoning", "tool_call", "tool_call_start", "tool_call_delta", "tool_result", "step")
    for name in (*emitting, "title", "usage", "context_usage", "agent", "custom"):
        assert re.search(rf"\b{name}\(", page), name
