"""The how-to of docs/frameworks.md for any other framework runs as written: it pauses, moves, stops and goes on."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
from openai import AsyncOpenAI

from mainstem_api import AsyncRuns
from mainstem_shared.model.runs import Run
from mainstem_shared.settings import Settings
from mainstem_tasks.execution import segments
from mainstem_tasks.execution.runtime import Runtime
from support.engines import framework_tools
from support.fakes.strict_provider import StrictProvider
from support.paths import ROOT
from support.processes.in_process_worker import working
from support.waiting import wait_until_async

(CODE,) = re.findall(r"```py\n(import json.*?)```", (ROOT / "docs" / "frameworks.md").read_text(), re.DOTALL)
TOOLS = {"get_weather": framework_tools.get_weather, "transfer": framework_tools.transfer}


@dataclass(frozen=True)
class Event:
    """What the framework streams: some of these."""

    text: str = ""
    usage: dict[str, int] | None = None
    message: dict[str, Any] | None = None


class Agent:
    """A framework of a few lines, whose model is an OpenAI-compatible server."""

    url = ""

    def __init__(self, model: str, tools: list[str]) -> None:
        self.model = model
        self._tools = [
            {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
            for name in tools
        ]

    async def stream(self, messages: list[Any]) -> AsyncIterator[Event]:
        """Ask the model; yield words, usage, and in the end the whole message."""
        text, calls = "", list[dict[str, Any]]()
        async with AsyncOpenAI(base_url=self.url, api_key="sk-none", max_retries=0) as client:
            tools: Any = self._tools
            stream = await client.chat.completions.create(
                model=self.model, messages=messages, tools=tools, stream=True
            )
            async for chunk in stream:
                if chunk.usage is not None:
                    used = chunk.usage
                    yield Event(
                        usage={"input_tokens": used.prompt_tokens, "output_tokens": used.completion_tokens}
                    )
                for choice in chunk.choices:
                    text += choice.delta.content or ""
                    yield Event(text=choice.delta.content or "")
                    for piece in choice.delta.tool_calls or ():
                        assert piece.function is not None
                        if piece.id:
                            function = {"name": piece.function.name, "arguments": ""}
                            calls.append({"id": piece.id, "type": "function", "function": function})
                        calls[-1]["function"]["arguments"] += piece.function.arguments or ""
        message = {"role": "assistant", "content": text, **({"tool_calls": calls} if calls else {})}
        yield Event(message=message)

    async def call_tool(self, call: dict[str, Any], arguments: dict[str, Any]) -> Any:
        """Run a tool."""
        return await TOOLS[call["function"]["name"]](**arguments)


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[StrictProvider]:
    """A provider, and the engine of the page on it. In the end no history was refused."""
    module = ModuleType("acme_agents")
    vars(module)["Agent"] = Agent
    monkeypatch.setitem(sys.modules, "acme_agents", module)
    framework_tools.effects.clear()
    with StrictProvider() as strict:
        monkeypatch.setattr(Agent, "url", strict.url)
        exec(compile(CODE, "docs/frameworks.md", "exec"), {"__name__": "howto"})
        yield strict
        assert strict.faults == []


async def ask(runs: AsyncRuns, worker: Runtime, text: str) -> Run:
    run_id = (await runs.start("desk", "acme", {"text": text})).run_id
    await segments.execute(worker, run_id, task_id="t")
    return await runs.get(run_id)


async def test_it_runs_as_typed(provider: StrictProvider, runs: AsyncRuns, settings: Settings):
    """A tool, a pause that another worker ends, an abort in mid-stream: each next turn is accepted."""
    async with working(settings) as one, working(settings) as other:
        first = await ask(runs, one, "the weather")
        assert first.text.endswith("Tools said sunny in Rome. [1 user turns]"), first.error
        assert first.usage is not None
        paused = await ask(runs, one, "pay")
        assert paused.action is not None
        assert framework_tools.effects == [("get_weather", "Rome")]
        (call,) = paused.action["calls"]
        decided = [{"call_id": call["call_id"], "type": "approve"}]
        await runs.resume(paused.run_id, paused.action["action_id"], decisions=decided)
        await segments.execute(other, paused.run_id, task_id="t")
        run = await runs.get(paused.run_id)
        assert run.text.endswith("Tools said sent 10 to bob. [2 user turns]"), run.error
        assert framework_tools.effects[1:] == [("transfer", 10)]
        slow = (await runs.start("desk", "acme", {"text": "slow"})).run_id
        task = asyncio.create_task(segments.execute(one, slow, task_id="t"))

        async def speaks() -> bool:
            return "Once upon a time" in (await runs.get(slow)).text

        await wait_until_async(speaks, description="the answer to begin")
        await runs.abort(slow, wait=10)
        assert await task == "user_abort"
        await wait_until_async(lambda: provider.left, description="the provider's stream to be closed")
        assert (await ask(runs, other, "hello")).text == "[4 user turns]"
