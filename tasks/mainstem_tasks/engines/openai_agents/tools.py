"""Lets an agent work as another one's tool: `as_tool(agent, "ask_expert", "Ask an expert.")`.

The SDK runs it inside the tool's call, where nobody hears it. Here its stream and its model calls go to a
sub-agent of the Mainstem run, for the call that it works for; outside of a run it is `Agent.as_tool`.
"""

# the SDK's tools take what models sent, in many shapes: read by hand, not by types.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Generator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from agents import Agent, FunctionTool, RunConfig, RunContextWrapper, RunHooks
from agents.items import ModelResponse, TResponseInputItem
from agents.tool_context import ToolContext

from mainstem_shared.model import jsontext
from mainstem_tasks.engines.frameworks.agents import Place, Speaker, ToolAgents
from mainstem_tasks.engines.frameworks.provider_calls import ModelOutput
from mainstem_tasks.engines.openai_agents.following import ModelCalls
from mainstem_tasks.engines.openai_agents.streaming import Streaming


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """An agent at work in a run: the run's own, or one in a tool, whose `place` is the calls above it."""

    speaker: Speaker
    agents: ToolAgents
    streaming: Streaming
    model_calls: ModelCalls
    config: RunConfig
    place: Place = ()

    @contextlib.contextmanager
    def under_way(self) -> Generator[None]:
        """Let tools of this block, and of what it starts, find who calls them."""
        token = _AT_WORK.set(self)
        try:
            yield
        finally:
            _AT_WORK.reset(token)

    async def below(self, agent: Agent[Any], call: ToolContext[Any]) -> Work:
        """Return the work of an agent in a tool that this one calls."""
        place = (*self.place, call.tool_call_id)
        await self.speaker.calls.complete(call.tool_call_id, call.tool_name, _arguments(call))
        self.agents.tool_began(place, call.tool_call_id, agent.name)
        speaker, model_output = await self.agents.at(place, name=agent.name), ModelOutput()
        rejected = self.streaming.rejected
        return Work(
            speaker=speaker,
            agents=self.agents,
            streaming=Streaming(speaker, self.agents, model_output, agent, place=place, rejected=rejected),
            model_calls=ModelCalls(speaker.says, model_output, self.config),
            config=self.config,
            place=place,
        )


_AT_WORK: ContextVar[Work | None] = ContextVar("mainstem_agent_at_work", default=None)


def as_tool(
    agent: Agent[Any],
    tool_name: str | None = None,
    tool_description: str | None = None,
    *,
    on_stream: Callable[[Any], Any] | None = None,
    **options: Any,
) -> FunctionTool:
    """Return an agent as a tool of another one, as `Agent.as_tool`: in a run it is a sub-agent of the run.

    `on_stream` hears what the run hears; `options` are those of `Agent.as_tool`, but for `hooks`.
    """

    async def on_event(event: Any) -> None:
        work = _AT_WORK.get()
        if work is not None:
            await work.streaming.take(event["event"])
        if on_stream is not None and inspect.isawaitable(waited := on_stream(event)):
            await waited

    tool = agent.as_tool(
        tool_name,
        tool_description,
        on_stream=on_event,
        on_stream_max_pending_events=None,  # a slow store slows the run down, and loses nothing
        hooks=_Hooks(),
        **options,
    )
    invoke = tool.on_invoke_tool

    async def invoke_apart(context: ToolContext[Any], arguments: str) -> Any:
        caller = _AT_WORK.get()
        if caller is None:
            return await invoke(context, arguments)
        work = await caller.below(agent, context)
        with work.under_way():
            try:
                return await invoke(context, arguments)
            finally:
                await work.model_calls.close()

    tool.on_invoke_tool = invoke_apart
    return tool


class _Hooks(RunHooks[Any]):
    """Hands an agent's model calls to whoever follows them in this call of its tool."""

    async def on_llm_start(
        self,
        context: RunContextWrapper[Any],
        agent: Agent[Any],
        system_prompt: str | None,
        input_items: list[TResponseInputItem],
    ) -> None:
        if (work := _AT_WORK.get()) is not None:
            await work.model_calls.on_llm_start(context, agent, system_prompt, input_items)

    async def on_llm_end(
        self, context: RunContextWrapper[Any], agent: Agent[Any], response: ModelResponse
    ) -> None:
        if (work := _AT_WORK.get()) is not None:
            await work.model_calls.on_llm_end(context, agent, response)


def _arguments(call: ToolContext[Any]) -> dict[str, Any]:
    try:
        value = jsontext.loads(call.tool_arguments)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"text": call.tool_arguments}
