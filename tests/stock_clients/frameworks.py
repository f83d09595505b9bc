"""Frameworks of PyPI as clients, unmodified: `python frameworks.py URL FRAMEWORK` does a scenario, prints JSON.

Runs in an environment of its own (`make frameworks`): nothing here knows Mainstem, and Mainstem does not need
any of it. The engine `delegating` leaves one call, of `pick`, to its caller, and says what that answered.
"""

# ruff: noqa: T201 - each framework is imported by who uses it; the result goes to stdout

# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

QUESTION = "Which colour?"


def pick(of: list[str]) -> str:
    """Pick a colour."""
    return of[1]


async def openai_agents(url: str) -> dict[str, Any]:
    """A tool loop of its Runner over each API, whole and streamed; then a conversation kept by the server."""
    import agents
    from openai import AsyncOpenAI

    agents.set_tracing_disabled(disabled=True)
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0)
    said: dict[str, Any] = {}
    for name, kind in (
        ("responses", agents.OpenAIResponsesModel),
        ("chat", agents.OpenAIChatCompletionsModel),
    ):
        model = kind(model="delegating", openai_client=client)
        agent = agents.Agent(name="a", model=model, tools=[agents.function_tool(pick)])
        said[name] = (await agents.Runner.run(agent, QUESTION)).final_output
        streamed = agents.Runner.run_streamed(agent, QUESTION)
        async for _ in streamed.stream_events():
            pass
        said[f"{name} streamed"] = streamed.final_output
    model = agents.OpenAIResponsesModel(model="echo_history", openai_client=client)
    talker = agents.Agent(name="b", model=model)
    talk = await client.conversations.create()
    for text in ("One", "Two"):
        answer = await agents.Runner.run(talker, text, conversation_id=talk.id)
    said["conversation"] = answer.final_output
    await client.close()
    return said


async def langchain_openai(url: str) -> dict[str, Any]:
    """Bound tools in both of its modes, whole and streamed."""
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_openai import ChatOpenAI

    said: dict[str, Any] = {}
    for name, responses in (("responses", True), ("chat", False)):
        chat = ChatOpenAI(
            model="delegating",
            base_url=f"{url}/v1",
            api_key="unused",
            max_retries=0,
            use_responses_api=responses,
        ).bind_tools([pick])
        asked: list[Any] = [HumanMessage(QUESTION)]
        first = await chat.ainvoke(asked)
        (call,) = first.tool_calls
        asked += [first, ToolMessage(pick(**call["args"]), tool_call_id=call["id"])]
        said[name] = (await chat.ainvoke(asked)).text
        said[f"{name} streamed"] = "".join([piece.text async for piece in chat.astream(asked)])
    return said


async def pydantic_ai(url: str) -> dict[str, Any]:
    """Its agent's tool loop over each API, whole and streamed."""
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider

    provider = OpenAIProvider(base_url=f"{url}/v1", api_key="unused")
    said: dict[str, Any] = {}
    for name, kind in (("responses", OpenAIResponsesModel), ("chat", OpenAIChatModel)):
        agent = Agent(kind("delegating", provider=provider), tools=[pick])
        said[name] = (await agent.run(QUESTION)).output
        streamed = await agent.run(QUESTION, event_stream_handler=_read)
        said[f"{name} streamed"] = streamed.output
    return said


async def litellm(url: str) -> dict[str, Any]:
    """A call of the caller's in both of its modes, whole and streamed; turns; what is refused."""
    import litellm as llm

    llm.drop_params = False
    about = {"api_base": f"{url}/v1", "api_key": "unused", "max_retries": 0}
    schema = {"type": "object", "properties": {"of": {"type": "array", "items": {"type": "string"}}}}
    tools = [{"type": "function", "function": {"name": "pick", "parameters": schema}}]
    said: dict[str, Any] = {}
    asked: list[Any] = [{"role": "user", "content": QUESTION}]
    first = (
        (await llm.acompletion(model="openai/delegating", messages=asked, tools=tools, **about))
        .choices[0]
        .message
    )
    (call,) = first.tool_calls
    result = {"role": "tool", "tool_call_id": call.id, "content": pick(**json.loads(call.function.arguments))}
    told = [*asked, first.model_dump(exclude_none=True), result]
    done = await llm.acompletion(model="openai/delegating", messages=told, tools=tools, **about)
    said["chat"] = done.choices[0].message.content
    pieces = await llm.acompletion(
        model="openai/delegating", messages=told, tools=tools, stream=True, **about
    )
    said["chat streamed"] = "".join([piece.choices[0].delta.content or "" async for piece in pieces])
    flat = [{"type": "function", "name": "pick", "parameters": schema, "strict": None}]
    begun = await llm.aresponses(input=QUESTION, model="openai/delegating", tools=flat, **about)
    (call,) = [item for item in begun.output if item.type == "function_call"]
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "blue"}
    after = {"previous_response_id": begun.id, "tools": flat, "model": "openai/delegating", **about}
    said["responses"] = (await llm.aresponses(input=[output], **after)).output_text
    events = await llm.aresponses(input=[output], stream=True, **after)
    said["responses streamed"] = "".join(
        [event.delta async for event in events if event.type == "response.output_text.delta"]
    )
    turns = [*({"role": "user", "content": "One"}, {"role": "assistant", "content": "First"})]
    turns.append({"role": "user", "content": "Two"})
    answered = await llm.acompletion(model="openai/echo_history", messages=turns, **about)
    said["turns"] = answered.choices[0].message.content
    try:
        await llm.acompletion(
            "openai/nothing", asked, extra_body={"mainstem": {"engine": "nothing"}}, **about
        )
    except Exception as error:
        said["refused"] = type(error).__name__
    return said


async def _read(context: Any, events: Any) -> None:
    """Read a stream's events, as a page would that shows them."""
    del context
    async for _ in events:
        pass


async def a2a(url: str) -> dict[str, Any]:
    """A stream, a subscription in the middle of one, input required and given, a cancel, a list."""
    from a2a.client import create_client
    from a2a.types import a2a_pb2 as pb

    client = await create_client(f"{url}/v1/a2a/demo")
    said: dict[str, Any] = {}

    def request(text: str, *, demo: dict[str, Any] | None = None, **about: str) -> Any:
        message = pb.Message(
            message_id=str(uuid.uuid4()), role=pb.ROLE_USER, parts=[pb.Part(text=text)], **about
        )
        wanted = pb.SendMessageRequest(message=message)
        if demo is not None:
            wanted.metadata.update({"mainstem": {"input": demo}})
        return wanted

    seen = [event async for event in client.send_message(request("Hello there"))]
    said["text"] = _text(seen)
    said["state"] = _states(seen)[-1]
    begun: list[Any] = []
    async for event in client.send_message(request("x", demo={"tokens": 60, "interval_ms": 20})):
        begun.append(event)
        if len(_text(begun)) > 12:
            break
    task = begun[0].task
    rest = [event async for event in client.subscribe(pb.SubscribeToTaskRequest(id=task.id))]
    said["subscribed"] = _text(rest)
    asked = [event async for event in client.send_message(request("x", demo={"tokens": 4, "ask_at": [2]}))]
    said["asked"] = _states(asked)[-1]
    about = {"task_id": asked[0].task.id, "context_id": asked[0].task.context_id}
    answered = [event async for event in client.send_message(request("blue", **about))]
    said["answered"] = _states(answered)[-1]
    got = await client.get_task(pb.GetTaskRequest(id=about["task_id"]))
    said["artifact"] = got.artifacts[0].parts[0].text
    async for event in client.send_message(request("x", demo={"tokens": 100000, "interval_ms": 5})):
        if event.HasField("artifact_update"):
            break
        if event.HasField("task"):
            task = event.task
    cancelled = await client.cancel_task(pb.CancelTaskRequest(id=task.id))
    said["cancelled"] = pb.TaskState.Name(cancelled.status.state)
    listed = await client.list_tasks(pb.ListTasksRequest(context_id=about["context_id"]))
    said["listed"] = [found.id for found in listed.tasks] == [about["task_id"]]
    try:
        await client.get_task(pb.GetTaskRequest(id="nothing"))
    except Exception as error:
        said["unknown"] = type(error).__name__
    await client.close()
    return said


def _text(events: list[Any]) -> str:
    """What a client that keeps artifacts has of the answer."""
    text = ""
    for event in events:
        if event.HasField("task"):
            text = "".join(a.parts[0].text for a in event.task.artifacts if a.artifact_id == "answer")
        elif event.HasField("artifact_update") and event.artifact_update.artifact.artifact_id == "answer":
            piece = event.artifact_update.artifact.parts[0].text
            text = text + piece if event.artifact_update.append else piece
    return text


def _states(events: list[Any]) -> list[str]:
    from a2a.types import a2a_pb2 as pb

    found = [event.task if event.HasField("task") else event.status_update for event in events]
    return [pb.TaskState.Name(each.status.state) for each in found if each.status.state]


async def langgraph(url: str) -> dict[str, Any]:
    """Threads, a stream that is joined again, wait, an interrupt that is resumed, cancel, state and history."""
    from langgraph_sdk import get_client

    client = get_client(url=f"{url}/v1/langgraph", api_key=None)
    thread = (await client.threads.create())["thread_id"]
    said: dict[str, Any] = {}

    def asks(text: str) -> dict[str, Any]:
        return {"messages": [{"type": "human", "content": text}]}

    first = await client.runs.wait(thread, "echo_history", input=asks("One"))
    said["wait"] = first["messages"][-1]["content"]
    second = [
        part
        async for part in client.runs.stream(thread, "echo_history", input=asks("Two"), stream_mode="values")
    ]
    said["values"] = second[-1].data["messages"][-1]["content"]
    state = await client.threads.get_state(thread)
    said["state"] = [message["type"] for message in state["values"]["messages"]]
    said["history"] = len(await client.threads.get_history(thread))
    other = (await client.threads.create())["thread_id"]
    wanted = {"tokens": 60, "interval_ms": 20}
    begun, last = "", None
    async for part in client.runs.stream(
        other, "demo", input=wanted, stream_mode="messages-tuple", stream_resumable=True
    ):
        if part.event == "metadata":
            run_id = part.data["run_id"]
        elif part.event == "messages":
            begun, last = begun + part.data[0]["content"], part.id
            if len(begun) > 30:
                break
    async for part in client.runs.join_stream(other, run_id, last_event_id=last):
        if part.event == "messages":
            begun += part.data[0]["content"]
    said["joined"] = begun
    asking = {"tokens": 4, "interval_ms": 0, "approve_at": [2]}
    paused = await client.runs.wait(other, "demo", input=asking)
    said["interrupt"] = paused["__interrupt__"][0]["value"]["kind"]
    said["status"] = (await client.threads.get(other))["status"]
    resumed = await client.runs.wait(other, "demo", command={"resume": True})
    said["resumed"] = resumed["messages"][-2]["content"]
    long = await client.runs.create(other, "demo", input={"tokens": 100000, "interval_ms": 5})
    await client.runs.cancel(other, long["run_id"], wait=True)
    said["cancelled"] = (await client.runs.get(other, long["run_id"]))["status"]
    found = await client.assistants.search(limit=100)
    said["assistants"] = "demo" in [assistant["assistant_id"] for assistant in found]
    return said


SCENARIOS: dict[str, Callable[[str], Awaitable[dict[str, Any]]]] = {
    "openai-agents": openai_agents,
    "langchain-openai": langchain_openai,
    "pydantic-ai": pydantic_ai,
    "litellm": litellm,
    "a2a-sdk": a2a,
    "langgraph-sdk": langgraph,
}

if __name__ == "__main__":
    print(json.dumps(asyncio.run(SCENARIOS[sys.argv[2]](sys.argv[1]))))
