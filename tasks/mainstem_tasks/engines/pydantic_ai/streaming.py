"""Carries an agent's stream of events into its run: text, reasoning, tool calls and their results."""

from __future__ import annotations

from collections.abc import AsyncIterable
from typing import Any

from pydantic_ai import messages
from pydantic_core import to_jsonable_python

from mainstem_tasks.engines.frameworks.provider_calls import ModelOutput
from mainstem_tasks.engines.frameworks.tool_calls import ToolCalls
from mainstem_tasks.sdk.emitter import Emitter


class Streaming:
    """One agent's events on their way into the run."""

    def __init__(self, run: Emitter, calls: ToolCalls, model_output: ModelOutput) -> None:
        self.output_tools: frozenset[str] = frozenset()
        """Tools whose calls are how the model gives its output: no calls to the run's readers."""
        self._run = run
        self._calls = calls
        self._model_output = model_output
        self._streamed: dict[int, str] = {}

    async def take_all(self, _: Any, events: AsyncIterable[Any]) -> None:
        """Emit what the events of one step say."""
        self._streamed = {}
        async for event in events:
            match event:
                case messages.PartStartEvent(index=index, part=part):
                    await self._begin(index, part)
                case messages.PartDeltaEvent(index=index, delta=delta):
                    await self._grow(index, delta)
                case messages.FunctionToolCallEvent(part=part):
                    await self._calls.complete(part.tool_call_id, part.tool_name, part.args_as_dict())
                case messages.FunctionToolResultEvent(part=part):
                    await self._answer(part)
                case _:
                    pass

    async def _begin(self, index: int, part: messages.ModelResponsePart) -> None:
        match part:
            case messages.TextPart(content=text):
                await self._said(text)
            case messages.ThinkingPart(content=text):
                await self._thought(text)
            case messages.ToolCallPart(tool_name=name) if name not in self.output_tools:
                self._streamed[index] = part.tool_call_id
                await self._calls.begin(part.tool_call_id, name)
                if isinstance(part.args, str):
                    await self._wrote(index, part.args)
            case _:
                pass

    async def _grow(self, index: int, delta: messages.ModelResponsePartDelta) -> None:
        match delta:
            case messages.TextPartDelta(content_delta=text):
                await self._said(text)
            case messages.ThinkingPartDelta(content_delta=text):
                await self._thought(text or "")
            case messages.ToolCallPartDelta(args_delta=str() as text):
                await self._wrote(index, text)
            case _:
                pass

    async def _said(self, text: str) -> None:
        self._model_output.take(text)
        await self._run.text(text)

    async def _thought(self, text: str) -> None:
        self._model_output.take(text)
        await self._run.reasoning(text)

    async def _wrote(self, index: int, arguments: str) -> None:
        self._model_output.take(arguments)
        if index in self._streamed:
            await self._calls.grow(self._streamed[index], arguments)

    async def _answer(self, part: messages.ToolReturnPart) -> None:
        result = to_jsonable_python(part.content, serialize_unknown=True, bytes_mode="base64")
        failed = part.outcome != "success" or part.retry is not None
        await self._calls.answer(part.tool_call_id, result, failed=failed)
