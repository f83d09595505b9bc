"""The conformance suite's agent in Pydantic AI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from mainstem_tasks.engines.pydantic_ai import delegate, serve_agent
from support.engines import framework_tools


class City(BaseModel):
    """A structured answer."""

    name: str
    people: int


def equipped(agent: Agent[None, str]) -> Agent[None, str]:
    """Give an agent the tools of all frameworks' agents."""
    agent.tool_plain(requires_approval=True)(framework_tools.transfer)
    for tool in (framework_tools.get_weather, framework_tools.block, framework_tools.wait):
        agent.tool_plain(tool)
    return agent


def asking(agent: Agent[None, str]) -> Callable[[str], Awaitable[str]]:
    """Return a tool that lets an agent of its own work."""

    async def ask(question: str) -> str:
        return (await delegate(agent, question)).output

    return ask


def serve(url: str) -> None:
    """Serve `pydantic_ai` and `pydantic_ai_city`, on a provider at this address."""
    client = AsyncOpenAI(base_url=url, api_key="sk-verysecretkey", max_retries=0)
    model = OpenAIChatModel("mock-1", provider=OpenAIProvider(openai_client=client))
    agent = equipped(Agent(model, name="main"))
    for name in ("expert", "writer", "payer", "waiter"):
        agent.tool_plain(name=f"ask_{name}")(asking(equipped(Agent(model, name=name))))
    serve_agent("pydantic_ai", agent, aclose=client.close)
    serve_agent("pydantic_ai_city", Agent(model, name="cities", output_type=City))
