"""The conformance suite's agent in the OpenAI Agents SDK."""

from __future__ import annotations

from agents import Agent, OpenAIChatCompletionsModel, function_tool
from openai import AsyncOpenAI

from mainstem_tasks.engines.openai_agents import serve_agent
from support.engines import framework_tools


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
    main = Agent(name="main", model=model, tools=tools, handoffs=[expert])
    serve_agent("openai_agents", main, aclose=client.close)
