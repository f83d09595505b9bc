"""The conformance suite's agent in Pydantic AI."""

from __future__ import annotations

from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from mainstem_tasks.engines.pydantic_ai import serve_agent
from support.engines import framework_tools


class City(BaseModel):
    """A structured answer."""

    name: str
    people: int


def serve(url: str) -> None:
    """Serve `pydantic_ai` and `pydantic_ai_city`, on a provider at this address."""
    client = AsyncOpenAI(base_url=url, api_key="sk-verysecretkey", max_retries=0)
    model = OpenAIChatModel("mock-1", provider=OpenAIProvider(openai_client=client))
    agent = Agent(model, name="main")
    agent.tool_plain(requires_approval=True)(framework_tools.transfer)
    for tool in (framework_tools.get_weather, framework_tools.block, framework_tools.wait):
        agent.tool_plain(tool)
    serve_agent("pydantic_ai", agent, aclose=client.close)
    serve_agent("pydantic_ai_city", Agent(model, name="cities", output_type=City))
