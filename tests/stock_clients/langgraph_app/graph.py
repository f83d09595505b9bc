"""The engines `agent` and `slow` of the tests as graphs, for `langgraph dev`: it says what clients are to see."""

# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false, reportMissingTypeArgument=false
# pyright: reportUntypedBaseClass=false

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import interrupt
from typing_extensions import TypedDict


class State(TypedDict):
    """What both graphs keep."""

    messages: Annotated[list, add_messages]


async def agent(state: State) -> dict[str, Any]:
    """Say what was said; ask first if that is wanted; fail if it is."""
    said = state["messages"][-1].content
    if said == "ask":
        said = interrupt("What shall I say?")
    if said == "fail":
        raise ValueError("asked to fail")
    get_stream_writer()({"progress": 1})
    model = GenericFakeChatModel(messages=iter([AIMessage(content=f"You said {said}.")]))
    return {"messages": [await model.ainvoke(state["messages"])]}


async def never(state: State) -> dict[str, Any]:
    """Work until somebody stops it."""
    del state
    await asyncio.sleep(600)
    return {}


def _graph(node: Any) -> Any:
    builder = StateGraph(State)
    builder.add_node("agent", node)
    builder.add_edge(START, "agent")
    builder.add_edge("agent", END)
    return builder.compile()


graph, slow = _graph(agent), _graph(never)
