"""Serves an agent of Pydantic AI as an engine: its runs pause, move between workers and stop as any other's.

An agent stays as it is. Tools that need an approval, or are run elsewhere, end the agent's run with what
they ask: the Mainstem run pauses, and its continuation, on any worker, gives the agent the decisions.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from pydantic_ai import Agent, DeferredToolRequests, DeferredToolResults, ToolApproved, ToolDenied, ToolFailed
from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter, ToolCallPart
from pydantic_core import to_jsonable_python

from mainstem_shared.model import jsontext
from mainstem_shared.model.actions import Decision
from mainstem_tasks.engines.frameworks.conversations import AgentInput, Conversation
from mainstem_tasks.engines.frameworks.failures import as_provider_errors
from mainstem_tasks.engines.frameworks.progress import Progress
from mainstem_tasks.engines.frameworks.provider_calls import Heard
from mainstem_tasks.engines.frameworks.tool_calls import ToolCalls
from mainstem_tasks.engines.pydantic_ai import histories
from mainstem_tasks.engines.pydantic_ai.following import Following
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
        heard = Heard()
        opened, used = (self._before.opened, self._before.used) if self._before else ({}, [])
        self._calls = ToolCalls(run, opened=opened, used=used)
        self._streaming = Streaming(run, self._calls, heard)
        self._following = Following(run, self._calls, self._streaming, heard)

    async def execute(self) -> None:
        """Run the agent to its output, or to the calls that it waits for."""
        with as_provider_errors():
            result = await self._agent.run(
                **await self._given(),
                output_type=_output_type(self._agent.output_type),
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
            return {
                "message_history": histories.model_messages(said.earlier),
                "user_prompt": histories.prompt(said.said) if said.said else None,
            }
        state = self._before.state
        past: list[ModelMessage] = ModelMessagesTypeAdapter.validate_python(state["messages"])
        return {
            "message_history": past,
            "deferred_tool_results": await self._decided(state) if self._before.waits else None,
        }

    async def _decided(self, state: dict[str, Any]) -> DeferredToolResults:
        ids, decided = self._calls.opened, self._run.decisions
        for theirs in state["approvals"]:
            decision = decided[ids[theirs]]
            if decision.type == "edit":  # readers see what the tool is called with
                await self._calls.edit(theirs, str(decision.name), decision.arguments or {})
        return DeferredToolResults(
            approvals={theirs: _approval(decided[ids[theirs]]) for theirs in state["approvals"]},
            calls={theirs: _result(decided[ids[theirs]]) for theirs in state["calls"]},
        )

    async def _pause(self, asked: DeferredToolRequests, past: list[ModelMessage]) -> None:
        for call in (*asked.approvals, *asked.calls):
            await self._calls.complete(call.tool_call_id, call.tool_name, call.args_as_dict())
        state = {
            "messages": ModelMessagesTypeAdapter.dump_python(past, mode="json"),
            "approvals": [call.tool_call_id for call in asked.approvals],
            "calls": [call.tool_call_id for call in asked.calls],
        }
        wanted = [
            *(self._asked(call, asked, "approve", "reject", "edit", "respond") for call in asked.approvals),
            *(self._asked(call, asked, "respond", "reject") for call in asked.calls),
        ]
        await self._run.request_approval(wanted, state=Progress.of(self._calls, state, waits=True).encoded())

    def _asked(self, call: ToolCallPart, asked: DeferredToolRequests, *allowed: str) -> dict[str, Any]:
        reason = asked.metadata.get(call.tool_call_id, {}).get("reason")
        return {
            "call_id": self._calls.id_of(call.tool_call_id),
            "name": call.tool_name,
            "arguments": call.args_as_dict(),
            "allowed_decisions": allowed,
            **({"reason": reason} if isinstance(reason, str) else {}),
        }


def _output_type(wanted: Any) -> Any:
    """Return the agent's output type, with the calls that a run may wait for."""
    kinds: list[Any] = [*wanted] if isinstance(wanted, list | tuple) else [wanted]
    return kinds if DeferredToolRequests in kinds else [*kinds, DeferredToolRequests]


def _approval(decided: Decision) -> ToolApproved | ToolDenied:
    match decided.type:
        case "edit":
            return ToolApproved(override_args=dict(decided.arguments or {}))
        case "approve":
            return ToolApproved()
        case "respond":  # a human's words in place of the tool's result
            return ToolDenied(decided.text or "")
        case _:
            return ToolDenied(decided.reason or "The tool call was denied.")


def _result(decided: Decision) -> Any:
    """Return the result of a call that was run elsewhere: JSON if it is, else the text as it is."""
    if decided.type != "respond":
        return ToolFailed(decided.reason or "The tool call was denied.")
    try:
        return jsontext.loads(decided.text or "")
    except ValueError:
        return decided.text
