"""Engines for tests of frontends: everything an engine can say, and calls that are the client's to answer."""

from __future__ import annotations

import asyncio
from typing import Any

from mainstem_tasks import engine
from mainstem_tasks.sdk.context import RunContext


@engine("rich")
async def rich(run: RunContext[dict[str, Any]]) -> None:
    """Say a little of everything."""
    await run.title("Rich")
    await run.reasoning("Let me ")
    await run.reasoning("look.")
    await run.text("I ask. ")
    await run.tool_call_start("c1", "search")
    for piece in ('{"q":', '"one"}'):
        await run.tool_call_delta("c1", piece)
    await run.tool_call("c1", "search", {"q": "one"})
    await run.custom("progress", {"id": "p", "done": 1})
    await run.custom("progress", {"id": "p", "done": 2})
    await run.tool_result("c1", {"found": 1})
    await run.tool_call("c2", "search", {"q": "two"})
    await run.tool_result("c2", {"error": "no"}, failed=True)
    await run.usage(input_tokens=12, output_tokens=7, cached_input_tokens=4, reasoning_tokens=2)
    await run.text("One.")


@engine("showing")
async def showing(run: RunContext[dict[str, Any]]) -> dict[str, int]:
    """Show what is neither text nor a call, in every way there is."""
    await run.data("d", "weather", {"is": "cold"})
    await run.text("Here.")
    await run.annotate({"type": "url_citation", "url": "https://cited.example", "title": "A"})
    await run.source("https://named.example", title="B")
    await run.file(b"bytes", "image/png", name="plot.png")
    await run.data("d", "weather", {"is": "warm"})
    return {"found": 3}


@engine("delegating")
async def delegating(run: RunContext[dict[str, Any]]) -> None:
    """Leave a call to the client; say what it answered, once it did."""
    last = run.input["messages"][-1]
    if last["role"] == "tool":
        await run.text(f"It is {last['content']}.")
    else:
        await run.text("Let me see. ")
        await run.tool_call("c1", "pick", {"of": ["red", "blue"]})


@engine("steered")
async def steered(run: RunContext[dict[str, Any]]) -> None:
    """Say what was said to it meanwhile, and go on once somebody approved."""
    if not run.decisions:
        await run.text("Go on? ")
        said = await run.inbox.get()
        await run.text(f"You said {said}. ")
        await run.tool_call("c1", "go", {})
        await run.request_approval([{"call_id": "c1", "name": "go", "arguments": {}}])
    await run.tool_result("c1", "gone")
    await run.text("Done.")


@engine("echo_history")
async def echo_history(run: RunContext[dict[str, Any]]) -> None:
    """Say which conversation it got."""
    said = [f"{message['role']}:{message['content']}" for message in run.input["messages"]]
    await run.text("|".join(said))


@engine("agent")
async def agent(run: RunContext[dict[str, Any]]) -> None:
    """Say what was said; ask first if that is wanted; fail if it is (`stock_clients/langgraph_app` does the same)."""
    said = run.input["messages"][-1]["content"]
    if said == "ask":
        answer = run.decisions.get("what")
        if answer is None:
            await run.ask([{"question_id": "what", "text": "What shall I say?"}])
        said = run.decisions["what"].text
    if said == "fail":
        raise ValueError("asked to fail")
    await run.custom("progress", 1)
    for piece in ("You", " said", f" {said}."):
        await run.text(piece)


@engine("slow")
async def slow(run: RunContext[dict[str, Any]]) -> None:
    """Work until somebody stops it."""
    del run
    await asyncio.Event().wait()
