"""Reads the events of a streamed response into pieces of an answer, and keeps the items that it is made of.

An item is told in pieces, and once more as a whole: what differs fails the answer. Events and items of
unknown types carry nothing that is shown; items go back to their provider all the same.
"""

# What providers send is checked by hand, not by types.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from mainstem_shared.model import jsontext
from mainstem_tasks.engines.assembly.pieces import (
    About,
    CallPiece,
    Done,
    Extras,
    Failure,
    Finish,
    Kind,
    Piece,
    Text,
    UnreadableError,
)
from mainstem_tasks.engines.turns import failures
from mainstem_tasks.engines.turns.token_counts import integer, tokens_of

ITEMS: Final = "response_items"
"""The member of an assistant's message that has the items of the response."""
_TEXTS: Final[Mapping[str, Kind]] = {
    "response.output_text": Kind.TEXT,
    "response.refusal": Kind.REFUSAL,
    "response.reasoning_text": Kind.REASONING,
    "response.reasoning_summary_text": Kind.REASONING,
}
_ENDS: Final = ("response.completed", "response.incomplete", "response.failed", "response.cancelled")
_PLAIN: Final = ("message", "function_call")
"""Items of which chat completions' message says all."""
_SHOWN: Final = 256


class ItemReader:
    """Reads the events of one response."""

    def __init__(self) -> None:
        self._items: dict[int, dict[str, Any]] = {}
        self._arguments: dict[int, str] = {}
        """Of each call, as they were told so far."""
        self._texts: dict[tuple[int, Kind], str] = {}
        """Of each item, by kind, as they were told so far."""
        self._part: tuple[int, Any] | None = None
        self._over = False

    def read(self, data: Any, event: str = "") -> Iterator[Piece]:
        """Yield what an event says.

        Raises:
            UnreadableError: a part of the answer cannot be read.
        """
        if not isinstance(data, Mapping) or self._over:
            return
        kind = str(data.get("type") or event)
        name, _, phase = kind.rpartition(".")
        if data.get("object") == "response":  # an answer that is no stream
            yield from self._end(data)
        elif kind in _ENDS:
            yield from self._end(_mapping(data.get("response"), "response"))
        elif kind in ("response.created", "response.in_progress", "response.queued"):
            yield _about(_mapping(data.get("response"), "response"))
        elif kind in ("response.output_item.added", "response.output_item.done"):
            yield from self._item(_index(data), _mapping(data.get("item"), "item"), is_whole=phase == "done")
        elif name == "response.function_call_arguments":
            yield from self._argued(data, phase)
        elif name in _TEXTS and phase == "delta":
            yield from self._said(_TEXTS[name], data)
        elif failure := failures.failure_in(data, event):
            yield failure

    def _said(self, kind: Kind, data: Mapping[str, Any]) -> Iterator[Piece]:
        text = data.get("delta")
        if not isinstance(text, str):
            raise UnreadableError(f"delta: {type(text).__name__} has no meaning here")
        at = _index(data)
        if kind is Kind.REASONING:
            part = (at, data.get("summary_index", data.get("content_index")))
            if self._part not in (None, part):
                yield Text(kind=kind, text="\n\n")
            self._part = part
        self._texts[at, kind] = self._texts.get((at, kind), "") + text
        yield Text(kind=kind, text=text)

    def _argued(self, data: Mapping[str, Any], phase: str) -> Iterator[Piece]:
        at, text = _index(data), data.get("delta" if phase == "delta" else "arguments")
        if not isinstance(text, str):
            raise UnreadableError(f"arguments: {type(text).__name__} has no meaning here")
        if phase == "delta":
            self._arguments[at] = self._arguments.get(at, "") + text
            yield CallPiece(index=at, arguments=text)
        else:
            yield from self._whole_arguments(at, text)

    def _whole_arguments(self, at: int, text: str) -> Iterator[Piece]:
        """Take arguments that are said to be all.

        Raises:
            UnreadableError: they are not what the pieces were.
        """
        known = self._arguments.get(at, "")
        if (rest := _rest(known, text)) is None:
            raise UnreadableError(f"output.{at}.arguments: other than their pieces")
        self._arguments[at] = text
        if rest:
            yield CallPiece(index=at, arguments=rest)

    def _item(self, at: int, item: Mapping[str, Any], *, is_whole: bool) -> Iterator[Piece]:
        kind = item.get("type")
        if kind == "function_call":
            yield from self._call(at, item, is_whole=is_whole)
        if not is_whole:
            return
        if kind == "message":
            yield from self._message(at, item)
        elif kind == "reasoning":
            yield from self._thought(at, item)
        self._items[at] = dict(item)

    def _call(self, at: int, item: Mapping[str, Any], *, is_whole: bool) -> Iterator[Piece]:
        arguments = item.get("arguments")
        if isinstance(arguments, Mapping):
            arguments = jsontext.dumps(arguments).decode()
        if at not in self._arguments:
            self._arguments[at] = ""
            call_id, name = item.get("call_id") or item.get("id"), item.get("name")
            yield CallPiece(index=at, id=str(call_id or ""), name=str(name or ""))
        if isinstance(arguments, str) and (is_whole or not self._arguments[at]):
            yield from self._whole_arguments(at, arguments)
        elif is_whole:
            raise UnreadableError(f"output.{at}.arguments: {type(arguments).__name__} has no meaning here")

    def _message(self, at: int, item: Mapping[str, Any]) -> Iterator[Piece]:
        said = {Kind.TEXT: "", Kind.REFUSAL: ""}
        for part in item.get("content") or ():
            if isinstance(part, Mapping):
                said[Kind.TEXT] += str(part.get("text") or "")
                said[Kind.REFUSAL] += str(part.get("refusal") or "")
        for kind, text in said.items():
            known = self._texts.get((at, kind), "")
            if (rest := _rest(known, text)) is None:
                raise UnreadableError(f"output.{at}.content: other than its pieces")
            self._texts[at, kind] = text
            if rest:
                yield Text(kind=kind, text=rest)

    def _thought(self, at: int, item: Mapping[str, Any]) -> Iterator[Piece]:
        """Tell reasoning that was not told in pieces."""
        if (at, Kind.REASONING) in self._texts:
            return
        parts = [*(item.get("summary") or ()), *(item.get("content") or ())]
        text = "\n\n".join(str(part.get("text") or "") for part in parts if isinstance(part, Mapping))
        if text:
            self._texts[at, Kind.REASONING] = text
            yield Text(kind=Kind.REASONING, text=text)

    def _end(self, response: Mapping[str, Any]) -> Iterator[Piece]:
        yield _about(response)
        if (tokens := tokens_of(response.get("usage"))) is not None:
            yield tokens
        status, error = response.get("status"), response.get("error")
        if status in ("failed", "cancelled") or error:
            yield failures.failure_in({"error": error}) or Failure(words=f"the response is {status}")
            return
        output: list[Any] = response.get("output") or []
        for at, item in enumerate(output):
            if at not in self._items and isinstance(item, Mapping):
                yield from self._item(at, item, is_whole=status != "incomplete")
        plain = all(item.get("type") in _PLAIN for item in self._items.values())
        if not plain and self._items.keys() >= self._arguments.keys():
            yield Extras(members={ITEMS: [item for _, item in sorted(self._items.items())]})
        self._over = True
        yield Finish(reason=self._reason(response))
        yield Done()

    def _reason(self, response: Mapping[str, Any]) -> str:
        details: Any = response.get("incomplete_details")
        if response.get("status") == "incomplete" or details:
            why = details.get("reason") if isinstance(details, Mapping) else None
            return str(why or "incomplete")
        return "tool_calls" if self._arguments else "stop"


def _rest(known: str, text: str) -> str | None:
    """Return what a text has beyond its beginning, halves joined; None if it begins otherwise."""
    beginning, whole = (one.encode("utf-16-le", "surrogatepass") for one in (known, text))
    if not whole.startswith(beginning):
        return None
    return whole[len(beginning) :].decode("utf-16-le", "surrogatepass")


def _about(response: Mapping[str, Any]) -> About:
    named = {name: response.get(name) for name in ("model", "id")}
    short = {name: value[:_SHOWN] for name, value in named.items() if isinstance(value, str) and value}
    return About(model=short.get("model"), response_id=short.get("id"))


def _index(data: Mapping[str, Any]) -> int:
    if (index := integer(data.get("output_index"))) is None:
        raise UnreadableError("output_index: is not there")
    return index


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UnreadableError(f"{where}: {type(value).__name__} has no meaning here")
    return value
