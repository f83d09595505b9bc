"""What LangGraph's own SDK sees of a server: `python langgraph_transcript.py URL` prints a transcript, without ids.

The same for every server that serves the graphs of `langgraph_app`: a test compares that of `langgraph dev`.
"""

# ruff: noqa: T201 - the result goes to stdout

# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from langgraph_sdk import get_client

Client = Any


def says(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def messages(values: Any) -> list[list[str]]:
    """A state as who said what."""
    return [[each["type"], each["content"]] for each in values["messages"]]


async def seen(parts: Any) -> list[Any]:
    """A stream's events: which, and what of their data is no id."""
    told: list[Any] = []
    async for part in parts:
        kind = part.event.partition("|")[0]
        if kind == "messages":
            text = part.data[0]["content"]
            if told and told[-1][0] == "messages":
                told[-1][1] += text
            elif text:
                told.append(["messages", text])
        elif kind == "values" and "__interrupt__" in part.data:
            told.append(["interrupt", len(part.data["__interrupt__"])])
        elif kind == "values":
            told.append(["values", messages(part.data)])
        elif kind == "updates":
            told.append(["updates", sorted(part.data)])
        elif kind == "metadata":
            told.append(["metadata", sorted(set(part.data) & {"run_id", "attempt"})])
        elif kind == "error":
            told.append(["error"])
        else:
            told.append([kind, part.data])
    return told


async def refused(call: Awaitable[Any]) -> Any:
    """The status with which something is refused."""
    try:
        await call
    except Exception as error:
        response = getattr(error, "response", None)
        return [type(error).__name__, getattr(response, "status_code", None)]
    return "accepted"


async def begun(client: Client, thread: str, run_id: str) -> None:
    """Wait until a run is at work."""
    while (await client.runs.get(thread, run_id))["status"] == "pending":  # noqa: ASYNC110 - it is elsewhere
        await asyncio.sleep(0.05)


async def assistants(client: Client) -> Any:
    found = await client.assistants.search(graph_id="agent")
    one = await client.assistants.get(found[0]["assistant_id"])
    schemas = await client.assistants.get_schemas(found[0]["assistant_id"])
    nothing = "00000000-0000-4000-8000-000000000000"
    return {
        "graphs": [each["graph_id"] for each in found],
        "one": one["graph_id"],
        "schemas": schemas["graph_id"],
        "unknown": await refused(client.assistants.get(nothing)),
    }


async def threads(client: Client) -> Any:
    thread = await client.threads.create()
    name = thread["thread_id"]
    empty = await client.threads.get_state(name)
    await client.runs.wait(name, "agent", input=says("one"))
    await client.threads.update(name, metadata={"of": name})
    updated = await client.threads.update(name, metadata={"more": "1"})
    found = await client.threads.get(name)
    listed = await client.threads.search(metadata={"of": name}, status="idle")
    others = await client.threads.search(metadata={"of": "nobody"})
    await client.threads.delete(name)
    return {
        "new": thread["status"],
        "empty": [empty["values"] or {}, empty["next"]],
        "then": [found["status"], messages(found["values"]), found["metadata"]["of"] == name],
        "listed": [[each["thread_id"] == name for each in listed], others],
        "updated": sorted(set(updated["metadata"]) & {"of", "more"}),
        "deleted": await refused(client.threads.get(name)),
    }


async def turns(client: Client) -> Any:
    name = (await client.threads.create())["thread_id"]
    told = [messages(await client.runs.wait(name, "agent", input=says(text))) for text in ("one", "two")]
    state, history = await client.threads.get_state(name), await client.threads.get_history(name)
    return {
        "turns": told,
        "state": [messages(state["values"]), state["next"], state["interrupts"]],
        "history": [messages(history[0]["values"]), len(history) > 1],
        "runs": [run["status"] for run in await client.runs.list(name)],
    }


async def streams(client: Client) -> Any:
    told: dict[str, Any] = {}
    for mode in ("values", "updates", "messages-tuple", "custom", ["updates", "messages-tuple", "custom"]):
        name = (await client.threads.create())["thread_id"]
        told[str(mode)] = await seen(client.runs.stream(name, "agent", input=says("one"), stream_mode=mode))
    told["stateless"] = await seen(client.runs.stream(None, "agent", input=says("one")))
    return told


async def interrupts(client: Client) -> Any:
    name = (await client.threads.create())["thread_id"]
    first = await seen(client.runs.stream(name, "agent", input=says("ask")))
    thread, state = await client.threads.get(name), await client.threads.get_state(name)
    run = (await client.runs.list(name))[0]
    after = await client.runs.wait(name, "agent", command={"resume": "blue"})
    return {
        "first": first,
        "thread": [thread["status"], state["next"], len(state["tasks"][0]["interrupts"])],
        "run": run["status"],
        "after": messages(after),
        "idle": (await client.threads.get(name))["status"],
    }


async def background(client: Client) -> Any:
    name = (await client.threads.create())["thread_id"]
    run = await client.runs.create(name, "agent", input=says("one"), metadata={"m": "1"})
    joined = await client.runs.join(name, run["run_id"])
    got = await client.runs.get(name, run["run_id"])
    return {
        "joined": messages(joined),
        "run": [got["status"], got["metadata"].get("m"), got["thread_id"] == name],
        "unknown": await refused(client.runs.get(name, "00000000-0000-4000-8000-000000000000")),
    }


async def cancelling(client: Client) -> Any:
    told: dict[str, Any] = {}
    for action in ("interrupt", "rollback"):
        name = (await client.threads.create())["thread_id"]
        run = await client.runs.create(name, "slow", input=says("one"))
        await begun(client, name, run["run_id"])
        await client.runs.cancel(name, run["run_id"], wait=True, action=action)
        if action == "interrupt":
            told[action] = (await client.runs.get(name, run["run_id"]))["status"]
        else:
            told[action] = await refused(client.runs.get(name, run["run_id"]))
    return told


async def multitasking(client: Client) -> Any:
    told: dict[str, Any] = {}
    for strategy in ("reject", "interrupt", "rollback"):
        name = (await client.threads.create())["thread_id"]
        first = await client.runs.create(name, "slow", input=says("one"))
        await begun(client, name, first["run_id"])
        about = {"input": says("two"), "multitask_strategy": strategy}
        if strategy == "reject":
            told[strategy] = await refused(client.runs.create(name, "agent", **about))
            await client.runs.cancel(name, first["run_id"], wait=True)
            continue
        said = await client.runs.wait(name, "agent", **about)
        told[strategy] = messages(said)[-1]
    return told


async def failures(client: Client) -> Any:
    name = (await client.threads.create())["thread_id"]
    told = await seen(client.runs.stream(name, "agent", input=says("fail"), stream_mode="updates"))
    thread = await client.threads.get(name)
    return {
        "events": told,
        "thread": thread["status"],
        "run": [run["status"] for run in await client.runs.list(name)],
    }


PARTS: dict[str, Callable[[Client], Awaitable[Any]]] = {
    part.__name__: part
    for part in (
        *(assistants, threads, turns, streams, interrupts, background, cancelling, multitasking, failures),
    )
}


async def main(url: str) -> None:
    """Print the whole; what breaks is told as that."""
    client = get_client(url=url, api_key=None)
    told: dict[str, Any] = {}
    for name, part in PARTS.items():
        try:
            told[name] = await part(client)
        except Exception as error:
            told[name] = f"{type(error).__name__}: {error}"
    print(json.dumps(told, ensure_ascii=False))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
