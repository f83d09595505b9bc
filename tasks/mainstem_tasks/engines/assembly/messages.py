"""Assembles the pieces of one answer into deltas for readers, and into the message at the end.

The increments of all pieces, added up, are the message. It is complete, or finishing it raises: an answer
that broke off, failed or said nothing is never a message.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mainstem_shared import errors
from mainstem_shared.model import jsontext
from mainstem_tasks.engines.assembly import extras, finishes
from mainstem_tasks.engines.assembly.calls import Call, Calls
from mainstem_tasks.engines.assembly.finishes import Ending
from mainstem_tasks.engines.assembly.pieces import (
    About,
    CallPiece,
    Done,
    Extras,
    Failure,
    Finish,
    Kind,
    Piece,
    Snapshot,
    Text,
    Tokens,
)
from mainstem_tasks.engines.assembly.texts import SurrogateJoiner, ThinkSplitter

_CUTS: Final = {
    Ending.CUT: "The limit of tokens cut the answer off before its end, so none of its calls was made.",
    Ending.FILTERED: "The provider's content filter cut the answer off, so none of its calls was made.",
    Ending.PAUSED: "The provider paused its answer, so none of its calls was made.",
    Ending.UNSAID: "The answer ended without a reason and may be incomplete, so none of its calls was made.",
}


@dataclass(frozen=True, slots=True)
class TextGrew:
    """The answer, or its reasoning, grew."""

    kind: Kind
    text: str


@dataclass(frozen=True, slots=True)
class CallBegan:
    """A call appeared."""

    call: Call


@dataclass(frozen=True, slots=True)
class CallGrew:
    """A call's arguments grew."""

    call: Call
    text: str


Increment = TextGrew | CallBegan | CallGrew


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A whole answer. Calls without a `fault` may run; of an answer that was cut none may."""

    text: str
    reasoning: str
    content: str | list[dict[str, Any]] | None
    """The text as it came, for the provider: with its tags, or in parts."""
    calls: list[Call]
    extras: dict[str, Any]
    tokens: Tokens | None
    about: About
    reason: str | None
    ending: Ending


@dataclass(slots=True)
class _Said:
    """Everything of one kind of text."""

    pieces: list[str] = field(default_factory=list[str])
    joiner: SurrogateJoiner = field(default_factory=SurrogateJoiner)

    def take(self, text: str) -> str:
        certain = self.joiner.push(text) if text else ""
        if certain:
            self.pieces.append(certain)
        return certain

    def rest(self) -> str:
        if rest := self.joiner.flush():
            self.pieces.append(rest)
        return rest

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class Assembler:
    """One answer on its way.

    `tools`: the names that were offered, if any; `is_tagged`: whether its text may begin with a `<think>`
    block.
    """

    def __init__(self, tools: Collection[str] = (), *, is_tagged: bool = True) -> None:
        self.tokens: Tokens | None = None
        """The counts so far; also of an answer that fails."""
        self.reason: str | None = None
        self.is_done = False
        """Whether the protocol's own end was seen."""
        self._tools = tools
        self._about = About()
        self._calls = Calls(tools)
        self._extras: dict[str, Any] = {}
        self._extras_size = 0
        self._said = _Said()
        self._splitter = ThinkSplitter() if is_tagged else None
        self._shown = {kind: list[str]() for kind in Kind}
        self._thought = _Said()
        self._refused = _Said()
        self._parts: list[dict[str, Any]] = []
        self._thinks_in_parts = False
        self._in_pieces = False

    @property
    def ended(self) -> bool:
        """Whether the answer is complete: what may still come are counts."""
        return self.reason is not None or self.is_done

    @property
    def is_over(self) -> bool:
        """Whether the answer is complete and says something: some servers give a reason after a thought."""
        return self.is_done or (
            self.reason is not None and bool(self._said.pieces or self._refused.pieces or self._calls.all)
        )

    def take(self, piece: Piece) -> Iterator[Increment]:
        """Take the next piece; yields what readers are told of it. Consume it whole.

        Raises:
            ProviderError: the provider says that it failed, before the answer's end.
        """
        match piece:
            case Text():
                self._in_pieces = True
                self._keep_part(piece)
                yield from self._take_text(piece.kind, piece.text)
            case CallPiece():
                yield from self._take_call(piece)
            case Snapshot():
                yield from self._take_snapshot(piece)
            case _:
                self._note(piece)

    def _note(self, piece: Piece) -> None:
        match piece:
            case Extras(members=members):
                self._keep(members)
            case Tokens():
                self.tokens = _later(self.tokens, piece)
            case Finish(reason=reason):
                self.reason = reason
            case About():
                model, response_id = (
                    piece.model or self._about.model,
                    piece.response_id or self._about.response_id,
                )
                self._about = About(model=model, response_id=response_id)
            case Failure() if not self.ended or finishes.ending_of(self.reason) is Ending.FAILED:
                raise failed(piece)
            case Done():
                self.is_done = True
            case _:
                pass

    def flush(self) -> Iterator[Increment]:
        """Yield what was held back; call it before `message`, and only of an answer that is not `empty`."""
        yield from self._split(self._said.rest())
        for kind, text in self._splitter.flush() if self._splitter else ():
            yield self._show(kind, text)
        for kind, said in ((Kind.REASONING, self._thought), (Kind.REFUSAL, self._refused)):
            if rest := said.rest():
                yield self._show(kind, rest)
        for call in self._calls.all:
            rest = call.flush()
            if call.name and not call.shown:
                yield from self._show_call(call)
            elif call.shown and rest:
                yield CallGrew(call, rest)

    def check(self) -> None:
        """Make sure that the answer, whose stream is over, is one.

        Raises:
            ProviderError: it broke off, failed, or says nothing; says which.
        """
        if not self.ended:
            raise errors.ProviderError("The provider's stream broke off before its end.", retryable=True)
        ending, said = finishes.ending_of(self.reason), self.reason or "none"
        if ending is Ending.FAILED:
            raise errors.ProviderError(
                f"The provider failed in the middle of its answer (finish reason {said!r}).", retryable=True
            )
        if self._calls.all:
            return
        if self._tools and finishes.announces_calls(self.reason):
            raise errors.ProviderError(f"The answer ended with {said!r}, but without a call.", retryable=True)
        if ending in (Ending.ORDINARY, Ending.UNSAID) and not (
            self._said.text.strip() or self._thought.text.strip() or self._refused.text.strip()
        ):
            raise errors.ProviderError(
                f"The provider's answer was empty (finish reason {said!r}).", retryable=True
            )

    def message(self) -> Message:
        """Return the whole answer, after `check` and `flush`."""
        calls, ending = self._calls.finish(), finishes.ending_of(self.reason)
        if why := _CUTS.get(ending):
            for call in calls:
                call.arguments, call.fault = None, why
        return Message(
            text="".join(self._shown[Kind.TEXT]),
            reasoning="".join(self._shown[Kind.REASONING]),
            content=self._content(),
            calls=calls,
            extras=jsontext.well_formed(self._extras),
            tokens=self.tokens,
            about=self._about,
            reason=self.reason,
            ending=ending,
        )

    def _content(self) -> str | list[dict[str, Any]] | None:
        return jsontext.well_formed(self._parts) if self._thinks_in_parts else self._said.text or None

    # -- pieces

    def _take_text(self, kind: Kind, text: str) -> Iterator[Increment]:
        if kind is Kind.TEXT:
            yield from self._split(self._said.take(text))
        elif certain := (self._thought if kind is Kind.REASONING else self._refused).take(text):
            yield self._show(kind, certain)

    def _split(self, text: str) -> Iterator[Increment]:
        if text and self._splitter is None:
            yield self._show(Kind.TEXT, text)
        elif text and self._splitter is not None:
            for kind, certain in self._splitter.push(text):
                yield self._show(kind, certain)

    def _show(self, kind: Kind, text: str) -> TextGrew:
        self._shown[kind].append(text)
        return TextGrew(kind, text)

    def _take_call(self, piece: CallPiece) -> Iterator[Increment]:
        if not (piece.name or piece.arguments.strip() or piece.extras) and not self._calls.all:
            return  # says nothing yet
        call, grown = self._calls.take(piece)
        if call.shown:
            if grown:
                yield CallGrew(call, grown)
        elif self._may_show(call):
            yield from self._show_call(call)

    def _may_show(self, call: Call) -> bool:
        """Whether name and arguments so far will stay: a name may be in pieces, `{}` a placeholder."""
        if not call.name or not (call.is_blank or _is_tellable(call)):
            return False
        return not (call.is_blank and self._tools and call.name not in self._tools)

    def _show_call(self, call: Call) -> Iterator[Increment]:
        call.shown = True
        yield CallBegan(call)
        if call.is_blank or _is_tellable(call):
            call.is_emitted = True
            yield CallGrew(call, call.text)

    def _take_snapshot(self, piece: Snapshot) -> Iterator[Increment]:
        yield from self._take_text(Kind.REASONING, self._news(self._thought.text, piece.reasoning, piece))
        yield from self._take_text(Kind.TEXT, self._news(self._said.text, piece.text, piece))
        if not self._calls.all:
            for call in piece.calls:
                yield from self._take_call(call)
        if not self._extras:
            self._keep(piece.extras)

    def _news(self, known: str, text: str, snapshot: Snapshot) -> str:
        """Return what a snapshot's text adds to what is known.

        Raises:
            ProviderError: it is another text than its pieces were.
        """
        if not known or not text:
            return text
        if text.startswith(known):
            return text[len(known) :] if len(text) > len(known) or snapshot.is_whole else text
        if not self._in_pieces:
            return text  # increments under the wrong name
        if text.strip() == known.strip():
            return ""
        raise errors.ProviderError("The provider sent an answer in pieces and, at its end, another one.")

    def _keep_part(self, piece: Text) -> None:
        """Keep a part of the content as it came; parts of one type that follow each other are one."""
        part = piece.part
        if part is None:
            if piece.kind is not Kind.TEXT:
                return
            part = {"type": "text", "text": piece.text}
        self._thinks_in_parts = self._thinks_in_parts or piece.kind is Kind.REASONING
        last = self._parts[-1] if self._parts else None
        if last is not None and last.get("type") == part.get("type"):
            extras.add(last, {name: value for name, value in part.items() if name != "type"})
        else:
            added: dict[str, Any] = {}
            extras.add(added, part)
            self._parts.append(added)

    def _keep(self, members: Mapping[str, Any]) -> None:
        self._extras_size += len(str(members)) if members else 0
        if self._extras_size <= extras.LIMIT:
            extras.add(self._extras, members)


def failed(failure: Failure) -> errors.ProviderError:
    """Return what the run fails with if its provider says this."""
    code = f" ({failure.code})" if failure.code and failure.code not in failure.words else ""
    return errors.ProviderError(
        f"The provider failed: {failure.words}{code}", retryable=failure.retryable, status=failure.status
    )


def _is_tellable(call: Call) -> bool:
    return call.text.lstrip().startswith("{") and not call.is_placeholder


def _later(known: Tokens | None, more: Tokens) -> Tokens:
    """Return the counts after more were told: the latest, but a zero does not take back a number."""
    if known is None:
        return more
    names = [field.name for field in dataclasses.fields(Tokens)]
    return Tokens(**{name: getattr(more, name) or getattr(known, name) for name in names})
