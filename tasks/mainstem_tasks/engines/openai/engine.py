"""The `openai` engine streams chat completions from any OpenAI-compatible endpoint.

Text, reasoning, tool calls with streaming arguments, usage and the reason the model stopped. It asks again
only while nothing was emitted. Tools of `use_tools` run here, and the model is called again with their
results (`tools`); others are reported. HTTP and its errors are in `provider`.
"""

# what clients and providers send is checked by models or by hand, not by types.
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import logging
import math
from collections.abc import AsyncGenerator, Sequence
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mainstem_shared import errors
from mainstem_shared.model import jsontext
from mainstem_tasks.engines import provider_metrics
from mainstem_tasks.engines.assembly import estimates, extras
from mainstem_tasks.engines.assembly.finishes import Ending
from mainstem_tasks.engines.openai import provider
from mainstem_tasks.engines.openai.answers import Answer
from mainstem_tasks.engines.openai.provider import Provider, delay_s, retryable
from mainstem_tasks.engines.openai.tools import Called, Progress, Toolbox, tool_names
from mainstem_tasks.sdk.context import RunContext
from mainstem_tasks.sdk.policies import Policy
from mainstem_tasks.sdk.provider_calls import ProviderCall
from mainstem_tasks.sdk.registry import MissingExtraError, engine

if importlib.util.find_spec("openai") is None:
    raise MissingExtraError("the openai engine needs its client: pip install 'mainstem[openai]'")

logger = logging.getLogger(__name__)

ATTEMPTS: Final = 4
SILENCE_MARGIN_S: Final = 10.0
"""Unless told otherwise the run's idle timeout ends a silent provider's run, not the connection's."""
_OWNED: Final = frozenset({"stream", "n"})
_OURS: Final = {"extra_body", "timeout_s", "use_tools", "tool_policy", "max_iterations", "history"}
"""What the provider knows nothing of."""


_INSTRUCTIONS: Final = ("system", "developer")
"""Roles of what stands before a conversation."""


class Message(BaseModel):
    """One message of the conversation, in the provider's own format."""

    model_config = ConfigDict(extra="allow", frozen=True)

    role: Annotated[str, Field(min_length=1)]


class ChatInput(BaseModel):
    """A chat completion request. What the provider knows beyond these fields goes into `extra_body`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    messages: list[Message] = Field(default_factory=list[Message])
    history: bool = False
    """Whether the thread's earlier turns, as the server has them, stand before `messages`."""
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

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.messages and not self.history:
            raise ValueError("messages: give at least one, or take the thread's history")
        return self

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
        return {**self.extra_body, **given, "messages": self.conversation(()), "model": model}

    def conversation(self, earlier: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the messages with the thread's earlier ones before them, and instructions before all."""
        said = [message.model_dump(exclude_unset=True) for message in self.messages]
        first = next((n for n, message in enumerate(said) if message["role"] not in _INSTRUCTIONS), len(said))
        return [*said[:first], *earlier, *said[first:]]


class TooManyIterationsError(RuntimeError):
    """The model goes on calling tools."""


@engine("openai", input_model=ChatInput, aclose=provider.aclose, checkpoints=True)
async def openai_chat(run: RunContext[ChatInput]) -> None:
    """Stream chat completions until the model calls no more tools that run here."""
    wanted = run.input
    toolbox = Toolbox(run, wanted.use_tools, wanted.tool_policy)
    progress = Progress() if run.state is None else Progress.model_validate_json(run.state)
    conversation = wanted.conversation(await run.history() if wanted.history else ())
    while True:
        if progress.pending:
            await toolbox.settle(progress)
            while not run.inbox.empty():  # what users said meanwhile, before the model goes on
                progress.heard(run.inbox.get_nowait())
            if progress.leaves_calls:
                return  # what is left of the batch is the caller's to answer
            await run.checkpoint(progress.encoded())
        answer = await _complete(run, toolbox, progress, conversation)
        calls = answer.called
        ours = _running_here(wanted, toolbox, calls)
        if not ours or answer.ending is Ending.FILTERED:
            return
        if progress.iteration >= wanted.max_iterations:
            raise TooManyIterationsError(
                f"the model called tools more than {progress.iteration} times in a row"
            )
        progress.said(answer.content, ours, answer.extras)
        progress.leaves_calls = len(ours) < len(calls)


def _body(
    run: RunContext[ChatInput],
    toolbox: Toolbox,
    progress: Progress,
    conversation: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    wanted = run.input
    body = wanted.body(run.settings.openai_model)
    since = extras.without(progress.messages) if progress.bare else progress.messages
    body["messages"] = [*conversation, *since]
    if described := [*(wanted.tools or ()), *toolbox.definitions]:
        body["tools"] = described
    return jsontext.well_formed(body)  # a history may be of a time, or an engine, that kept halves of pairs


def _running_here(wanted: ChatInput, toolbox: Toolbox, calls: Sequence[Called]) -> list[Called]:
    """Return the calls of a batch that are not the caller's to run; none if the engine has no tools."""
    if not wanted.use_tools:
        return []
    theirs = tool_names(wanted.tools)
    return [call for call in calls if call.name not in theirs or toolbox.has(call.name)]


async def _complete(
    run: RunContext[ChatInput],
    toolbox: Toolbox,
    progress: Progress,
    conversation: Sequence[dict[str, Any]],
) -> Answer:
    """Stream one completion; asks again only while nothing of it was emitted, and only if that can help."""
    endpoint = await Provider.of(run.settings)
    for attempt in itertools.count(1):
        body = _body(run, toolbox, progress, conversation)
        answer = Answer(
            run,
            taken=progress.call_ids,
            tools=body.get("tools") or (),
            clean=endpoint.presentable,
            messages=body["messages"],
        )
        try:
            await _attempt(run, endpoint, body, answer, attempt=attempt)
        except errors.ProviderError as error:
            if _refuses_extras(error, progress):
                progress.bare = True
                continue
            if not _helps_to_ask_again(answer, error, attempt):
                raise
            provider_metrics.retried(str(body["model"]))
            await _wait(run, error, attempt=attempt)
        else:
            return answer
    raise AssertionError  # the loop ends by its own


async def _attempt(
    run: RunContext[ChatInput], endpoint: Provider, body: dict[str, Any], answer: Answer, *, attempt: int
) -> None:
    """Make one call of the provider, inside the run's budgets."""
    silence_s = run.input.timeout_s or run.settings.idle_timeout_s + SILENCE_MARGIN_S
    model = str(body["model"])
    async with _call(run, endpoint, body) as call:
        answer.call = call
        try:
            with provider_metrics.call(model, provider="openai") as span:
                async with contextlib.aclosing(endpoint.stream(body, silence_s=silence_s)) as arriving:
                    await answer.take_all(arriving)
                await answer.finish()
                span.note(
                    gen_ai__usage__input_tokens=answer.counted.get("input"),
                    gen_ai__usage__output_tokens=answer.counted.get("output"),
                )
        except BaseException as error:  # also stopped in mid-stream: it cost all the same
            if not isinstance(error, errors.ProviderError) or not _helps_to_ask_again(answer, error, attempt):
                await answer.break_off()
                provider_metrics.tokens(model, **answer.counted)
            raise
        finally:
            if not answer.is_answered:
                call.not_made()
        provider_metrics.tokens(model, **answer.counted)


@contextlib.asynccontextmanager
async def _call(
    run: RunContext[ChatInput], endpoint: Provider, body: dict[str, Any]
) -> AsyncGenerator[ProviderCall]:
    """Reserve what the request may cost; under a budget, bound its answer if nobody else does."""
    bound = body.get("max_completion_tokens") or body.get("max_tokens")
    asked = estimates.tokens_of_request(body["messages"], body.get("tools") or ())
    async with run.provider_call(
        model=str(body["model"]),
        provider=endpoint.name,
        input_tokens=math.ceil(asked * estimates.MARGIN),
        max_output_tokens=bound,
    ) as call:
        if bound is None and call.max_output_tokens is not None:
            body[endpoint.bound_of_answer] = call.max_output_tokens
        yield call


def _helps_to_ask_again(answer: Answer, error: errors.ProviderError, attempt: int) -> bool:
    return not answer.begun and attempt < ATTEMPTS and retryable(error)


def _refuses_extras(error: errors.ProviderError, progress: Progress) -> bool:
    """Tell whether the provider refuses, by name, a member that came from it: then it goes without."""
    if progress.bare or error.fields.get("status") not in (400, 422):
        return False
    return any(name in str(error) for name in extras.names_in(progress.messages))


async def _wait(run: RunContext[ChatInput], error: errors.ProviderError, *, attempt: int) -> None:
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
