"""Runs a conversation with a provider's model: answers, calls of tools, approvals, and answers again.

It asks again only while nothing of an answer was emitted. Tools of `use_tools` run here, and the model is
called again with their results (`tools`); others are reported. Each protocol has an `Endpoint` of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final

from mainstem_shared import errors
from mainstem_shared.model import jsontext
from mainstem_tasks.engines import provider_metrics
from mainstem_tasks.engines.assembly import estimates
from mainstem_tasks.engines.assembly.finishes import Ending
from mainstem_tasks.engines.turns import native_answers
from mainstem_tasks.engines.turns.answers import Answer
from mainstem_tasks.engines.turns.endpoints import Chat, Endpoint, is_refusal
from mainstem_tasks.engines.turns.inputs import Conversing
from mainstem_tasks.engines.turns.tools import Called, Progress, Toolbox, tool_names
from mainstem_tasks.engines.turns.transport import delay_s, retryable
from mainstem_tasks.sdk.context import RunContext
from mainstem_tasks.sdk.provider_calls import ProviderCall

logger = logging.getLogger(__name__)

ATTEMPTS: Final = 4
SILENCE_MARGIN_S: Final = 10.0
"""Unless told otherwise the run's idle timeout ends a silent provider's run, not the connection's."""


class TooManyIterationsError(RuntimeError):
    """The model goes on calling tools."""


async def converse(run: RunContext[Any], endpoint: Endpoint) -> None:
    """Stream answers until the model calls no more tools that run here."""
    turns = _Turns(run, endpoint, await _conversation(run, endpoint))
    progress, wanted = turns.progress, turns.wanted
    while True:
        if progress.pending:
            await turns.toolbox.run_pending(progress)
            while not run.inbox.empty():  # what users said meanwhile, before the model goes on
                progress.add_input(run.inbox.get_nowait())
            if progress.leaves_calls:
                return  # what is left of the batch is the caller's to answer
            await run.checkpoint(progress.encoded())
        answer = await turns.next()
        ours = turns.running_here(answer.called)
        if answer.ending is not Ending.PAUSED and (not ours or answer.ending is Ending.FILTERED):
            if not answer.called:
                await native_answers.keep(run, endpoint, [*progress.messages, answer.message])
            return
        if progress.iteration >= wanted.max_iterations:
            raise TooManyIterationsError(
                f"the model called tools more than {progress.iteration} times in a row"
            )
        progress.said(answer.content, ours, answer.extras)
        progress.leaves_calls = len(ours) < len(answer.called)


async def _conversation(run: RunContext[Any], endpoint: Endpoint) -> list[Chat]:
    wanted: Conversing = run.input
    return wanted.conversation(await native_answers.earlier(run, endpoint) if wanted.history else ())


class _Turns:
    """The model's turns of one segment of a run."""

    def __init__(self, run: RunContext[Any], endpoint: Endpoint, conversation: Sequence[Chat]) -> None:
        self.wanted: Conversing = run.input
        self.toolbox = Toolbox(run, self.wanted.use_tools, self.wanted.tool_policy)
        self.progress = Progress() if run.state is None else Progress.model_validate_json(run.state)
        self._run = run
        self._endpoint = endpoint
        self._model = endpoint.model_of(self.wanted)
        self._conversation = conversation
        self._tools = [*(self.wanted.tools or ()), *self.toolbox.definitions]

    def running_here(self, calls: Sequence[Called]) -> list[Called]:
        """Return the calls of a batch that are not the caller's to run; none if the engine has no tools."""
        if not self.wanted.use_tools:
            return []
        theirs = tool_names(self.wanted.tools)
        return [call for call in calls if call.name not in theirs or self.toolbox.has(call.name)]

    async def next(self) -> Answer:
        """Stream one answer; asks again only while nothing of it was emitted, and only if that can help."""
        for attempt in itertools.count(1):
            messages = self._messages()
            answer = Answer(
                self._run,
                self._endpoint,
                taken=self.progress.call_ids,
                tools=self._tools,
                messages=messages,
            )
            try:
                await self._attempt(answer, messages, attempt=attempt)
            except errors.ProviderError as error:
                if self._spells_otherwise(error, messages):
                    continue
                if not _helps_to_ask_again(answer, error, attempt):
                    raise
                provider_metrics.retried(self._model)
                await self._wait(error, attempt=attempt)
            else:
                return answer
        raise AssertionError  # the loop ends by its own

    def _messages(self) -> list[Chat]:
        said = [*self._conversation, *self.progress.messages]
        if self.progress.bare:
            said = self._endpoint.without_own(said)
        return jsontext.well_formed(said)  # a history may be of a time that kept halves of pairs

    def _spells_otherwise(self, error: errors.ProviderError, messages: Sequence[Chat]) -> bool:
        """Tell whether another spelling of a refused request may be taken; sees to it."""
        if not is_refusal(error):
            return False
        if not self.progress.bare and self._endpoint.refuses_own(error, messages):
            self.progress.bare = True
            return True
        return self._endpoint.adapts(error, self._model)

    async def _attempt(self, answer: Answer, messages: Sequence[Chat], *, attempt: int) -> None:
        """Make one call of the provider, inside the run's budgets."""
        body = jsontext.well_formed(self._endpoint.body(self.wanted, messages, self._tools))
        silence_s = self.wanted.timeout_s or self._run.settings.idle_timeout_s + SILENCE_MARGIN_S
        async with self._call(messages, body) as call:
            answer.call = call
            try:
                with provider_metrics.call(self._model, provider=self._endpoint.kind) as span:
                    stream = self._endpoint.stream(body, silence_s=silence_s)
                    async with contextlib.aclosing(stream) as arriving:
                        await answer.take_all(arriving)
                    await answer.finish()
                    span.note(
                        gen_ai__usage__input_tokens=answer.counted.get("input"),
                        gen_ai__usage__output_tokens=answer.counted.get("output"),
                    )
            except BaseException as error:  # also stopped in mid-stream: it cost all the same
                if not isinstance(error, errors.ProviderError) or not _helps_to_ask_again(
                    answer, error, attempt
                ):
                    await answer.break_off()
                    provider_metrics.tokens(self._model, **answer.counted)
                raise
            finally:
                if not answer.is_answered:
                    call.not_made()
            provider_metrics.tokens(self._model, **answer.counted)

    @contextlib.asynccontextmanager
    async def _call(self, messages: Sequence[Chat], body: Chat) -> AsyncGenerator[ProviderCall]:
        """Reserve what the request may cost; under a budget, bound its answer if nobody else does."""
        bound = self._endpoint.bound_of(body)
        asked = estimates.tokens_of_request(messages, self._tools)
        async with self._run.provider_call(
            model=self._model,
            provider=self._endpoint.provider,
            input_tokens=math.ceil(asked * estimates.MARGIN),
            max_output_tokens=bound,
        ) as call:
            if bound is None and call.max_output_tokens is not None:
                self._endpoint.bind(body, call.max_output_tokens)
            yield call

    async def _wait(self, error: errors.ProviderError, *, attempt: int) -> None:
        wait_s = delay_s(attempt, error)
        logger.warning(
            "the provider failed before it said anything; asking again",
            extra={
                "action": "provider_retry",
                "run_id": self._run.run_id,
                "attempt": attempt,
                "wait_s": wait_s,
                "error": str(error),
            },
        )
        await asyncio.sleep(wait_s)


def _helps_to_ask_again(answer: Answer, error: errors.ProviderError, attempt: int) -> bool:
    return not answer.begun and attempt < ATTEMPTS and retryable(error)
