"""Reads the chunks of chat completions into pieces of an answer, in every shape that servers use.

A member that carries the answer (text, calls, their arguments) is read in every shape that has one meaning;
one that has none fails the answer, because leaving it out would change what was said. Any other member is
taken if it is readable, and never kills an answer.
"""

# What providers send is checked by hand, not by types.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from mainstem_shared.model import jsontext
from mainstem_tasks.engines.assembly import extras
from mainstem_tasks.engines.assembly.pieces import (
    About,
    CallPiece,
    Extras,
    Finish,
    Kind,
    Piece,
    Snapshot,
    Text,
    UnreadableError,
)
from mainstem_tasks.engines.turns import failures
from mainstem_tasks.engines.turns.token_counts import integer, tokens_of

_REASONING: Final = ("reasoning_content", "reasoning", "reasoning_text", "thinking")
_NOT_SAID: Final = frozenset({"", "null", "none"})
_SHOWN: Final = 256
"""Characters of a model's name or an answer's id that are told on."""


class ChunkReader:
    """Reads the chunks of one answer: the first choice that appears is the one that was asked for."""

    def __init__(self) -> None:
        self._choice: int | None = None

    def read(self, data: Any, event: str = "") -> Iterator[Piece]:
        """Yield what a JSON value of the stream says.

        Raises:
            UnreadableError: a part of the answer cannot be read.
        """
        if isinstance(data, list):  # some servers wrap what they say
            for one in data:
                yield from self.read(one, event)
        if not isinstance(data, Mapping):
            return
        failure = failures.failure_in(data, event)
        for piece in self._choices(data):
            if failure is None or not isinstance(piece, Finish):  # its words are elsewhere in the chunk
                yield piece
        if failure is not None:
            yield failure
            return
        about = About(model=_short(data.get("model")), response_id=_short(data.get("id")))
        if about.model or about.response_id:
            yield about
        for holder in (data, *(value for name, value in data.items() if name.startswith("x_"))):
            if isinstance(holder, Mapping) and (tokens := tokens_of(holder.get("usage"))) is not None:
                yield tokens

    def _choices(self, data: Mapping[str, Any]) -> Iterator[Piece]:
        choices = data.get("choices")
        if isinstance(choices, Mapping):
            choices = [choices]
        if choices is not None and not isinstance(choices, list):
            raise UnreadableError(f"choices: {_kind(choices)}")
        for choice in _there(choices or ()):
            if not isinstance(choice, Mapping):
                raise UnreadableError(f"choices.0: {_kind(choice)}")
            index = integer(choice.get("index")) or 0
            self._choice = index if self._choice is None else self._choice
            if index == self._choice:
                yield from _choice(choice, is_whole=data.get("object") == "chat.completion")


def _choice(choice: Mapping[str, Any], *, is_whole: bool) -> Iterator[Piece]:
    delta, message, reason = choice.get("delta"), choice.get("message"), choice.get("finish_reason")
    said = isinstance(reason, str) and reason.casefold() not in _NOT_SAID
    if isinstance(delta, str):
        delta = {"content": delta}
    if delta is not None and not isinstance(delta, Mapping):
        raise UnreadableError(f"choices.0.delta: {_kind(delta)}")
    if delta:
        yield from _delta(delta)
    elif not message and isinstance(choice.get("text"), str):
        yield Text(kind=Kind.TEXT, text=choice["text"])
    if message:
        yield _snapshot(message, is_whole=is_whole or said)
    for holder in (choice, delta, message):
        if isinstance(holder, Mapping) and (tokens := tokens_of(holder.get("usage"))) is not None:
            yield tokens
    if (error := choice.get("error")) and (failure := failures.failure_in({"error": error})):
        yield failure
    elif said:
        yield Finish(reason=str(reason))


def _delta(delta: Mapping[str, Any]) -> Iterator[Piece]:
    if members := extras.of(delta, extras.MESSAGE):
        yield Extras(members=members)
        if thought := _thought(delta):
            yield Text(kind=Kind.REASONING, text=thought)
    if content := delta.get("content"):
        yield from _texts(content, "content")
    if refusal := delta.get("refusal"):
        for piece in _texts(refusal, "refusal"):
            yield replace(piece, kind=Kind.REFUSAL) if isinstance(piece, Text) else piece
    yield from _calls(delta)


def _snapshot(message: Any, *, is_whole: bool) -> Snapshot:
    if isinstance(message, str):
        return Snapshot(text=message, is_whole=is_whole)
    if not isinstance(message, Mapping):
        raise UnreadableError(f"choices.0.message: {_kind(message)}")
    text, thought, calls = list[str](), [_thought(message)], list[CallPiece]()
    for piece in _delta(message):
        match piece:
            case Text(kind=Kind.TEXT):
                text.append(piece.text)
            case Text(part=part) if part is not None:
                thought.append(piece.text)
            case CallPiece():
                calls.append(piece)
            case _:
                pass
    return Snapshot(
        text="".join(text),
        reasoning="".join(thought),
        calls=calls,
        extras=extras.of(message, extras.MESSAGE),
        is_whole=is_whole,
    )


def _thought(delta: Mapping[str, Any]) -> str:
    """Return the reasoning, however it is named; some servers say it under two names."""
    for name in _REASONING:
        if isinstance(value := delta.get(name), str) and value:
            return value
    details = delta.get("reasoning_details")
    items: Sequence[Any] = details if isinstance(details, list) else ()
    told = [item.get("text") or item.get("summary") for item in items if isinstance(item, Mapping)]
    return "".join(text for text in told if isinstance(text, str))


def _texts(value: Any, where: str) -> Iterator[Piece]:
    """Read a content: text, or parts of text and of thinking; what is neither is nothing to read aloud."""
    match value:
        case str():
            yield Text(kind=Kind.TEXT, text=value)
        case bool():
            raise UnreadableError(f"choices.0.delta.{where}: {_kind(value)}")
        case int() | float():
            yield Text(kind=Kind.TEXT, text=jsontext.dumps(value).decode())
        case list():
            for part in _there(value):
                yield from _part(part, where)
        case Mapping():
            yield from _part(value, where)
        case _:
            raise UnreadableError(f"choices.0.delta.{where}: {_kind(value)}")


def _part(part: Any, where: str) -> Iterator[Piece]:
    if isinstance(part, str):
        yield Text(kind=Kind.TEXT, text=part)
        return
    if not isinstance(part, Mapping):
        raise UnreadableError(f"choices.0.delta.{where}: {_kind(part)}")
    kind = str(part.get("type") or "text")
    is_thought = "think" in kind or "reason" in kind
    what = Kind.REASONING if is_thought else Kind.REFUSAL if kind == "refusal" else Kind.TEXT
    for name in ("thinking", "reasoning", "summary", "text", "refusal", "content"):
        if text := _plain(part.get(name)):
            yield Text(kind=what, text=text, part=part)
            return


def _plain(value: Any) -> str:
    """Return a part's text, which may be in parts itself."""
    match value:
        case str():
            return value
        case list():
            return "".join(map(_plain, value))
        case Mapping():
            return _plain(value.get("text") or value.get("content"))
        case _:
            return ""


def _calls(delta: Mapping[str, Any]) -> Iterator[Piece]:
    calls = delta.get("tool_calls")
    if isinstance(calls, Mapping):
        calls = [calls]
    if calls is not None and not isinstance(calls, list):
        raise UnreadableError(f"choices.0.delta.tool_calls: {_kind(calls)}")
    for call in _there(calls or ()):
        if not isinstance(call, Mapping):
            raise UnreadableError(f"choices.0.delta.tool_calls.0: {_kind(call)}")
        yield _call(call)
    if isinstance(function := delta.get("function_call"), Mapping):  # before there were parallel calls
        yield _call({"index": 0, "function": function})


def _call(call: Mapping[str, Any]) -> CallPiece:
    function = call.get("function")
    if function is None:
        function = {name: call[name] for name in ("name", "arguments", "input", "parameters") if name in call}
    if not isinstance(function, Mapping):
        raise UnreadableError(f"choices.0.delta.tool_calls.0.function: {_kind(function)}")
    return CallPiece(
        index=integer(call.get("index")),
        id=_word(call.get("id")),
        name=_word(function.get("name")),
        arguments=_arguments(function),
        extras=extras.of(call, extras.CALL),
    )


def _arguments(function: Mapping[str, Any]) -> str:
    for name in ("arguments", "input", "parameters"):
        value = function.get(name)
        match value:
            case None:
                continue
            case str():
                return value
            case Mapping() | list():
                return jsontext.dumps(value).decode() if value else "{}"
            case _:
                raise UnreadableError(f"choices.0.delta.tool_calls.0.function.{name}: {_kind(value)}")
    return ""


def _word(value: Any) -> str:
    """Return an id or a name; numbers count as ids."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    return jsontext.well_formed(str(value)) if not isinstance(value, str) or value.strip() else ""


def _short(value: Any) -> str | None:
    word = _word(value)
    return word[:_SHOWN] or None


def _there(values: Iterable[Any]) -> list[Any]:
    return [value for value in values if value is not None]


def _kind(value: Any) -> str:
    return f"{type(value).__name__} has no meaning here"
