"""Follows an agent's model requests: budgets and usage, checkpoints, and users' input."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterable
from contextvars import ContextVar
from typing import Any

from pydantic_ai import RunContext as AgentContext
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter, ModelResponse, ToolCallPart
from pydantic_ai.models import ModelRequestContext
from pydantic_ai.tools import ToolDefinition
from pydantic_ai.usage import RequestUsage

from mainstem_tasks.engines.frameworks.agents import Place, Speaker
from mainstem_tasks.engines.frameworks.progress import Progress
from mainstem_tasks.engines.frameworks.provider_calls import ModelOutput, model_call
from mainstem_tasks.engines.pydantic_ai import histories
from mainstem_tasks.engines.pydantic_ai.deferring import Waiting
from mainstem_tasks.engines.pydantic_ai.streaming import Streaming
from mainstem_tasks.sdk.context import RunContext
from mainstem_tasks.sdk.provider_calls import ProviderCall


@dataclasses.dataclass(frozen=True, slots=True)
class Work:
    """An agent at work in a run: the run's own, or one in a tool, whose `place` is the calls above it."""

    speaker: Speaker
    streaming: Streaming
    model_output: ModelOutput
    waiting: Waiting
    place: Place = ()


@dataclasses.dataclass(slots=True)
class Tool:
    """A tool at work, and how many agents it has let work."""

    caller: Work
    call: ToolCallPart
    agents: int = 0


AT_WORK: ContextVar[Tool | None] = ContextVar("mainstem_tool_at_work", default=None)


@dataclasses.dataclass
class ModelCalls(AbstractCapability[Any]):
    """An agent's model calls inside the run's budgets, and its tools, in which agents may work."""

    work: Work

    def listens_to(self, event: Any) -> bool:  # noqa: ARG002 - as the hook is called
        """Tell that events are of no interest here: asking costs as much as a token does."""
        return False

    def wrap_run_event_stream(
        self,
        ctx: AgentContext[Any],  # noqa: ARG002 - as the hook is called
        *,
        stream: AsyncIterable[Any],
    ) -> AsyncIterable[Any]:
        """Leave the events as they are: the default is a generator that each of them goes through."""
        return stream

    async def wrap_model_request(
        self,
        ctx: AgentContext[Any],  # noqa: ARG002 - as the hook is called
        *,
        request_context: ModelRequestContext,
        handler: Any,
    ) -> ModelResponse:
        """Make the request inside the run's budgets."""
        parameters = request_context.model_request_parameters
        self.work.streaming.output_tools = frozenset(tool.name for tool in parameters.output_tools)
        given = (request_context.model_settings or {}).get("max_tokens")
        async with model_call(
            self.work.speaker.says,
            self.work.model_output,
            model=request_context.model.model_name,
            provider=request_context.model.system,
            request=_about(request_context),
            max_output_tokens=given,
        ) as call:
            if given is None and call.max_output_tokens is not None:
                bound = {**(request_context.model_settings or {}), "max_tokens": call.max_output_tokens}
                request_context = dataclasses.replace(request_context, model_settings=bound)
            response: ModelResponse = await handler(request_context)
            await _report(call, response.usage)
            return response

    async def wrap_tool_execute(
        self,
        ctx: AgentContext[Any],  # noqa: ARG002 - as the hook is called
        *,
        call: ToolCallPart,
        tool_def: ToolDefinition,  # noqa: ARG002
        args: Any,
        handler: Any,
    ) -> Any:
        """Let `delegate` find the call that it works for."""
        token = AT_WORK.set(Tool(self.work, call))
        try:
            return await handler(args)
        finally:
            AT_WORK.reset(token)


@dataclasses.dataclass
class Following(ModelCalls):
    """One segment's view of its own agent."""

    run: RunContext[Any]
    is_first: bool = True
    thread: list[ModelMessage] = dataclasses.field(default_factory=list[ModelMessage])
    """What was said before the run."""

    async def before_model_request(
        self, ctx: AgentContext[Any], request_context: ModelRequestContext
    ) -> ModelRequestContext:
        """Hand over what users said, and save what was done: results of tools are there to be kept."""
        while not self.run.inbox.empty():
            ctx.enqueue(self.run.inbox.get_nowait())
        if not self.is_first:
            state = histories.state_of(ctx.messages, self.thread)
            progress = Progress.of(self.work.speaker.calls, state)
            await self.run.checkpoint(progress.encoded())
        self.is_first = False
        return request_context


def _about(request: ModelRequestContext) -> str:
    said = ModelMessagesTypeAdapter.dump_json(request.messages).decode(errors="replace")
    tools = [
        f"{t.name} {t.description} {t.parameters_json_schema}"
        for t in request.model_request_parameters.function_tools
    ]
    return "".join((said, *tools))


async def _report(call: ProviderCall, used: RequestUsage) -> None:
    await call.used(
        input_tokens=used.input_tokens,
        output_tokens=used.output_tokens,
        cached_input_tokens=used.cache_read_tokens,
        cache_write_tokens=used.cache_write_tokens,
        cache_write_1h_tokens=used.cache_write_1h_tokens,
        reasoning_tokens=used.output_reasoning_tokens,
        audio_input_tokens=used.input_audio_tokens,
        audio_output_tokens=used.output_audio_tokens,
    )
