"""Carries one streamed answer into the run: emits what arrives, ends with the calls that may run.

What belongs together is for `assembly` to tell. Nothing that was emitted can be taken back, so the answer
knows whether it has begun.
"""

# What providers send is checked by hand, not by types.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

from mainstem_shared import errors
from mainstem_shared.model import events
from mainstem_tasks.engines.assembly import calls
from mainstem_tasks.engines.assembly.calls import Call
from mainstem_tasks.engines.assembly.finishes import Ending
from mainstem_tasks.engines.assembly.messages import CallBegan, CallGrew, Increment, Message, TextGrew
from mainstem_tasks.engines.assembly.pieces import Kind
from mainstem_tasks.engines.turns.counting import Counting
from mainstem_tasks.engines.turns.endpoints import Endpoint
from mainstem_tasks.engines.turns.reading import AnswerReader
from mainstem_tasks.engines.turns.tools import Called
from mainstem_tasks.sdk.context import RunContext
from mainstem_tasks.sdk.provider_calls import ProviderCall

logger = logging.getLogger(__name__)

GRACE_S: Final = 2.0
"""How long counts of tokens may follow the reason to stop; then the answer is over, open socket or not."""
TAIL_S: Final = 0.1
"""How long a body may go on that has said everything: reading it to its end saves the connection."""
ID_LIMIT: Final = 128
"""Characters of a call's id; a longer one is replaced."""


class Answer:
    """One answer on its way into the run. `begun`: something of it was emitted, it cannot be redone."""

    def __init__(
        self,
        run: RunContext[Any],
        endpoint: Endpoint,
        *,
        taken: frozenset[str],
        tools: Sequence[Mapping[str, Any]],
        messages: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.begun = False
        self.call: ProviderCall | None = None
        """The call that it answers: its budgets, and where its tokens are reported."""
        self.called: list[Called] = []
        """The calls, once the answer is finished."""
        self._run = run
        self._taken = set(taken)
        self._required = {name: required for name, required in map(_required, tools) if name}
        self._reader = AnswerReader(
            endpoint.pieces(),
            self._required,
            noun=endpoint.noun,
            is_tagged=endpoint.is_tagged,
            clean=endpoint.provider_client.presentable,
        )
        self._ids: dict[int, str] = {}
        self._message: Message | None = None
        self._counting = Counting(messages, tools)

    @property
    def content(self) -> Any:
        """The answer's text as the provider sent it."""
        return None if self._message is None else self._message.content

    @property
    def extras(self) -> Mapping[str, Any]:
        """What goes back to the provider beside it."""
        return {} if self._message is None else self._message.extras

    @property
    def message(self) -> dict[str, Any]:
        """The answer as a message of a conversation; for one without calls."""
        return {**self.extras, "role": "assistant", "content": self.content or ""}

    @property
    def ending(self) -> Ending:
        """What the answer's end means."""
        return Ending.UNSAID if self._message is None else self._message.ending

    @property
    def is_answered(self) -> bool:
        """Whether the provider took the request: from then on it costs."""
        return self._counting.is_answered

    @property
    def counted(self) -> Mapping[str, int | None]:
        """The tokens that the provider reported, by kind."""
        tokens = self._reader.tokens
        return {} if tokens is None else {
            "input": tokens.input_tokens,
            "output": tokens.output_tokens,
            "cached_input": tokens.cached_input_tokens,
            "reasoning": tokens.reasoning_tokens,
        }  # fmt: skip

    async def take_all(self, arriving: AsyncIterator[bytes]) -> None:
        """Emit what arrives, to the end of the answer: which the protocol says, not the connection.

        Raises:
            ProviderError: the provider failed before it gave its reason to stop.
        """
        loop, until = asyncio.get_running_loop(), 0.0
        while (data := await self._next(arriving, until)) is not None:
            self._counting.is_answered = True
            was_over, grew = self._reader.is_over, False
            for increment in self._reader.feed(data):
                grew = True
                self._counting.count(self._reader.tokens)
                await self._emit(increment)
            self._counting.count(self._reader.tokens)
            if self._reader.has_all:
                until = min(until or loop.time() + TAIL_S, loop.time() + TAIL_S)
            elif self._reader.is_over and (grew or not was_over):
                until = loop.time() + GRACE_S

    async def _next(self, arriving: AsyncIterator[bytes], until: float) -> bytes | None:
        try:
            async with asyncio.timeout_at(until) if until else contextlib.nullcontext():
                return await anext(arriving, None)
        except TimeoutError:
            return None
        except errors.ProviderError as error:
            if not self._reader.ended:
                raise
            # The answer is complete, at most its usage is missing.
            noted = {"action": "provider_untidy", "run_id": self._run.run_id, "error": str(error)}
            logger.warning("the provider's stream broke after the answer's end", extra=noted)
            return None

    async def finish(self) -> None:
        """Complete the answer after its end.

        Raises:
            ProviderError: it is no whole answer; says why.
        """
        for increment in self._reader.finish():
            await self._emit(increment)
        message = self._message = self._reader.message()
        for call in message.calls:
            await self._complete(call)
        await self._counting.report(self.call)
        about = message.about
        finish = {"finish_reason": message.reason, "model": about.model, "response_id": about.response_id}
        await self._run.custom("finish", finish)

    async def break_off(self) -> None:
        """Report what an answer cost that ends before its end: as told, else by an estimate."""
        self._counting.count(self._reader.tokens)
        with contextlib.suppress(errors.MainstemError):  # a log that is closed takes no counts either
            await self._counting.report(self.call, broke_off=True)

    async def _emit(self, increment: Increment) -> None:
        self.begun = True
        self._counting.take(increment)
        match increment:
            case TextGrew(kind=Kind.TEXT, text=text):
                await self._run.text(text)
            case TextGrew(kind=Kind.REASONING, text=text):
                await self._run.reasoning(text)
            case TextGrew(text=text):
                await self._run.refusal(text)
            case CallBegan(call=call):
                await self._run.tool_call_start(self._id_of(call), call.name[: calls.NAME_LIMIT])
            case CallGrew(call=call, text=text):
                for at in range(0, len(text), events.MERGE_LIMIT):
                    await self._run.tool_call_delta(self._id_of(call), text[at : at + events.MERGE_LIMIT])

    def _id_of(self, call: Call) -> str:
        """Return the call's id in the run: the provider's, unless that is none, too long, or taken."""
        if call.number not in self._ids:
            said = call.said_id
            fits = 0 < len(said) <= ID_LIMIT and said.isprintable() and said not in self._taken
            own = said if fits else f"call_{secrets.token_hex(8)}"
            self._ids[call.number] = own
            self._taken.add(own)
        return self._ids[call.number]

    async def _complete(self, call: Call) -> None:
        call_id, fault = self._id_of(call), call.fault
        if not fault and call.is_empty and self._required.get(call.name):
            fault = f"No arguments came, but {call.name!r} needs: {', '.join(self._required[call.name])}."
        if not call.shown:  # it has no name that a reader could have been told
            await self._emit(CallBegan(call))
        arguments = None if fault else call.arguments
        self.called.append(
            Called(call_id=call_id, name=call.name, arguments=arguments, fault=fault, extras=call.extras)
        )
        if arguments is None:  # the text stays as it came
            if not call.is_emitted:
                await self._emit(CallGrew(call, call.text))
            await self._run.tool_result(call_id, {"error": fault}, failed=True)
        else:
            await self._run.tool_call(call_id, call.name, arguments)


def _required(tool: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return the name of a described tool and the arguments it cannot do without."""
    function = tool.get("function")
    if not isinstance(function, Mapping):
        return "", []
    parameters = function.get("parameters")
    required = parameters.get("required") if isinstance(parameters, Mapping) else None
    return str(function.get("name") or ""), [str(name) for name in required] if isinstance(
        required, list
    ) else []
