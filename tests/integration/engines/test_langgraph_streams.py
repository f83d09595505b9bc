"""What a LangGraph engine shows, and in which order: of models in coroutines and threads, of nodes, of subgraphs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk
from langgraph.config import get_stream_writer
from langgraph.constants import TAG_NOSTREAM
from langgraph.graph import END, START, MessagesState, StateGraph

from mainstem_shared import errors
from mainstem_shared.model.events import CONTENT_LIMIT
from mainstem_tasks.engines.langgraph import serve_graph
from mainstem_tasks.testing import EngineRun, run_engine


def says(*texts: str, **options: Any) -> GenericFakeChatModel:
    """A model that streams these answers, one a call, in pieces of a word."""
    return GenericFakeChatModel(messages=iter([AIMessage(text) for text in texts]), **options)


def one_node(node: Callable[..., Any]) -> Any:
    graph: Any = StateGraph(MessagesState)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    graph.add_edge("node", END)
    return graph.compile()


async def shown(name: str, graph: Any, **options: Any) -> EngineRun:
    serve_graph(name, graph)
    return await run_engine(name, {"text": "go"}, **options)


def kinds(run: EngineRun) -> list[Any]:
    return [part.get("text") or part["value"] for part in run.content]


class Writing(GenericFakeChatModel):
    """A model that writes before each of its words, with no turn of the loop in between."""

    async def _astream(self, *_: Any, **__: Any) -> AsyncIterator[ChatGenerationChunk]:
        for number in (1, 2):
            get_stream_writer()({"n": number})
            yield ChatGenerationChunk(message=AIMessageChunk(content=f"{number} "))


async def test_what_a_node_writes_keeps_its_place_among_the_words():
    """Before, among and after the words of a model."""

    async def node(state: MessagesState) -> Any:
        get_stream_writer()({"n": 0})
        answer = await Writing(messages=iter(())).ainvoke(state["messages"])
        get_stream_writer()({"n": 3})
        return {"messages": [answer]}

    run = await shown("lgs_places", one_node(node))
    assert kinds(run) == [{"n": 0}, {"n": 1}, "1 ", {"n": 2}, "2 ", {"n": 3}]


async def test_what_a_plain_node_shows_from_its_thread_is_in_order():
    """A plain function's model streams from a thread; each word is there when the node goes on."""
    seen: list[str] = []

    def node(state: MessagesState) -> Any:
        write = get_stream_writer()
        write({"n": 1})
        seen.extend(str(piece.content) for piece in says("one two three").stream(state["messages"]))
        write({"n": 2})
        return {"messages": []}

    run = await shown("lgs_thread", one_node(node))
    assert kinds(run) == [{"n": 1}, "one two three", {"n": 2}]
    assert "".join(seen) == "one two three"


async def test_messages_of_nodes_and_of_models_that_do_not_stream_are_shown_once():
    """Also those of a subgraph, which its node returns once more; what came in is not shown."""

    async def inner(state: MessagesState) -> Any:
        whole = await says("Whole.", disable_streaming=True).ainvoke(state["messages"])
        streamed = await says("Streamed.").ainvoke(state["messages"])
        return {"messages": [whole, streamed, AIMessage("Made.")]}

    graph: Any = StateGraph(MessagesState)
    graph.add_node("below", one_node(inner))
    graph.add_node("again", lambda state: {"messages": state["messages"]})
    graph.add_edge(START, "below")
    graph.add_edge("below", "again")
    run = await shown("lgs_once", graph.compile())
    assert run.text == "Whole.Streamed.Made."


async def test_a_model_that_is_tagged_so_is_not_shown():
    """LangGraph's own tag."""

    async def node(state: MessagesState) -> Any:
        await says("hidden").with_config(tags=[TAG_NOSTREAM]).ainvoke(state["messages"])
        await says("seen").ainvoke(state["messages"])
        return {"messages": []}

    run = await shown("lgs_hidden", one_node(node))
    assert run.text == "seen"


async def test_a_word_that_has_no_room_ends_the_run_also_if_the_node_survives_it():
    """A node may take any failure of its model for the provider's, and go on to another model."""

    async def node(state: MessagesState) -> Any:
        with contextlib.suppress(Exception):
            await says("x" * (CONTENT_LIMIT + 1)).ainvoke(state["messages"])
        return {"messages": []}

    run = await shown("lgs_large", one_node(node), check=False)
    assert isinstance(run.error, errors.ContentTooLarge)


async def test_a_whole_answer_that_has_no_room_was_paid_for():
    """It is not shown, and its tokens count: the provider has made it."""
    used: Any = {"input_tokens": 7, "output_tokens": 2, "total_tokens": 9}
    large = AIMessage("x" * (CONTENT_LIMIT + 1), usage_metadata=used)

    async def node(state: MessagesState) -> Any:
        model = GenericFakeChatModel(messages=iter([large]), disable_streaming=True)
        return {"messages": [await model.ainvoke(state["messages"])]}

    run = await shown("lgs_paid", one_node(node), check=False)
    assert isinstance(run.error, errors.ContentTooLarge)
    assert run.usage is not None
    assert (run.usage.input_tokens, run.usage.output_tokens) == (7, 2)


async def test_words_of_parallel_nodes_are_all_there():
    """Each says its own, a word at a time, in turns."""

    def node(word: str) -> Callable[[MessagesState], Any]:
        async def speak(state: MessagesState) -> Any:
            async for _ in says(" ".join([word] * 20)).astream(state["messages"]):
                await asyncio.sleep(0)
            return {"messages": []}

        return speak

    graph: Any = StateGraph(MessagesState)
    for word in ("a", "b", "c"):
        graph.add_node(word, node(word))
        graph.add_edge(START, word)
    run = await shown("lgs_parallel", graph.compile())
    assert {word: run.text.count(word) for word in "abc"} == {"a": 20, "b": 20, "c": 20}


@pytest.mark.parametrize("failing", ["before", "after"])
async def test_what_was_shown_before_a_failure_is_kept(failing: str):
    """The failure is the node's own, and what it wrote and said before it is in the content."""

    async def node(state: MessagesState) -> Any:
        get_stream_writer()({"n": 1})
        if failing == "after":
            await says("said").ainvoke(state["messages"])
            get_stream_writer()({"n": 2})
        raise RuntimeError("broken")

    run = await shown(f"lgs_fails_{failing}", one_node(node), check=False)
    assert str(run.error) == "broken"
    assert kinds(run) == ([{"n": 1}] if failing == "before" else [{"n": 1}, "said", {"n": 2}])
