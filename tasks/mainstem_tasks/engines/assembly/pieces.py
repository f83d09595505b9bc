"""Defines the pieces of a streamed answer: protocol readers produce them, the assembler consumes them.

A reader has already found the member, wherever its provider puts it; what belongs together is for the
assembler to tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class UnreadableError(ValueError):
    """A member that carries the answer has a shape of no known meaning; says where."""


class Kind(StrEnum):
    """What a text is."""

    TEXT = "text"
    REASONING = "reasoning"
    REFUSAL = "refusal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """More of the answer, or of the model's visible reasoning."""

    kind: Kind
    text: str
    part: Mapping[str, Any] | None = None
    """The part of a list that it came as, and goes back to the provider as; None: it came as text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallPiece:
    """A piece of a tool call. Empty id, name or arguments: it says nothing about them."""

    index: int | None = None
    id: str = ""
    name: str = ""
    arguments: str = ""
    extras: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A message as it is so far, in place of what is new in it."""

    text: str = ""
    reasoning: str = ""
    calls: Sequence[CallPiece] = ()
    extras: Mapping[str, Any] = field(default_factory=dict[str, Any])
    is_whole: bool = False
    """Whether it may say all again: the same text is then no repetition in the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """Members of the message that mean something to its provider only."""

    members: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Counts of tokens; None: not said here. Parts of an answer's counts may come in several pieces."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    cache_write_1h_tokens: int | None = None
    reasoning_tokens: int | None = None
    audio_input_tokens: int | None = None
    audio_output_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """Which model answers, under which id."""

    model: str | None = None
    response_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """Why the model stopped, in its provider's word."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The provider says that it failed."""

    words: str
    code: str = ""
    retryable: bool = True
    status: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The protocol's own end of the answer."""


Piece = Text | CallPiece | Snapshot | Extras | Tokens | About | Finish | Failure | Done
