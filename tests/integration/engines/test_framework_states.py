"""What a framework's state keeps: what follows the thread's messages, which the thread has."""

from __future__ import annotations

from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, UserPromptPart

from mainstem_tasks.engines.frameworks.conversations import without_thread
from mainstem_tasks.engines.pydantic_ai import histories


def test_a_state_leaves_out_what_the_thread_has():
    """However long the thread is; what follows it is there as it was."""
    thread: list[ModelMessage] = [
        ModelRequest(parts=[UserPromptPart("x" * 100_000)]),
        ModelResponse(parts=[TextPart("y")]),
    ]
    said = ModelRequest(parts=[UserPromptPart("now")])
    state = histories.state_of([*thread, said], thread)
    assert state["after_thread"]
    assert len(str(state)) < 1000
    (kept,) = state["messages"]
    assert kept["parts"][0]["content"] == "now"


def test_messages_that_a_framework_changed_are_kept_whole():
    """A history processor may shorten or rewrite them: then they are not the thread's any more."""
    assert without_thread(["a", "b", "now"], ["a", "b"]) == ["now"]
    assert without_thread(["summary", "now"], ["a", "b"]) is None
    assert without_thread(["a"], ["a", "b"]) is None
    assert without_thread(["now"], []) is None
