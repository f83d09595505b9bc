"""An agent of each framework, and of each built-in engine, that orders something once a human has approved it.

The order is an effect (`run.effect`), or is sent under the call's own idempotency key where tools have no run.
The receiver is a hash in another database of the store's server: it counts how often each key came.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final
from unittest import mock

import redis
from agents import Agent as SdkAgent
from agents import OpenAIChatCompletionsModel, RunContextWrapper, function_tool
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain.tools import ToolRuntime, tool
from langchain_openai import ChatOpenAI
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from pydantic import SecretStr
from pydantic_ai import Agent
from pydantic_ai import RunContext as AgentContext
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from mainstem_tasks.engines import langgraph, openai_agents, pydantic_ai
from mainstem_tasks.sdk import tools
from mainstem_tasks.sdk.context import RunContext
from mainstem_tasks.sdk.tools import ToolCall

RECEIVER: Final = "ORDERS_URL"
"""The variable with the receiver's address: agents may work in a process of their own."""
KEY: Final = "sk-verysecretkey"


def receive(key: str) -> str:
    """Take an order; the same one, if its key came before."""
    with redis.Redis.from_url(os.environ[RECEIVER]) as receiver:
        receiver.hincrby("orders", key, 1)
    return "tea is on its way"


async def _order(run: RunContext[Any]) -> str:
    return await run.effect("order", receive)


async def _in_langgraph(thing: str, runtime: ToolRuntime[Any, Any]) -> str:
    """Order something."""
    return await _order(runtime.context)


async def _in_pydantic_ai(ctx: AgentContext[RunContext[Any]], thing: str) -> str:
    """Order something."""
    return await _order(ctx.deps)


async def _in_openai_agents(ctx: RunContextWrapper[RunContext[Any]], thing: str) -> str:
    """Order something."""
    return await _order(ctx.context)


async def order(thing: str, call: ToolCall) -> str:
    """Order something."""
    return receive(call.idempotency_key)


def _langgraph(url: str) -> None:
    client = DefaultAsyncHttpxClient()
    model = ChatOpenAI(
        model="mock-1",
        base_url=url,
        api_key=SecretStr(KEY),
        stream_usage=True,
        max_retries=0,
        http_async_client=client,
    )
    asks: Any = {"order": {"allowed_decisions": ["approve", "reject"]}}
    langgraph.serve_graph(
        "langgraph",
        lambda checkpointer: create_agent(
            model,
            tools=[tool("order")(_in_langgraph)],
            middleware=[HumanInTheLoopMiddleware(interrupt_on=asks)],
            checkpointer=checkpointer,
        ),
        context=lambda run: run,
        aclose=client.aclose,
    )


def _pydantic_ai(url: str) -> None:
    client = AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0)
    agent = Agent(OpenAIChatModel("mock-1", provider=OpenAIProvider(openai_client=client)))
    agent.tool(name="order", requires_approval=True)(_in_pydantic_ai)
    pydantic_ai.serve_agent("pydantic_ai", agent, deps=lambda run: run, aclose=client.close)


def _openai_agents(url: str) -> None:
    client = AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0)
    model = OpenAIChatCompletionsModel(model="mock-1", openai_client=client)
    ordering: Any = function_tool(_in_openai_agents, name_override="order", needs_approval=True)
    agent = SdkAgent(name="main", model=model, tools=[ordering])
    openai_agents.serve_agent("openai_agents", agent, context=lambda run: run, aclose=client.close)


SERVE: Final[dict[str, Callable[[str], None]]] = {
    "langgraph": _langgraph,
    "openai_agents": _openai_agents,
    "pydantic_ai": _pydantic_ai,
}


def registered() -> dict[str, tools.Tool]:
    """Return the built-in engines' one tool, apart from those of other tests."""
    with mock.patch.object(tools, "_tools", {}):
        tools.tool(ask=True)(order)
        return tools._tools


TOOLS: Final = registered()


def asked(column: str, text: str) -> dict[str, Any]:
    """Return the input that says a text on a thread."""
    if column in SERVE:
        return {"text": text}
    return {"messages": [{"role": "user", "content": text}], "history": True, "use_tools": ["order"]}
