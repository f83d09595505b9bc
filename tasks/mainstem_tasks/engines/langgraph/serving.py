"""Serves a graph of LangGraph as an engine: its state is the thread's memory, its interrupts are pauses.

The graph is built once; each segment runs a copy of it with the thread's checkpointer. A checkpoint is
committed when the stream has it, so that state and content stand at the same point.
"""

# graphs are generic over states that nobody knows here: read by hand, not by types.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

from langchain_core.messages import convert_to_messages
from langchain_core.runnables import RunnableConfig
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command, StateSnapshot
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from mainstem_shared.model import messages, transcripts
from mainstem_tasks.engines.frameworks.agents import ToolAgents
from mainstem_tasks.engines.frameworks.conversations import AgentInput
from mainstem_tasks.engines.frameworks.failures import as_provider_errors
from mainstem_tasks.engines.frameworks.progress import Progress
from mainstem_tasks.engines.frameworks.tool_calls import ToolCalls
from mainstem_tasks.engines.langgraph import interrupts
from mainstem_tasks.engines.langgraph.completion import missing
from mainstem_tasks.engines.langgraph.following import Following, NodeMessages
from mainstem_tasks.engines.langgraph.saver import PREFIX, ThreadSaver
from mainstem_tasks.engines.langgraph.streaming import Streaming
from mainstem_tasks.sdk.context import RunContext
from mainstem_tasks.sdk.registry import engine

logger = logging.getLogger(__name__)

Graph = CompiledStateGraph[Any, Any, Any, Any]
Build = Callable[[BaseCheckpointSaver[Any]], Graph]
_COVERS: Final = "graph-covers"
"""The key of the run that wrote a thread's state last."""


def serve_graph(
    name: str,
    build: Build | Graph,
    *,
    given: Callable[[RunContext[Any]], Any] | None = None,
    input_model: type[BaseModel] | None = None,
    context: Callable[[RunContext[Any]], Any] | None = None,
    config: RunnableConfig | None = None,
    aclose: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Register a graph as the engine `name`: a compiled one, or what builds it with a checkpointer.

    `given` makes the graph's input from a run, for graphs whose state is no list of messages; `input_model`
    is the engine's input then. `context` makes the graph's context, `config` is its configuration (such as
    `recursion_limit`). `aclose` is awaited when the process ends: it closes what the graph's runs share.

    Raises:
        ValueError: the name is taken or malformed, or the graph keeps values as differences.
    """
    graph = build if isinstance(build, CompiledStateGraph) else build(ThreadSaver())
    if any(isinstance(channel, DeltaChannel) for channel in graph.channels.values()):
        raise ValueError(f"engine {name!r}: a DeltaChannel needs all checkpoints, and the last one is kept")
    keeps = graph.checkpointer is None or isinstance(graph.checkpointer, ThreadSaver | bool)
    if not keeps:
        logger.warning(
            "a graph has a checkpointer of its own: a killed worker may leave its state behind the content",
            extra={"action": "foreign_checkpointer", "engine": name},
        )

    async def run_graph(run: RunContext[Any]) -> None:
        saver = ThreadSaver(await run.memory.items(PREFIX))
        own = graph.copy(update={"checkpointer": saver}) if keeps else graph
        made = context and context(run)
        await _Segment(run, own, saver, given=given, config=_config(run, config), context=made).execute()

    model = input_model or (AgentInput if given is None and "messages" in graph.channels else None)
    engine(name, input_model=model, checkpoints=True, aclose=aclose)(run_graph)


def _config(run: RunContext[Any], given: RunnableConfig | None) -> RunnableConfig:
    known: Mapping[str, Any] = (given or {}).get("configurable", {})
    return {**(given or {}), "configurable": {**known, "thread_id": run.thread_id}}  # pyright: ignore[reportReturnType]


def _step_before(state: StateSnapshot, given: Any) -> int:
    """Return the last step that needs no commit: input and decisions are the run's until a state has them.

    A graph tells of the checkpoint that it goes on from, too. New input takes a step, and so does its start.
    """
    last = -2 if state.metadata is None else state.metadata.get("step", -2)
    return last if given is None or isinstance(given, Command) else last + 2


class _Segment:
    """One segment of a run of a graph."""

    def __init__(
        self,
        run: RunContext[Any],
        graph: Graph,
        saver: ThreadSaver,
        *,
        given: Callable[[RunContext[Any]], Any] | None,
        config: RunnableConfig,
        context: Any,
    ) -> None:
        self._run = run
        self._graph = graph
        self._saver = saver
        self._make = given
        self._context = context
        self._before = Progress.before(run)
        opened, used = (self._before.opened, self._before.used) if self._before else ({}, [])
        self._calls = ToolCalls(run, opened=opened, used=used)
        self._agents = ToolAgents(run, self._calls)
        self._streaming = Streaming(self._agents)
        shown = NodeMessages(self._streaming)
        self._following = Following(self._agents, self._streaming, shown)
        callbacks: Any = config.get("callbacks")
        self._config: RunnableConfig = {
            **config,
            "callbacks": [
                *(callbacks if isinstance(callbacks, list) else ()),
                self._following,
                shown,
            ],
        }

    async def execute(self) -> None:
        """Run the graph to its end, or to what it asks."""
        state = await self._graph.aget_state(self._config)
        given, is_to_run = await self._given(state)
        if is_to_run:
            await self._run_graph(given, after=_step_before(state, given))
            state = await self._graph.aget_state(self._config)
        if state.interrupts:
            await self._pause(state)
        await self._output(state)

    async def _run_graph(self, given: Any, *, after: int) -> None:
        try:
            with as_provider_errors():
                async with self._streaming.followed():
                    checkpoints: AsyncIterator[Any] = self._graph.astream(
                        given,
                        self._streaming.carried(self._config),
                        context=self._context,
                        stream_mode="checkpoints",
                        durability="sync",
                    )
                    async for reached in checkpoints:
                        if reached["next"] and reached["metadata"]["step"] > after:
                            await self._streaming.drain()
                            await self._save()
        finally:
            await self._following.close()
            await self._agents.close()
            await self._stage()

    async def _save(self) -> None:
        """Commit a step, its content and its state at once."""
        await self._stage()
        await self._run.checkpoint(Progress.of(self._calls, None).encoded())

    async def _stage(self) -> None:
        await self._saver.stage(self._run.memory)
        await self._run.memory.put(_COVERS, self._run.run_id.encode())

    async def _given(self, state: StateSnapshot) -> tuple[Any, bool]:
        """Return what the graph goes on with, and whether there is anything to be done."""
        if self._before is None:
            return await self._input(state), True
        if not self._before.waits:
            return None, bool(state.next)
        asked: dict[str, interrupts.Asked] = self._before.state
        for one in asked.values():
            for decided in (self._run.decisions[item] for item in one["ids"]):
                theirs = next((raw for raw, ours in self._calls.opened.items() if ours == decided.id), None)
                if decided.type == "edit" and theirs is not None:  # readers see what the tool is called with
                    await self._calls.edit(theirs, str(decided.name), decided.arguments or {})
        return Command(resume=interrupts.answers(asked, self._run.decisions)), True

    async def _input(self, state: StateSnapshot) -> Any:
        """Return the graph's input: what the user says now, after what its state lacks of the thread."""
        if self._make is not None:
            return self._make(self._run)
        if "messages" not in self._graph.channels:
            return dict(self._run.raw_input)
        said = await self._run.messages()
        covers = await self._run.memory.get(_COVERS)
        known = list(state.values.get("messages", ())) if isinstance(state.values, dict) else []
        lacks = missing(known, said, None if covers is None else covers.decode())
        if lacks is None:  # the thread went on from an earlier message: so does the graph, anew
            self._saver.clear()
            lacks = convert_to_messages(transcripts.chat(said))
        is_asked = bool(said) and said[-1].role == "user"
        spoken = [] if is_asked else messages.said(self._run.raw_input, is_first=not said)
        now = transcripts.chat_of((turn.role, turn.parts) for turn in spoken)
        return {"messages": [*lacks, *convert_to_messages(now)]}

    async def _pause(self, state: StateSnapshot) -> None:
        values: dict[str, Any] = state.values if isinstance(state.values, dict) else {}
        asking = interrupts.Asking(values.get("messages", ()), self._calls)
        for interrupt in state.interrupts:
            asking.ask(interrupt)
        progress = Progress.of(self._calls, asking.asked, waits=True)
        await self._run.interrupt(asking.items, state=progress.encoded())

    async def _output(self, state: StateSnapshot) -> None:
        """Give the run its output: a structured response, or the state of a graph without messages."""
        values: dict[str, Any] = state.values if isinstance(state.values, dict) else {}
        if (structured := values.get("structured_response")) is not None:
            await self._run.output(to_jsonable_python(structured, serialize_unknown=True))
        elif "messages" not in self._graph.channels:
            await self._run.output(to_jsonable_python(state.values, serialize_unknown=True))
