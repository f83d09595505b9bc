"""Follows the model calls of an agent's run: budgets and usage, checkpoints, and users' input."""

# the SDK's items hold what providers sent, in many shapes: read by hand, not by types.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from typing import Any

from agents import Agent, RunConfig, RunContextWrapper, RunHooks
from agents.items import ModelResponse, TResponseInputItem
from agents.models import get_default_model
from agents.usage import Usage
from pydantic_core import to_json, to_jsonable_python

from mainstem_tasks.engines.frameworks.conversations import without_thread
from mainstem_tasks.engines.frameworks.progress import Progress
from mainstem_tasks.engines.frameworks.provider_calls import ModelOutput, model_call
from mainstem_tasks.engines.frameworks.tool_calls import ToolCalls
from mainstem_tasks.sdk.context import RunContext
from mainstem_tasks.sdk.emitter import Emitter
from mainstem_tasks.sdk.provider_calls import ProviderCall


class ModelCalls(RunHooks[Any]):
    """The model calls of an agent, of the run's own or of one in a tool: budgets and usage."""

    def __init__(self, by: Emitter, model_output: ModelOutput, config: RunConfig) -> None:
        self._by = by
        self._model_output = model_output
        self._config = config
        self._stack = AsyncExitStack()
        self._call: ProviderCall | None = None

    async def on_llm_start(
        self,
        context: RunContextWrapper[Any],  # noqa: ARG002 - as the hook is called
        agent: Agent[Any],
        system_prompt: str | None,
        input_items: list[TResponseInputItem],
    ) -> None:
        """Reserve what the call may cost."""
        await self.close()
        model = self._config.model or agent.model
        is_openai = isinstance(model, str | None) or type(model).__name__.startswith("OpenAI")
        asked = to_json(input_items, serialize_unknown=True).decode(errors="replace")
        opened = model_call(
            self._by,
            self._model_output,
            model=_name_of(model),
            provider="openai" if is_openai else None,
            request=(system_prompt or "") + asked,
            max_output_tokens=agent.model_settings.max_tokens,
        )
        self._call = await self._stack.enter_async_context(opened)

    async def on_llm_end(
        self,
        context: RunContextWrapper[Any],  # noqa: ARG002 - as the hook is called
        agent: Agent[Any],  # noqa: ARG002
        response: ModelResponse,
    ) -> None:
        """Report what the call used."""
        if self._call is not None:
            await _report(self._call, response.usage)
        await self.close()

    async def close(self) -> None:
        """End the call that is under way, with the failure that is being handled, if there is one."""
        stack, self._stack, self._call = self._stack, AsyncExitStack(), None
        await stack.__aexit__(*sys.exc_info())


class Following(ModelCalls):
    """One segment's view of its own agent's model calls: before each but the first, a checkpoint."""

    def __init__(
        self, run: RunContext[Any], calls: ToolCalls, model_output: ModelOutput, config: RunConfig
    ) -> None:
        super().__init__(run, model_output, config)
        self._run = run
        self._calls = calls
        self._is_first = True
        self.thread: list[Any] = []
        """What was said before the run."""

    async def on_llm_start(
        self,
        context: RunContextWrapper[Any],
        agent: Agent[Any],
        system_prompt: str | None,
        input_items: list[TResponseInputItem],
    ) -> None:
        """Save what was done, and reserve what the call may cost."""
        if not self._is_first:
            rest = without_thread(input_items, self.thread)
            kept = to_jsonable_python(input_items if rest is None else rest, serialize_unknown=True)
            state = {"items": kept, "agent": agent.name, "after_thread": rest is not None}
            await self._run.checkpoint(Progress.of(self._calls, state).encoded())
        self._is_first = False
        await super().on_llm_start(context, agent, system_prompt, input_items)


def _name_of(model: Any) -> str:
    if isinstance(model, str):
        return model
    named = getattr(model, "model", None)
    return named if isinstance(named, str) else get_default_model()


async def _report(call: ProviderCall, used: Usage) -> None:
    read, said = used.input_tokens_details, used.output_tokens_details
    await call.used(
        input_tokens=used.input_tokens,
        output_tokens=used.output_tokens,
        cached_input_tokens=read.cached_tokens or 0,
        cache_write_tokens=getattr(read, "cache_write_tokens", 0) or 0,
        reasoning_tokens=said.reasoning_tokens or 0,
    )
