"""Defines what a protocol adds to the loop of turns: how a request is encoded, and how its stream is read.

An engine has an `Endpoint` per protocol. Conversations are chat completions' messages everywhere else; an
endpoint spells them in its own words, and keeps in each answer, under a member of its own, what only its
provider understands.
"""

from __future__ import annotations

import abc
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from mainstem_shared import errors
from mainstem_tasks.engines.assembly.pieces import Piece
from mainstem_tasks.engines.turns.transport import ProviderClient

Chat = dict[str, Any]
"""One chat completions' message."""


class PieceReader(Protocol):
    """Reads the JSON values of one answer's stream into pieces."""

    def read(self, data: Any, event: str = "") -> Iterator[Piece]:
        """Yield what a value says.

        Raises:
            UnreadableError: a part of the answer has a shape of no known meaning.
        """
        ...


class Endpoint(abc.ABC):
    """A provider's endpoint in one protocol, as one run uses it."""

    kind: ClassVar[str]
    """What calls are counted under."""
    own: ClassVar[str] = ""
    """The member of an assistant's message that keeps an answer in this protocol's words; it is given back in
    later turns of the thread, too. Empty: answers are kept as chat completions' messages."""
    noun: ClassVar[str]
    """What an answer is called in words about one that cannot be read."""
    is_tagged: ClassVar[bool] = False
    """Whether a leading `<think>` block of a text is reasoning."""

    def __init__(self, client: ProviderClient) -> None:
        self.provider_client = client

    @property
    def provider(self) -> str:
        """Whose prices apply: a known provider's name, else the host's."""
        return self.provider_client.provider

    @abc.abstractmethod
    def model_of(self, wanted: Any) -> str:
        """Return the model to ask.

        Raises:
            InvalidInput: no model is named, neither by the input nor by the deployment.
        """

    @abc.abstractmethod
    def body(self, wanted: Any, messages: Sequence[Chat], tools: Sequence[Mapping[str, Any]]) -> Chat:
        """Return a request, from the input, all messages so far, and the tools that are offered."""

    @abc.abstractmethod
    def bound_of(self, body: Mapping[str, Any]) -> int | None:
        """Return how many tokens the answer may have; None: the request does not say."""

    @abc.abstractmethod
    def bind(self, body: Chat, tokens: int) -> None:
        """Bound the answer of a request that does not say it."""

    @abc.abstractmethod
    def pieces(self) -> PieceReader:
        """Return a reader of one answer's stream."""

    @abc.abstractmethod
    def stream(self, body: Mapping[str, Any], *, silence_s: float) -> AsyncGenerator[bytes]:
        """Yield an answer's bytes as they arrive; the first piece is empty: the request was taken.

        Raises:
            ProviderError: it refused, failed or fell silent.
        """

    def refuses_own(self, error: errors.ProviderError, messages: Sequence[Chat]) -> bool:
        """Tell whether the provider refuses what came from itself: then it goes without."""
        words = str(error).casefold()
        is_there = any(self.own in message for message in messages)
        return is_there and any(word in words for word in self.words_of_own())

    def words_of_own(self) -> Sequence[str]:
        """Return words by which refusals tell what of an earlier answer they are about."""
        return ()

    def without_own(self, messages: Sequence[Chat]) -> list[Chat]:
        """Return the messages without what only the provider understands."""
        return [{name: value for name, value in message.items() if name != self.own} for message in messages]

    def adapts(self, error: errors.ProviderError, model: str) -> bool:
        """Learn from a refusal how to spell later requests; tells whether to ask again at once."""
        del error, model
        return False


def is_refusal(error: errors.ProviderError) -> bool:
    """Tell whether a request was refused as malformed: another spelling may be taken."""
    return error.fields.get("status") in (400, 422)
