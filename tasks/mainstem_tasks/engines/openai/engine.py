"""The `openai` engine: streams chat completions from any OpenAI-compatible endpoint.

Text, reasoning, tool calls with streaming arguments, usage and the reason the model stopped. It asks again
only while nothing was emitted. Tools of `use_tools` run here, and the model is called again with their
results (`_openai_tools`); others are reported. HTTP and its errors are in `_openai_provider`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import logging
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from mainstem_shared import errors
from mainstem_shared.model import jsontext
from mainstem_tasks.engines.openai import provider
from mainstem_tasks.engines.openai.provider import Provider, delay_s, retryable
from mainstem_tasks.engines.openai.tools import Called, Progress, Toolbox, tool_names
from mainstem_tasks.sdk.context import RunContext
from mainstem_tasks.sdk.policies import Policy
from mainstem_tasks.sdk.registry import MissingExtraError, engine

if TYPE_CHECKING:
    from mainstem_tasks.engines.openai.chunks import CallPiece, Chunk, Delta, Tokens

if importlib.util.find_spec("openai") is None:
    raise MissingExtraError("the openai engine needs its client: pip install 'mainstem[openai]'")

logger = logging.getLogger(__name__)

ATTEMPTS: Final = 4
SILENCE_MARGIN_S: Final = 10.0
"""Unless told otherwise the run's idle timeout ends a silent provider's run, not the connection's."""
_OWNED: Final = frozenset({"stream", "n"})
_OURS: Final = {"extra_body", "timeout_s", "use_tools", "tool_policy", "max_iterations"}
"""What the provider knows nothing of."""


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
    use_tools: Annotated[tuple[str, ...], Field(max_length=128)] = ()
    """Tools registered with `@tool` that the model may call; they run in the worker."""
    tool_policy: Policy | None = None
    """The run's own policy; it can only tighten the deployment's."""
    max_iterations: Annotated[int, Field(ge=1, le=100)] = 10
    """How often the model may call tools before the run fails."""
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
        given = self.model_dump(exclude_unset=True, exclude_none=True, exclude=_OURS)
        messages = [message.model_dump(exclude_unset=True) for message in self.messages]
        return {**self.extra_body, **given, "messages": messages, "model": model}


class TooManyIterationsError(RuntimeError):
    """The model goes on calling tools."""


@engine("openai", input_model=ChatInput, aclose=provider.aclose, checkpoints=True)
async def openai_chat(run: RunContext[ChatInput]) -> None:
    """Stream chat completions until the model calls no more tools that run here."""
    wanted = run.input
    toolbox = Toolbox(run, wanted.use_tools, wanted.tool_policy)
    progress = Progress() if run.state is None else Progress.model_validate_json(run.state)
    while True:
        if progress.pending:
            await toolbox.settle(progress)
            while not run.inbox.empty():  # what users said meanwhile, before the model goes on
                progress.heard(run.inbox.get_nowait())
            await run.checkpoint(progress.model_dump_json().encode())
        answer = await _complete(run, _body(wanted, run, toolbox, progress), progress.call_ids)
        calls = answer.called
        if not calls or not _runs_here(wanted, toolbox, calls):
            return
        if progress.iteration >= wanted.max_iterations:
            raise TooManyIterationsError(
                f"the model called tools more than {progress.iteration} times in a row"
            )
        progress.said(answer.text, calls)


def _body(
    wanted: ChatInput, run: RunContext[ChatInput], toolbox: Toolbox, progress: Progress
) -> dict[str, Any]:
    body = wanted.body(run.settings.openai_model)
    body["messages"] = [*body["messages"], *progress.messages]
    if described := [*(wanted.tools or ()), *toolbox.definitions]:
        body["tools"] = described
    return body


def _runs_here(wanted: ChatInput, toolbox: Toolbox, calls: Sequence[Called]) -> bool:
    """Tell whether the loop goes on: not if it has no tools, or a call is the caller's to run."""
    return bool(wanted.use_tools) and not any(
        call.name in tool_names(wanted.tools) and not toolbox.has(call.name) for call in calls
    )


async def _complete(run: RunContext[ChatInput], body: dict[str, Any], taken: frozenset[str]) -> Answer:
    """Stream one completion; asks again only while nothing of it was emitted. `taken`: earlier calls' ids."""
    silence_s = run.input.timeout_s or run.settings.idle_timeout_s + SILENCE_MARGIN_S
    provider = await Provider.of(run.settings)
    for attempt in itertools.count(1):
        answer = Answer(run, taken)
        try:
            async with contextlib.aclosing(provider.stream(body, silence_s=silence_s)) as chunks:
                await answer.take_all(chunks)
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
            return answer
    raise AssertionError  # the loop ends by its own


@dataclass(slots=True, kw_only=True)
class Call:
    """A tool call whose arguments are streaming. `said_id` is the provider's, `call_id` ours: unique."""

    call_id: str = ""
    said_id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list[str])


class Answer:
    """One completion on its way into the run. `begun`: something of it was emitted, it cannot be redone."""

    def __init__(self, run: RunContext[ChatInput], taken: frozenset[str]) -> None:
        self.begun = False
        self._run = run
        self._taken = taken
        self._calls: list[Call] = []
        self._by_index: dict[int, Call] = {}
        self._usage: Tokens | None = None
        self._finish: dict[str, Any] = {}
        self._said: list[str] = []
        self.called: list[Called] = []
        """The complete calls, once the answer is finished."""

    @property
    def text(self) -> str:
        """The answer's text."""
        return "".join(self._said)

    async def take_all(self, chunks: AsyncIterator[Chunk]) -> None:
        """Emit what the chunks bring.

        Raises:
            ProviderError: the provider failed before it gave its reason to stop.
        """
        try:
            async for chunk in chunks:
                await self._take(chunk)
        except errors.ProviderError as error:
            if not self._finish:
                raise
            logger.warning(  # the answer is complete, at most its usage is missing
                "the provider's stream broke after the answer's end",
                extra={"action": "provider_untidy", "run_id": self._run.run_id, "error": str(error)},
            )

    async def _take(self, chunk: Chunk) -> None:
        self._usage = chunk.usage or self._usage
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

    async def _take_delta(self, delta: Delta) -> None:
        if thought := delta.thought:
            self.begun = True
            await self._run.reasoning(thought)
        for text in (delta.content, delta.refusal):
            if text:
                self.begun = True
                self._said.append(text)
                await self._run.text(text)
        for piece in delta.tool_calls or ():
            await self._take_call(piece)

    async def _take_call(self, piece: CallPiece) -> None:
        call = self._call_of(piece)
        if piece.function is None:
            return
        arguments = piece.function.arguments or ""
        call.pieces.append(arguments)
        if call.name:
            await self._run.tool_call_delta(call.call_id, arguments)
        elif piece.function.name:
            call.name = piece.function.name
            await self._begin(call)

    def _call_of(self, piece: CallPiece) -> Call:
        index = piece.index or 0  # some servers leave it out
        call = self._by_index.get(index)
        # Others count every call as number 0: then the id tells.
        if call is None or (piece.id and call.said_id and piece.id != call.said_id):
            call = self._by_index[index] = Call()
            self._calls.append(call)
        call.said_id = call.said_id or piece.id or ""
        return call

    async def _begin(self, call: Call) -> None:
        taken = {*self._taken, *(other.call_id for other in self._calls)}
        own = call.said_id if call.said_id not in taken else ""  # servers repeat ids, or have none
        call.call_id = own or f"call_{secrets.token_hex(8)}"
        self.begun = True
        await self._run.tool_call_start(call.call_id, call.name)
        await self._run.tool_call_delta(call.call_id, "".join(call.pieces))

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
        parsed: dict[str, Any] | None = arguments if isinstance(arguments, dict) else None
        self.called.append(Called(call_id=call.call_id, name=call.name, arguments=parsed))
        if parsed is not None:
            await self._run.tool_call(call.call_id, call.name, parsed)
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
        await self._run.usage(
            input_tokens=usage.prompt_tokens or 0,
            output_tokens=usage.completion_tokens or 0,
            total_tokens=usage.total_tokens,
            cached_input_tokens=usage.cached,
            reasoning_tokens=usage.reasoned,
        )
