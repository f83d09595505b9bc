"""Reads one streamed answer from its bytes to its message; knows no socket and no run.

Body, protocol and assembler in one: the engine feeds what arrives, tests and fuzzers what might.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from mainstem_shared import errors
from mainstem_tasks.engines.assembly.messages import Assembler, Increment, Message
from mainstem_tasks.engines.assembly.pieces import Done, Tokens, UnreadableError
from mainstem_tasks.engines.turns import wire
from mainstem_tasks.engines.turns.endpoints import PieceReader


def _as_said(words: str) -> str:
    return words


class AnswerReader:
    """One answer on its way in, in the protocol of `pieces`.

    `tools`: the names that were offered; `noun`: what an answer is called; `is_tagged`: whether a text may
    begin with a `<think>` block; `clean`: rids words of secrets.
    """

    def __init__(
        self,
        pieces: PieceReader,
        tools: Collection[str] = (),
        *,
        noun: str = "chat completion",
        is_tagged: bool = True,
        clean: Callable[[str], str] = _as_said,
    ) -> None:
        self._body = wire.BodyReader()
        self._pieces = pieces
        self._assembler = Assembler(tools, is_tagged=is_tagged)
        self._noun = noun
        self._clean = clean
        self._noise = ""

    @property
    def ended(self) -> bool:
        """Whether the answer is complete: what may still come are counts."""
        return self._assembler.ended

    @property
    def is_over(self) -> bool:
        """Whether the answer is complete and says something: nothing is worth a long wait."""
        return self._assembler.is_over

    @property
    def has_all(self) -> bool:
        """Whether nothing more is to be expected, not even counts."""
        return self._assembler.is_done and self._assembler.tokens is not None

    @property
    def tokens(self) -> Tokens | None:
        """The counts so far."""
        return self._assembler.tokens

    def feed(self, data: bytes) -> Iterator[Increment]:
        """Yield what readers are told of the next bytes. Consume it whole.

        Raises:
            ProviderError: the provider failed, or sent what is no answer.
        """
        for item in self._body.feed(data):
            yield from self._item(item)

    def finish(self) -> Iterator[Increment]:
        """Yield what was held back, once the stream is over; `message` has the whole afterwards.

        Raises:
            ProviderError: what came is no whole answer; says why.
        """
        for item in self._body.end():
            yield from self._item(item)
        try:
            self._assembler.check()
        except errors.ProviderError as error:
            if not self._noise:
                raise
            words = f"{error} It said: {self._clean(self._noise)}"
            raise errors.ProviderError(words, retryable=self._noise[0] != "<") from None
        yield from self._assembler.flush()

    def message(self) -> Message:
        """Return the answer, after `finish`."""
        return self._assembler.message()

    def _item(self, item: wire.Item) -> Iterator[Increment]:
        match item:
            case wire.Value(data=data, event=event):
                try:
                    for piece in self._pieces.read(data, event):
                        yield from self._assembler.take(piece)
                except UnreadableError as error:
                    if not self.ended:
                        raise self._nonsense(str(error), retryable=False) from None
                except errors.ProviderError as error:
                    raise errors.ProviderError(self._clean(str(error)), **error.fields) from None
            case wire.End():
                yield from self._assembler.take(Done())
            case wire.Noise(text=text):
                self._noise = text
            case wire.Garbled(text=text) if not self.ended:
                raise self._nonsense(text, retryable=True)
            case _:
                pass

    def _nonsense(self, words: str, *, retryable: bool) -> errors.ProviderError:
        said = self._clean(words)
        return errors.ProviderError(f"The provider sent what is no {self._noun}: {said}", retryable=retryable)
