"""Lets an agent work in another one's tool: `await delegate(expert, question)`.

Pydantic AI runs it inside the tool's call, where nobody hears it. Here what it says, its calls and its model
requests are a sub-agent's of the Mainstem run; outside of a run it is `agent.run`.
"""

from __future__ import annotations

from typing import Any

from pydantic_ai import Agent, AgentRunResult, ApprovalRequired, DeferredToolRequests
from pydantic_ai.messages import ModelMessagesTypeAdapter

from mainstem_tasks.engines.frameworks.agents import Speaker
from mainstem_tasks.engines.frameworks.provider_calls import ModelOutput
from mainstem_tasks.engines.pydantic_ai.deferring import output_type
from mainstem_tasks.engines.pydantic_ai.following import AT_WORK, ModelCalls, Tool, Work
from mainstem_tasks.engines.pydantic_ai.streaming import Streaming
from mainstem_tasks.sdk.pauses import Paused


async def delegate(agent: Agent[Any, Any], prompt: Any = None, **options: Any) -> AgentRunResult[Any]:
    """Run an agent for the tool that calls this, as `agent.run(prompt, **options)`.

    If a tool of the agent waits for a human, so does the calling one: it is called again after the decision,
    and the agent goes on where it waited. What the calling tool did before it delegated is then done again.
    """
    tool = AT_WORK.get()
    if tool is None:
        return await agent.run(prompt, **options)
    tool.agents += 1
    try:
        return await _run_for(tool, agent, prompt, options)
    except Paused:
        raise ApprovalRequired from None


async def _run_for(
    tool: Tool, agent: Agent[Any, Any], prompt: Any, options: dict[str, Any]
) -> AgentRunResult[Any]:
    caller, call, waiting = tool.caller, tool.call, tool.caller.waiting
    number = "" if tool.agents == 1 else f"#{tool.agents}"
    place = (*caller.place, call.tool_call_id + number)
    await caller.speaker.calls.complete(call.tool_call_id, call.tool_name, call.args_as_dict())
    parent = caller.speaker.calls.id_of(call.tool_call_id)
    async with caller.speaker.says.agent(agent.name or call.tool_name, parent=parent) as says:
        calls, model_output = caller.speaker.calls.of_agent(says, "|".join(place)), ModelOutput()
        streaming = Streaming(says, calls, model_output)
        work = Work(Speaker(says, calls), streaming, model_output, waiting, place)
        given: dict[str, Any] = {"user_prompt": prompt}
        if (state := waiting.take(place)) is not None:
            past = ModelMessagesTypeAdapter.validate_python(state["messages"])
            decided = await waiting.decided(calls, state)
            given = {"message_history": past, "deferred_tool_results": decided}
        result = await agent.run(
            **given,
            output_type=output_type(agent.output_type),
            event_stream_handler=streaming.take_all,
            capabilities=[*options.get("capabilities", ()), ModelCalls(work)],
            **{name: value for name, value in options.items() if name not in ("capabilities", *given)},
        )
        if isinstance(result.output, DeferredToolRequests):
            asked = await waiting.asked(calls, result.output, result.all_messages(), place=place)
            waiting.keep(place, asked)
            raise Paused
        return result
