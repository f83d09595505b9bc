"""Agents of frameworks: what their tokens cost in a worker, beside the same agents without Mainstem.

A process for each half, so that its memory is its own and no half's garbage is collected in the other's time:
`python bench/agents.py NAME RUNS alone|ours`. Both collect garbage as a worker does. The models are the
frameworks' own for tests: they answer in the process and cost as little as can be.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import psutil

from mainstem_api import AsyncRuns
from mainstem_shared import garbage_collection
from mainstem_shared.settings import Settings
from mainstem_tasks.execution import segments
from mainstem_tasks.execution.runtime import Runtime

WORDS = 200
"""Of an answer: with a tenth of it, the bench would measure what a run costs beside its tokens."""
NAMES = ("langgraph", "pydantic_ai")
GOAL = 1.15
Alone = Callable[[int], Awaitable[None]]


async def agents_langgraph(bench: Any) -> Any:
    """1,000 concurrent runs of a LangGraph agent in one process, and the same without Mainstem."""
    return await _row(bench, "langgraph", "LangGraph")


async def agents_pydantic_ai(bench: Any) -> Any:
    """1,000 concurrent runs of a Pydantic AI agent in one process, and the same without Mainstem."""
    return await _row(bench, "pydantic_ai", "Pydantic AI")


async def _row(bench: Any, name: str, title: str) -> Any:
    from harness import Row

    runs = bench.scaled(1000, 50)
    got: dict[str, Any] = {"runs": runs}
    # A broker's database without a consumer: the worker that quick rows share would take the runs.
    env = bench.env | {"MAINSTEM_BROKER_URL": bench.server.url(3)}
    for half in ("alone", "ours"):
        command = [sys.executable, str(Path(__file__)), name, str(runs), half]
        done = await asyncio.to_thread(
            subprocess.run, command, env=env, capture_output=True, text=True, check=True
        )
        got |= json.loads(done.stdout.splitlines()[-1])
    got["ratio"] = got["ours_us"] / got["alone_us"]
    return Row(
        name=f"{runs:,} runs of {title} at once",
        figure=f"{got['ours_us']:.0f} µs/token, {got['rss_mb']:.0f} MB, {got['failed']} failed",
        baseline=f"alone {got['alone_us']:.0f} µs, {got['alone_rss_mb']:.0f} MB",
        ratio=f"{got['ratio']:.2f} ×",
        goal=f"≤ {GOAL} ×",
        met=bench.judge(got["ratio"] <= GOAL and got["failed"] == 0),
        data=got,
    )


def langgraph() -> Alone:
    """Serve a graph as `agent`; return what runs it alone."""
    from langchain.agents import create_agent
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessageChunk
    from langchain_core.outputs import ChatGenerationChunk, ChatResult
    from langgraph.checkpoint.memory import InMemorySaver

    from mainstem_tasks.engines.langgraph import serve_graph

    class Model(BaseChatModel):
        @property
        def _llm_type(self) -> str:
            return "words"

        def _generate(self, *_: Any, **__: Any) -> ChatResult:
            raise NotImplementedError

        async def _astream(self, *_: Any, run_manager: Any = None, **__: Any) -> AsyncIterator[Any]:
            for number in range(WORDS):
                text = f"word{number} "
                chunk = ChatGenerationChunk(message=AIMessageChunk(content=text))
                if run_manager is not None:
                    await run_manager.on_llm_new_token(text, chunk=chunk)
                yield chunk
                await asyncio.sleep(0)

    graph: Any = create_agent(Model(), tools=[], checkpointer=InMemorySaver())
    serve_graph("agent", lambda saver: create_agent(Model(), tools=[], checkpointer=saver))

    async def alone(number: int) -> None:
        config = {"configurable": {"thread_id": f"t{number}"}}
        async for _ in graph.astream(
            {"messages": [("user", "hi")]}, config, stream_mode=["messages", "updates"], durability="sync"
        ):
            pass

    return alone


def pydantic_ai() -> Alone:
    """Serve an agent as `agent`; return what runs it alone."""
    from pydantic_ai import Agent
    from pydantic_ai.models.function import FunctionModel

    from mainstem_tasks.engines.pydantic_ai import serve_agent

    async def words(*_: Any) -> AsyncIterator[str]:
        for number in range(WORDS):
            yield f"word{number} "
            await asyncio.sleep(0)

    agent = Agent(FunctionModel(stream_function=words))
    serve_agent("agent", agent)

    async def take(_: Any, events: Any) -> None:
        async for _event in events:
            pass

    async def alone(number: int) -> None:  # noqa: ARG001 - as the other's
        await agent.run("hi", event_stream_handler=take)

    return alone


async def alone(name: str, runs: int) -> dict[str, float]:
    """Let the agent answer `runs` times at once, without Mainstem."""
    answer: Alone = globals()[name]()
    await answer(0)
    garbage_collection.freeze()
    us, mb = await _cost([answer(number + 1) for number in range(runs)])
    return {"alone_us": us, "alone_rss_mb": mb}


async def ours(name: str, runs: int) -> dict[str, float]:
    """Let the agent answer as often as runs of one worker."""
    globals()[name]()
    settings = Settings(sweep_s=3600)
    async with AsyncRuns(settings) as client, _working(settings) as worker:
        warm = await client.start("warm", "agent", {"text": "hi"})
        await segments.execute(worker, warm.run_id, task_id="t")
        started = [(await client.start(f"t{n}", "agent", {"text": "hi"})).run_id for n in range(runs)]
        garbage_collection.freeze()
        us, mb = await _cost([segments.execute(worker, one, task_id="t") for one in started])
        ended = [(await client.get(one)).status for one in started[:: max(1, runs // 50)]]
    return {"ours_us": us, "rss_mb": mb, "failed": sum(status != "succeeded" for status in ended)}


def _working(settings: Settings) -> AbstractAsyncContextManager[Runtime]:
    from support.processes.in_process_worker import working  # of the tests

    return working(settings)


async def _cost(work: list[Any]) -> tuple[float, float]:
    """Return the CPU that a token took, in µs, and the process's memory when all had begun, in MB."""
    began, tasks = time.process_time(), [asyncio.ensure_future(one) for one in work]
    most = 0.0
    while not all(task.done() for task in tasks):
        await asyncio.wait(tasks, timeout=0.5)
        most = max(most, psutil.Process().memory_info().rss / 2**20)
    await asyncio.gather(*tasks)
    return 1e6 * (time.process_time() - began) / (len(work) * WORDS), most


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    print(json.dumps(asyncio.run(globals()[sys.argv[3]](sys.argv[1], int(sys.argv[2])))))
