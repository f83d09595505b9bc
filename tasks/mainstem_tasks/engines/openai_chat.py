"""The `openai` engine: streams a chat completion from any OpenAI-compatible endpoint.

Text, reasoning, tool calls with streaming arguments, usage and the reason the model stopped. It asks again
only while nothing was emitted. Tools are reported, not run. HTTP and its errors are in `_openai_provider`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import logging
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from mainstem_shared import errors, jsontext
from mainstem_tasks.context import RunContext
from mainstem_tasks.engines import _openai_provider
from mainstem_tasks.engines._openai_provider import Provider, delay_s, retryable
from mainstem_tasks.registry import MissingExtraError, engine

if TYPE_CHECKING:
    from openai.types import CompletionUsage
    from openai.types.chat import ChatCompletionChunk
    from openai.types.chat.chat_completion_chunk import ChoiceDelta, ChoiceDeltaToolCall

if importlib.util.find_spec("openai") is None:
    raise MissingExtraError("the openai engine needs its client: pip install 'mainstem[openai]'")

logger = logging.getLogger(__name__)

ATTEMPTS: Final = 4
SILENCE_MARGIN_S: Final = 10.0
"""Unless told otherwise the run's idle timeout ends a silent provider's run, not the connection's."""
_OWNED: Final = frozenset({"stream", "n"})


class Message(BaseModel):
    """One message of the conversation, in the provider's own format."""

    model_config = ConfigDict(extra="allow", frozen=True)

    role: Annotated[str, Field(min_length=1)]


class ChatInput(BaseModel):
    """A chat completion request. What the provider knows beyond these fields goes into `extra_body`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    messages: Annotated[list[Message], Field(min_length=1)]
    model: str | None = None
    """None: the deployment's MAINSTEM_OPENAI_MODEL."""
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: Annotated[int, Field(gt=0)] | None = None
    max_completion_tokens: Annotated[int, Field(gt=0)] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    extra_body: dict[str, Any] = Field(default_factory=dict)
    timeout_s: Annotated[float, Field(gt=0, le=3600)] | None = None
    """The provider's longest silence. None: the run's idle timeout decides."""

    @field_validator("extra_body")
    @classmethod
    def _leaves_the_protocol_alone(cls, value: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted((_OWNED | cls.model_fields.keys()) & value.keys()):
            raise ValueError(f"extra_body must not contain {', '.join(taken)}")
        return value

    def body(self, default_model: str | None) -> dict[str, Any]:
        """Return the request's body.

        Raises:
            InvalidInput: no model is named, neither here nor by the deployment.
        """
        model = self.model or default_model
        if not model:
            raise errors.InvalidInput("model: give one, or set MAINSTEM_OPENAI_MODEL", path="model")
        given = self.model_dump(exclude_unset=True, exclude_none=True, exclude={"extra_body", "timeout_s"})
        messages = [message.model_dump(exclude_unset=True) for message in self.messages]
        return {**self.extra_body, **given, "messages": messages, "model": model}


@engine("openai", input_model=ChatInput, aclose=_openai_provider.aclose)
async def openai_chat(run: RunContext[ChatInput]) -> None:
    """Stream one chat completion."""
    body = run.input.body(run.settings.openai_model)
    silence_s = run.input.timeout_s or run.settings.idle_timeout_s + SILENCE_MARGIN_S
    provider = await Provider.of(run.settings)
    for attempt in itertools.count(1):
        answer = Answer(run)
        try:
            async with contextlib.aclosing(provider.stream(body, silence_s=silence_s)) as chunks:
                async for chunk in chunks:
                    await answer.take(chunk)
            await answer.finish()
        except errors.ProviderError as error:
            if answer.begun or attempt >= ATTEMPTS or not retryable(error):
                await answer.report_usage()
                raise
            wait_s = delay_s(attempt, error)
            logger.warning(
                "the provider failed before it said anything; asking again",
                extra={
                    "action": "provider_retry",
                    "run_id": run.run_id,
                    "attempt": attempt,
                    "wait_s": wait_s,
                    "error": str(error),
                },
            )
            await asyncio.sleep(wait_s)
        else:
            return


@dataclass(slots=True, kw_only=True)
class Call:
    """A tool call whose arguments are streaming."""

    call_id: str
    name: str = ""
    pieces: list[str] = field(default_factory=list[str])


class Answer:
    """One completion on its way into the run. `begun`: something of it was emitted, it cannot be redone."""

    def __init__(self, run: RunContext[ChatInput]) -> None:
        self.begun = False
        self._run = run
        self._calls: list[Call] = []
        self._by_index: dict[int, Call] = {}
        self._usage: CompletionUsage | None = None
        self._finish: dict[str, Any] = {}

    async def take(self, chunk: ChatCompletionChunk) -> None:
        """Emit what one chunk brings.

        Raises:
            ProviderError: the provider says that it failed.
        """
        if chunk.usage is not None:
            self._usage = chunk.usage  # the totals of this completion so far; usually in the last chunk only
        for choice in chunk.choices or ():
            if choice.index:
                continue  # one answer was asked for
            if choice.delta:
                await self._take_delta(choice.delta)
            if choice.finish_reason:
                self._finish = {
                    "finish_reason": choice.finish_reason,
                    "model": chunk.model,
                    "response_id": chunk.id,
                }

    async def _take_delta(self, delta: ChoiceDelta) -> None:
        # Not in OpenAI's own API: DeepSeek, vLLM and llama.cpp say `reasoning_content`, OpenRouter says
        # `reasoning`, and some send both with the same text.
        reasoning = getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None)
        if reasoning and isinstance(reasoning, str):
            self.begun = True
            await self._run.reasoning(reasoning)
        for text in (delta.content, delta.refusal):
            if text:
                self.begun = True
                await self._run.text(text)
        for piece in delta.tool_calls or ():
            await self._take_call(piece)

    async def _take_call(self, piece: ChoiceDeltaToolCall) -> None:
        index = piece.index or 0  # some servers leave it out
        call = self._by_index.get(index)
        if call is None or (piece.id and piece.id != call.call_id):  # others count every call as number 0
            call = Call(call_id=piece.id or f"call_{secrets.token_hex(8)}")
            self._calls.append(call)
            self._by_index[index] = call
        if piece.function is None:
            return
        if piece.function.name and not call.name:
            call.name = piece.function.name
            self.begun = True
            await self._run.tool_call_start(call.call_id, call.name)
        if piece.function.arguments and call.name:
            call.pieces.append(piece.function.arguments)
            await self._run.tool_call_delta(call.call_id, piece.function.arguments)

    async def finish(self) -> None:
        """Complete the answer after the last chunk.

        Raises:
            ProviderError: the stream ended before the answer did.
        """
        reason = self._finish.get("finish_reason")
        if reason is None:
            raise errors.ProviderError("The provider's stream broke off before its end.", retryable=True)
        if reason == "error":  # what routers send when the provider behind them failed
            raise errors.ProviderError("The provider failed in the middle of its answer.", retryable=True)
        for call in self._calls:
            await self._complete(call)
        await self.report_usage()
        await self._run.custom("finish", self._finish)

    async def _complete(self, call: Call) -> None:
        if not call.name:
            return
        try:
            arguments = jsontext.loads("".join(call.pieces) or "{}")
        except ValueError:
            arguments = None
        if isinstance(arguments, dict):
            await self._run.tool_call(call.call_id, call.name, arguments)
        else:  # cut off by a token limit, or the model's own mistake; the text stays as it came
            await self._run.tool_result(
                call.call_id, {"error": "the arguments are not a JSON object"}, failed=True
            )

    async def report_usage(self) -> None:
        """Add the completion's tokens, if the provider told, to the run's."""
        usage = self._usage
        if usage is None:
            return
        self._usage = None
        prompt, completion = usage.prompt_tokens_details, usage.completion_tokens_details
        cached = (
            prompt.cached_tokens if prompt else getattr(usage, "prompt_cache_hit_tokens", None)
        )  # DeepSeek
        await self._run.usage(
            input_tokens=usage.prompt_tokens or 0,
            output_tokens=usage.completion_tokens or 0,
            total_tokens=usage.total_tokens,
            cached_input_tokens=cached or 0,
            reasoning_tokens=(completion.reasoning_tokens if completion else 0) or 0,
        )
