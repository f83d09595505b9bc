"""A conversation is an agent's input: the thread's earlier messages, then the run's own.

Both are chat completions' messages, valid for every provider: a call that an abort or a dead worker left
open has a result here. How a framework takes them is its package's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mainstem_shared.model import messages, transcripts
from mainstem_tasks.sdk.context import RunContext

Chat = dict[str, Any]
"""One chat completions' message."""


def without_thread(messages: Sequence[Any], thread: Sequence[Any]) -> list[Any] | None:
    """Return what follows the thread's messages; None if a framework made others of them.

    A state keeps the rest alone: a long thread would make each checkpoint of its runs as long.
    """
    begins = len(thread) > 0 and list(messages[: len(thread)]) == list(thread)
    return list(messages[len(thread) :]) if begins else None


class AgentInput(BaseModel):
    """What an agent of a framework is asked: a text, or chat messages of which the last ones are new."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str | None = None
    messages: list[dict[str, Any]] = Field(default_factory=list[dict[str, Any]])

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if self.text is not None and self.messages:
            raise ValueError("text or messages, not both")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """`earlier`: the thread's messages before the run; `said`: what the run's input adds to them."""

    earlier: list[Chat]
    said: list[Chat]

    @classmethod
    async def of(cls, run: RunContext[Any]) -> Conversation:
        """Return the conversation that a run continues. A run that answers a question again adds nothing."""
        earlier = await run.messages()
        answers_again = bool(earlier) and earlier[-1].role == "user"
        spoken = [] if answers_again else messages.said(run.raw_input, is_first=not earlier)
        return cls(
            earlier=transcripts.chat(earlier),
            said=transcripts.chat_of((turn.role, turn.parts) for turn in spoken),
        )
