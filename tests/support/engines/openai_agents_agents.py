"""The conformance suite's agent in the OpenAI Agents SDK."""

from __future__ import annotations

from agents import Agent, OpenAIChatCompletionsModel, function_tool
from openai import AsyncOpenAI
from pydantic import BaseModel

from mainstem_tasks.engines.openai_agents import as_tool, serve_agent
from support.engines import framework_tools


class Question(BaseModel):
    """What an agent in a tool is asked."""

    question: str


def serve(url: str) -> None:
    """Serve `openai_agents`, on a provider at this address."""
    client = AsyncOpenAI(base_url=url, api_key="sk-verysecretkey", max_retries=0)
    model = OpenAIChatCompletionsModel(model="mock-1", openai_client=client)
    expert = Agent(name="expert", model=model, instructions="You are an expert.")
    tools = [
        function_tool(framework_tools.transfer, needs_approval=True),
        function_tool(framework_tools.get_weather),
        function_tool(framework_tools.block),
        function_tool(framework_tools.wait),
    ]
    asking = [
        as_tool(
            Agent(name=name, model=model, tools=[*tools]),
            f"ask_{name}",
            "Ask an agent.",
            parameters=Question,
            input_builder=lambda given: given["params"]["question"],
        )
        for name in ("expert", "writer", "payer", "waiter")
    ]
    main = Agent(name="main", model=model, tools=[*tools, *asking], handoffs=[expert])
    serve_agent("openai_agents", main, aclose=client.close)
