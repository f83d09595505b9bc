"""The conformance suite's agent in LangGraph: LangChain's agent with its middleware for human decisions."""

from __future__ import annotations

from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from openai import DefaultAsyncHttpxClient
from pydantic import SecretStr

from mainstem_tasks.engines.langgraph import serve_graph
from support.engines import framework_tools


def serve(url: str) -> None:
    """Serve `langgraph`, on a provider at this address."""
    client = DefaultAsyncHttpxClient()  # else models of one address share one, over all loops
    model = ChatOpenAI(
        model="mock-1",
        base_url=url,
        api_key=SecretStr("sk-verysecretkey"),
        stream_usage=True,
        max_retries=0,
        http_async_client=client,
    )
    functions = (
        framework_tools.transfer,
        framework_tools.get_weather,
        framework_tools.block,
        framework_tools.wait,
    )
    tools = [tool(function) for function in functions]
    asks: Any = {"transfer": {"allowed_decisions": ["approve", "edit", "reject", "respond"]}}
    review = HumanInTheLoopMiddleware(interrupt_on=asks)

    def delegate(name: str) -> Any:
        """A tool that runs an agent of its own."""
        agent = create_agent(model, tools=tools, name=name, middleware=[review])

        async def ask(question: str) -> str:
            answer = await agent.ainvoke({"messages": [("user", question)]})
            return str(answer["messages"][-1].content)

        return tool(f"ask_{name}", description="Ask an agent.")(ask)

    asking = [delegate(name) for name in ("expert", "writer", "payer", "waiter")]
    serve_graph(
        "langgraph",
        lambda checkpointer: create_agent(
            model, tools=[*tools, *asking], name="main", middleware=[review], checkpointer=checkpointer
        ),
        aclose=client.aclose,
    )
