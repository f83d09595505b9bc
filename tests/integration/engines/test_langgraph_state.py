"""What a graph's state lacks of its thread is added before a turn; what the graph removed is not."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, RemoveMessage, ToolMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.message import REMOVE_ALL_MESSAGES

from mainstem_api import AsyncRuns
from mainstem_shared.model.messages import Message
from mainstem_shared.settings import Settings
from mainstem_tasks.engines.langgraph import ThreadSaver, serve_graph
from mainstem_tasks.engines.langgraph.completion import missing
from mainstem_tasks.execution import segments
from support.processes.in_process_worker import working


def said(role: str, run_id: str, *parts: dict[str, Any]) -> Message:
    return Message(
        id=f"{run_id}.{role}", role=role, parts=list(parts), run_id=run_id, created_at="2026-01-01T00:00:00Z"
    )


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


CALL = {"type": "tool_call", "call_id": "c", "name": "f", "arguments": {}, "result": None, "state": "aborted"}
CALLING = AIMessage("", tool_calls=[{"id": "c", "name": "f", "args": {}}])


@pytest.mark.parametrize(
    ("state", "answer", "lacks"),
    [
        ([], [text("Once")], [("ai", "Once")]),
        ([CALLING], [CALL], [("tool", "The call was not answered.")]),
        ([CALLING], [{**CALL, "result": 7, "state": "completed"}], [("tool", "7")]),
        ([CALLING, ToolMessage("7", tool_call_id="c")], [{**CALL, "result": 7}, text("So")], [("ai", "So")]),
        ([AIMessage("Yes.")], [text("Yes.")], []),
    ],
)
def test_a_broken_turn_is_completed(
    state: list[BaseMessage], answer: list[dict[str, Any]], lacks: list[tuple[str, str]]
):
    """The words of an answer that broke off, and a result for each call, from what the thread has."""
    thread = [said("user", "r1", text("hi")), said("assistant", "r1", *answer)]
    found = missing([HumanMessage("hi"), *state], thread, "r1")
    assert found is not None
    assert [(message.type, message.content) for message in found] == lacks


async def test_what_a_graph_removes_stays_removed(settings: Settings, runs: AsyncRuns):
    """A summary that took the place of an answer: the next turn has the summary alone."""
    seen: list[list[Any]] = []

    def answer(state: Any) -> dict[str, Any]:
        seen.append([message.content for message in state["messages"]])
        return {"messages": [AIMessage(f"answer {len(seen)}")]}

    def summarise(state: Any) -> dict[str, Any]:
        return {"messages": [RemoveMessage(id=REMOVE_ALL_MESSAGES), HumanMessage("summary")]}

    graph: Any = StateGraph(MessagesState)
    graph.add_sequence([answer, summarise])
    graph.add_edge(START, "answer")
    serve_graph("lg_forgets", graph.compile())
    async with working(settings) as worker:
        for words in ("one", "two"):
            run_id = (await runs.start("t", "lg_forgets", {"text": words})).run_id
            await segments.execute(worker, run_id, task_id="t")
    assert seen == [["one"], ["summary", "two"]]


def test_turns_of_others_are_added_and_other_branches_are_not_mixed():
    """A killed run's turn, or another engine's, follows; a state of another branch is given up."""
    thread = [said("user", "r1", text("a")), said("assistant", "r1", text("b"))]
    thread += [said("user", "r2", text("c")), said("assistant", "r2", text("d"))]
    found = missing([HumanMessage("a"), AIMessage("b")], thread, "r1")
    assert found is not None
    assert [message.content for message in found] == ["c", "d"]
    assert missing([HumanMessage("x"), AIMessage("y")], thread, "r9") is None
    assert missing([], [], None) == []


def test_a_damaged_memory_is_refused():
    """Rather than a graph that begins anew in the middle of a conversation."""
    with pytest.raises(ValueError, match="no version"):
        ThreadSaver({"graph/x": b'[["other"],[]]\n'})
