"""Serves an agent of the OpenAI Agents SDK as an engine: its runs pause, move and stop as any other's.

The SDK's `RunState` is what a paused run keeps. What was said before is the thread's, as input items: no
session of the SDK is needed.
"""

# the SDK's items hold what providers sent, in many shapes: read by hand, not by types.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from agents import Agent, RunConfig, RunContextWrapper, Runner, RunResultStreaming, RunState
from agents.items import ToolApprovalItem
from pydantic_core import to_jsonable_python

from mainstem_shared.model.actions import Decision
from mainstem_tasks.engines.frameworks.agents import Speaker, ToolAgents
from mainstem_tasks.engines.frameworks.conversations import AgentInput, Conversation
from mainstem_tasks.engines.frameworks.failures import as_provider_errors
from mainstem_tasks.engines.frameworks.progress import Progress
from mainstem_tasks.engines.frameworks.provider_calls import ModelOutput
from mainstem_tasks.engines.frameworks.tool_calls import ToolCalls
from mainstem_tasks.engines.openai_agents.following import Following
from mainstem_tasks.engines.openai_agents.items import input_items, plain_answers
from mainstem_tasks.engines.openai_agents.streaming import Streaming, arguments_of
from mainstem_tasks.engines.openai_agents.tools import Work
from mainstem_tasks.sdk.context import RunContext
from mainstem_tasks.sdk.registry import engine

_UNDECIDED = "The tool call was denied."


def serve_agent(
    name: str,
    agent: Agent[Any],
    *,
    context: Callable[[RunContext[AgentInput]], Any] | None = None,
    run_config: RunConfig | None = None,
    aclose: Callable[[], Awaitable[None]] | None = None,
    **options: Any,
) -> None:
    """Register an agent as the engine `name`.

    `context` makes the SDK's context object for a run; `aclose` is awaited when the process ends: it closes
    what the agent's runs share. `options` go to every `Runner.run_streamed`, such as `max_turns`.

    Raises:
        ValueError: the name is taken or malformed.
    """
    config = run_config or RunConfig(tracing_disabled=True)  # traces go to OpenAI: only if asked for

    async def run_agent(run: RunContext[AgentInput]) -> None:
        given = None if context is None else context(run)
        await _Segment(run, agent, given, config, options).execute()

    engine(name, input_model=AgentInput, checkpoints=True, aclose=aclose)(run_agent)


class _Segment:
    """One segment of a run of an agent."""

    def __init__(
        self,
        run: RunContext[AgentInput],
        agent: Agent[Any],
        context: Any,
        config: RunConfig,
        options: dict[str, Any],
    ) -> None:
        self._run = run
        self._agent = agent
        self._context = context
        self._config = config
        self._options = options
        self._before = Progress.before(run)
        model_output = ModelOutput()
        opened, used = (self._before.opened, self._before.used) if self._before else ({}, [])
        self._calls = ToolCalls(run, opened=opened, used=used)
        self._agents = ToolAgents(run, self._calls)
        root = Speaker(run, self._calls)
        self._streaming = Streaming(root, self._agents, model_output, agent)
        self._following = Following(run, self._calls, model_output, config)
        self._work = Work(
            speaker=root,
            agents=self._agents,
            streaming=self._streaming,
            model_calls=self._following,
            config=config,
        )

    async def execute(self) -> None:
        """Run the agent to its output, or to the calls that it waits for."""
        agent, given = await self._given()
        context = None if isinstance(given, RunState) else self._context
        with as_provider_errors(), self._work.under_way():
            result = Runner.run_streamed(
                agent,
                given,
                context=context,
                hooks=self._following,
                run_config=self._config,
                **self._options,
            )
            await self._follow(result)
        if result.interruptions:
            await self._pause(result)
        elif result.final_output is not None and not isinstance(result.final_output, str):
            await self._run.output(to_jsonable_python(result.final_output, serialize_unknown=True))

    async def _follow(self, result: RunResultStreaming) -> None:
        try:
            async for event in result.stream_events():
                await self._streaming.take(event)
        except BaseException:
            result.cancel()
            async for _ in result.stream_events():  # until its tasks have let go of the provider
                pass
            raise
        finally:
            await self._following.close()
            await self._agents.close()

    async def _given(self) -> tuple[Agent[Any], Any]:
        """Return who starts from what: the thread, a checkpoint, or what a human decided."""
        if self._before is None:
            said = await Conversation.of(self._run)
            self._following.thread = input_items(said.earlier)
            return self._agent, [*self._following.thread, *input_items(said.said)]
        state = self._before.state
        if not self._before.waits:
            if state.get("after_thread"):
                self._following.thread = input_items((await Conversation.of(self._run)).earlier)
            return _named(self._agent, state["agent"]), [*self._following.thread, *state["items"]]
        context = None if self._context is None else RunContextWrapper(self._context)
        run = {**state["run"], "original_input": plain_answers(state["run"]["original_input"])}
        restored = await RunState.from_json(self._agent, run, context_override=context)
        asked = [*(state.get("asked") or self._calls.opened.items())]
        for item in restored.get_interruptions():
            _, ours = pair = next(pair for pair in asked if pair[0] == _call_id(item))
            asked.remove(pair)
            self._decide(restored, item, self._run.decisions[ours])
        return self._agent, restored

    def _decide(self, state: RunState[Any, Any], item: ToolApprovalItem, decided: Decision) -> None:
        match decided.type:
            case "approve":
                state.approve(item)
            case "respond":  # a human's words in place of the tool's result
                state.reject(item, rejection_message=decided.text or _UNDECIDED)
            case _:
                self._streaming.rejected.add(decided.id)
                state.reject(item, rejection_message=decided.reason or _UNDECIDED)

    async def _pause(self, result: RunResultStreaming) -> None:
        state = result.to_state().to_json(context_serializer=_nothing)
        asked: list[tuple[str, str]] = []
        wanted: list[dict[str, Any]] = []
        for item in result.interruptions:
            theirs, name, arguments = _call_id(item), item.name or "", arguments_of(item.raw_item)
            before = {ours for _, ours in asked}
            ours = self._calls.find(name, arguments, but=before, theirs=theirs) or theirs
            asked.append((theirs, ours))
            wanted.append(
                {
                    "call_id": ours,
                    "name": name,
                    "arguments": arguments,
                    "allowed_decisions": ("approve", "reject", "respond"),
                    **self._calls.asker(ours),
                }
            )
        progress = Progress.of(self._calls, {"run": state, "asked": asked}, waits=True)
        await self._run.request_approval(wanted, state=progress.encoded())


def _call_id(item: ToolApprovalItem) -> str:
    raw: Any = item.raw_item
    return str(raw["call_id"] if isinstance(raw, dict) else raw.call_id)


def _nothing(_: Any) -> dict[str, Any]:
    """Serialise no context: it is made anew from the run."""
    return {}


def _named(root: Agent[Any], name: str) -> Agent[Any]:
    """Return the agent of this name that the root may hand over to; the root if there is none."""
    return next((agent for agent in _reachable(root, set()) if agent.name == name), root)


def _reachable(agent: Agent[Any], seen: set[int]) -> Iterator[Agent[Any]]:
    if id(agent) not in seen:
        seen.add(id(agent))
        yield agent
        for other in agent.handoffs:
            if isinstance(other, Agent):
                yield from _reachable(other, seen)
