"""Serves an agent of Pydantic AI as an engine: its runs pause, move between workers and stop as any other's.

An agent stays as it is. Tools that need an approval, or are run elsewhere, end the agent's run with what
they ask: the Mainstem run pauses, and its continuation, on any worker, gives the agent the decisions.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from pydantic_ai import Agent, DeferredToolRequests
from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter
from pydantic_core import to_jsonable_python

from mainstem_tasks.engines.frameworks.agents import Speaker
from mainstem_tasks.engines.frameworks.conversations import AgentInput, Conversation
from mainstem_tasks.engines.frameworks.failures import as_provider_errors
from mainstem_tasks.engines.frameworks.progress import Progress
from mainstem_tasks.engines.frameworks.provider_calls import ModelOutput
from mainstem_tasks.engines.frameworks.tool_calls import ToolCalls
from mainstem_tasks.engines.pydantic_ai import histories
from mainstem_tasks.engines.pydantic_ai.deferring import Waiting, output_type
from mainstem_tasks.engines.pydantic_ai.following import Following, Work
from mainstem_tasks.engines.pydantic_ai.streaming import Streaming
from mainstem_tasks.sdk.context import RunContext
from mainstem_tasks.sdk.registry import engine


def serve_agent(
    name: str,
    agent: Agent[Any, Any],
    *,
    deps: Callable[[RunContext[AgentInput]], Any] | None = None,
    aclose: Callable[[], Awaitable[None]] | None = None,
    **options: Any,
) -> None:
    """Register an agent as the engine `name`.

    `deps` makes the agent's dependencies for a run; `aclose` is awaited when the process ends: it closes what
    the agent's runs share. `options` go to every `agent.run`, such as `usage_limits`, `model_settings` or
    `toolsets`.

    Raises:
        ValueError: the name is taken or malformed.
    """

    async def run_agent(run: RunContext[AgentInput]) -> None:
        given = options if deps is None else {**options, "deps": deps(run)}
        await _Segment(run, agent, given).execute()

    engine(name, input_model=AgentInput, checkpoints=True, aclose=aclose)(run_agent)


class _Segment:
    """One segment of a run of an agent."""

    def __init__(self, run: RunContext[AgentInput], agent: Agent[Any, Any], options: dict[str, Any]) -> None:
        self._run = run
        self._agent = agent
        self._options = options
        self._before = Progress.before(run)
        model_output = ModelOutput()
        opened, used = (self._before.opened, self._before.used) if self._before else ({}, [])
        self._calls = ToolCalls(run, opened=opened, used=used)
        streaming = Streaming(run, self._calls, model_output)
        waited: dict[str, Any] = self._before.state if self._before and self._before.waits else {}
        self._waiting = Waiting(run.decisions, waited.get("agents", {}))
        self._streaming = streaming
        self._following = Following(
            Work(Speaker(run, self._calls), streaming, model_output, self._waiting), run
        )

    async def execute(self) -> None:
        """Run the agent to its output, or to the calls that it waits for."""
        with as_provider_errors():
            result = await self._agent.run(
                **await self._given(),
                output_type=output_type(self._agent.output_type),
                event_stream_handler=self._streaming.take_all,
                capabilities=[*self._options.get("capabilities", ()), self._following],
                **{name: value for name, value in self._options.items() if name != "capabilities"},
            )
        if isinstance(result.output, DeferredToolRequests):
            await self._pause(result.output, result.all_messages())
        elif not isinstance(result.output, str):
            await self._run.output(to_jsonable_python(result.output, serialize_unknown=True))

    async def _given(self) -> dict[str, Any]:
        """Return what the agent starts from: the thread, a checkpoint, or what a human decided."""
        if self._before is None:
            said = await Conversation.of(self._run)
            self._following.thread = histories.model_messages(said.earlier)
            return {
                "message_history": self._following.thread,
                "user_prompt": histories.prompt(said.said) if said.said else None,
            }
        state = self._before.state
        past: list[ModelMessage] = ModelMessagesTypeAdapter.validate_python(state["messages"])
        if state.get("after_thread"):
            self._following.thread = histories.model_messages((await Conversation.of(self._run)).earlier)
        return {
            "message_history": [*self._following.thread, *past],
            "deferred_tool_results": await self._waiting.decided(self._calls, state)
            if self._before.waits
            else None,
        }

    async def _pause(self, asked: DeferredToolRequests, past: list[ModelMessage]) -> None:
        waits = await self._waiting.asked(self._calls, asked, past, thread=self._following.thread)
        state = {**waits.state, "agents": self._waiting.states}
        await self._run.request_approval(
            waits.wanted, state=Progress.of(self._calls, state, waits=True).encoded()
        )
