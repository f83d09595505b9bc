"""Counts the tokens of one answer: by the provider's counts, and by an estimate where there are none.

Most providers tell once, at the end: an answer that breaks off has no counts then, and still costs. What came
after the last counts is estimated, and marked as such.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mainstem_tasks.engines.assembly import estimates
from mainstem_tasks.engines.assembly.messages import CallBegan, CallGrew, Increment, TextGrew
from mainstem_tasks.engines.assembly.pieces import Tokens
from mainstem_tasks.sdk.provider_calls import ProviderCall


class Counting:
    """The tokens of one answer. `messages` and `tools`: the request's, as they were sent."""

    def __init__(self, messages: Iterable[Mapping[str, Any]], tools: Iterable[Any]) -> None:
        self.is_answered = False
        """Whether the provider took the request: from then on it costs."""
        self._messages = messages
        self._tools = tools
        self._counted: Tokens | None = None
        self._since: list[str] = []
        self._is_reported = False

    def take(self, increment: Increment) -> None:
        """Note what the model said, for an estimate of what was not counted."""
        match increment:
            case TextGrew(text=text) | CallGrew(text=text):
                self._since.append(text)
            case CallBegan(call=call):
                self._since.append(call.name)

    def count(self, tokens: Tokens | None) -> None:
        """Note the provider's counts so far: they cover what came before."""
        if tokens is not None and tokens != self._counted:
            self._counted = tokens
            self._since.clear()

    async def report(self, call: ProviderCall | None, *, broke_off: bool = False) -> None:
        """Report the answer's tokens as its call's, once; `broke_off`: what was not counted is estimated."""
        counted = self._counted
        estimated = broke_off and self.is_answered and (counted is None or bool(self._since))
        if call is None or self._is_reported or (counted is None and not estimated):
            return
        self._is_reported = True
        counted = counted or Tokens()
        read, said = counted.input_tokens, counted.output_tokens or 0
        if estimated:
            read = estimates.tokens_of_request(self._messages, self._tools) if read is None else read
            said += estimates.tokens_in("".join(self._since))
        await call.used(
            input_tokens=read or 0,
            output_tokens=said,
            total_tokens=None if estimated else counted.total_tokens,
            cached_input_tokens=counted.cached_input_tokens or 0,
            cache_write_tokens=counted.cache_write_tokens or 0,
            cache_write_1h_tokens=counted.cache_write_1h_tokens or 0,
            reasoning_tokens=counted.reasoning_tokens or 0,
            audio_input_tokens=counted.audio_input_tokens or 0,
            audio_output_tokens=counted.audio_output_tokens or 0,
            estimated=estimated,
        )
