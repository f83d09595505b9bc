"""Sub-agents: side by side, one inside another, stopped or failing, each shows what is its own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mainstem_shared.model.contents import Content
from mainstem_tasks import RunContext, engine
from mainstem_tasks.testing import EngineRun, run_engine


def agents(run: EngineRun) -> dict[str, dict[str, Any]]:
    """The agents' parts by name."""
    parts = [part for part in run.content if part["type"] == "data" and part["name"] == "agent"]
    return {part["value"]["agent"]: {"id": part["id"], **part["value"]} for part in parts}


@engine("agents.two")
async def two(run: RunContext[Any]) -> None:
    """Two agents answer two calls of the root, word by word in turn, with calls and usage of their own."""

    async def works(name: str) -> None:
        await run.tool_call(name, "delegate", {"to": name})
        async with run.agent(f"agent {name}", parent=name) as sub:
            for n in range(200):
                await sub.text(f"{name}{n} ")
                await asyncio.sleep(0)
            call_id = sub.call_id("call_0")
            async with sub.step("look"):
                await sub.tool_call(call_id, "search", {"for": name})
                await sub.tool_result(call_id, name)
            await sub.usage(input_tokens=10, output_tokens=1, model="m")
            await sub.data("d", "found", name)
        await run.tool_result(name, sub.said)

    await run.text("I ask two. ")
    await asyncio.gather(works("a"), works("b"))
    await run.usage(input_tokens=5, output_tokens=5, model="m")
    await run.text("Both are done.")


async def test_parallel_agents_never_mix():
    """Each says its own words, in order; the run's text is the root's; steps, calls and usage name the agent."""
    run = await run_engine("agents.two")
    assert run.text == "I ask two. Both are done."
    shown = agents(run)
    for name in ("a", "b"):
        mine = shown[f"agent {name}"]
        assert (mine["state"], mine["parent"]) == ("completed", name)
        assert mine["text"] == "".join(f"{name}{n} " for n in range(200))
        calls = [
            part for part in run.content if part.get("agent") == mine["id"] and part["type"] == "tool_call"
        ]
        assert [(call["arguments"], call["result"], call["parent"]) for call in calls] == [
            ({"for": name}, name, name)
        ]
        steps = [step["kind"] for step in run.fold.steps if step.get("agent") == mine["id"]]
        assert steps == ["step", "tool_call"]
        assert [
            part["value"]
            for part in run.content
            if part["id" if "id" in part else "type"] == f"{mine['id']}:d"
        ] == [name]
        root_call = next(part for part in run.content if part.get("call_id") == name)
        assert root_call["result"] == mine["text"]
        assert "agent" not in root_call
    assert run.usage is not None
    assert run.usage.input_tokens == 25
    assert [call.agent for call in run.usage.calls] == [shown["agent a"]["id"], shown["agent b"]["id"], None]
    assert len({part["call_id"] for part in run.content if part["type"] == "tool_call"}) == 4


async def test_what_it_says_is_written_seldom_and_survives_a_snapshot():
    """A part that grows to many times its size is written a few times; folding a stored state gives the same."""
    run = await run_engine("agents.two")
    (sizes,) = {
        len([p for p in run.payloads("part") if p["part"]["id"] == mine["id"]])
        for mine in agents(run).values()
    }
    assert sizes < 20
    again = Content()
    again.load(run.fold.dump())
    assert again.dump() == run.fold.dump()


async def test_an_agent_may_have_agents():
    async def nested(run: RunContext[Any]) -> None:
        async with run.agent("outer") as outer, outer.agent("inner") as inner:
            await inner.text("deep")
            await outer.text("shallow")

    shown = agents(await run_engine(engine("agents.nested")(nested)))
    assert (shown["inner"]["text"], shown["outer"]["text"]) == ("deep", "shallow")
    assert shown["inner"]["within"] == shown["outer"]["id"]
    assert "parent" not in shown["outer"]


async def test_a_failure_of_an_agent_shows_in_its_part():
    async def fails(run: RunContext[Any]) -> None:
        async with run.agent("unlucky") as sub:
            await sub.text("I try")
            raise RuntimeError("no")

    run = await run_engine(engine("agents.fails")(fails), check=False)
    assert str(run.error) == "no"
    assert (agents(run)["unlucky"]["state"], agents(run)["unlucky"]["text"]) == ("failed", "I try")


async def test_an_agent_asks_in_its_name():
    """Its approval says which agent wants the call, and for which call of the root it works."""

    async def asks(run: RunContext[Any]) -> None:
        await run.tool_call("root", "delegate", {})
        async with run.agent("careful", parent="root") as sub:
            await sub.tool_call("pay", "pay", {"n": 1})
            await sub.request_approval([{"call_id": "pay", "name": "pay", "arguments": {"n": 1}}], state=b"s")

    run = await run_engine(engine("agents.asks")(asks))
    assert run.action is not None
    assert run.action.kind == "tool_approval"
    (call,) = run.action.public()["calls"]
    assert (call["call_id"], call["agent"], call["parent"]) == ("pay", "careful", "root")
    assert (agents(run)["careful"]["state"], run.checkpoint) == ("paused", b"s")


async def test_an_agents_output_title_and_finish_are_its_own():
    """They change nothing of the run's."""

    async def says(run: RunContext[Any]) -> None:
        await run.title("The run")
        async with run.agent("writer") as sub:
            await sub.title("A chapter")
            await sub.output({"pages": 3})
            await sub.finish_reason("length")
            await sub.text("x" * 100_000)
        await run.agent("editor", model="m")

    run = await run_engine(engine("agents.says")(says))
    writer = agents(run)["writer"]
    assert (run.fold.title, run.output, run.fold.extra.get("finish_reason")) == ("The run", None, None)
    assert (writer["title"], writer["output"]) == ("A chapter", {"pages": 3})
    assert (len(writer["text"]), writer["truncated"]) == (60_000, True)
    assert run.fold.extra["agent"] == {"name": "editor", "model": "m"}


async def test_what_is_repeated_in_a_continuation_is_another_part():
    """A later segment's agents have ids of their own."""
    first = await run_engine("agents.two")
    second = await run_engine("agents.two", segment=2)
    ids = [{mine["id"] for mine in agents(run).values()} for run in (first, second)]
    assert ids[0].isdisjoint(ids[1])


@pytest.mark.parametrize("name", ["", "x" * 300])
async def test_any_name_will_do(name: str):
    async def named(run: RunContext[Any]) -> None:
        async with run.agent(name) as sub:
            await sub.text("ok")

    assert agents(await run_engine(engine("agents.named")(named)))[name]["text"] == "ok"
