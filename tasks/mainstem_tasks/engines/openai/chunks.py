"""What the `openai` engine reads of a chat completion's chunks.

Compatible servers differ in what they leave out and add, and the SDK's own classes validate nothing (and take
ten times as long): here is the boundary behind which a text is a text.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from mainstem_shared.model import validation


class _Lenient(BaseModel):
    model_config = ConfigDict(frozen=True)


class CallFunction(_Lenient):
    """The function of a piece of a tool call; the name stands in one piece, usually the first."""

    name: str | None = None
    arguments: str | None = None


class CallPiece(_Lenient):
    """A piece of a tool call."""

    index: int | None = None
    id: str | None = None
    function: CallFunction | None = None


class Delta(_Lenient):
    """What a chunk adds to the answer."""

    content: str | None = None
    refusal: str | None = None
    # Not in OpenAI's own API: DeepSeek, vLLM and llama.cpp say `reasoning_content`, OpenRouter `reasoning`.
    # Some send both with the same text, some an object: that is not for reading.
    reasoning_content: Any = None
    reasoning: Any = None
    tool_calls: list[CallPiece] | None = None

    @property
    def thought(self) -> str:
        """The reasoning, by whatever member name."""
        thought = self.reasoning_content or self.reasoning
        return thought if isinstance(thought, str) else ""


class Choice(_Lenient):
    """One of the answers; only number 0 was asked for."""

    index: int | None = None
    delta: Delta | None = None
    finish_reason: str | None = None


class Cached(_Lenient):
    """Details of the prompt's tokens."""

    cached_tokens: int | None = None


class Reasoned(_Lenient):
    """Details of the completion's tokens."""

    reasoning_tokens: int | None = None


class Tokens(_Lenient):
    """The tokens of this completion so far; usually in the last chunk only."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: Cached | None = None
    completion_tokens_details: Reasoned | None = None
    prompt_cache_hit_tokens: int | None = None
    """DeepSeek's name for the cached ones."""

    @property
    def cached(self) -> int:
        """Prompt tokens that came from the provider's cache."""
        details = self.prompt_tokens_details
        return (details.cached_tokens if details else self.prompt_cache_hit_tokens) or 0

    @property
    def reasoned(self) -> int:
        """Completion tokens that the model thought with."""
        details = self.completion_tokens_details
        return (details.reasoning_tokens if details else 0) or 0


class Chunk(_Lenient):
    """One chunk of a streamed chat completion."""

    id: str | None = None
    model: str | None = None
    choices: list[Choice] | None = None
    usage: Tokens | None = None


def read(data: object) -> Chunk:
    """Return what a chunk's JSON says.

    Raises:
        ValueError: it is no chunk; says where.
    """
    try:
        return Chunk.model_validate(data)
    except ValidationError as error:
        raise ValueError(validation.first_problem(error, whole="chunk")) from None
