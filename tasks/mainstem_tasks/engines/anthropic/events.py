"""Reads the events of Anthropic's streams into pieces of an answer, and keeps the blocks that it is made of.

Events and blocks of unknown types carry nothing that is shown (Anthropic adds some without notice); blocks go
back to their provider all the same. A piece that no block can be put together from keeps them from that.
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
    Finish,
    Kind,
    Piece,
    Text,
    UnreadableError,
)
from mainstem_tasks.engines.turns import failures
from mainstem_tasks.engines.turns.token_counts import integer, tokens_of

BLOCKS: Final = "anthropic_blocks"
"""The member of an assistant's message that has the blocks of the answer."""
_SHOWN: Final = 256
_TEXTS: Final[Mapping[str, tuple[str, Kind | None]]] = {
    "text_delta": ("text", Kind.TEXT),
    "thinking_delta": ("thinking", Kind.REASONING),
    "signature_delta": ("signature", None),
}
"""Deltas by the member that they add to, and what readers are told of it."""


class EventReader:
    """Reads the events of one message."""

    def __init__(self) -> None:
        self._blocks: dict[int, dict[str, Any]] = {}
        self._inputs: dict[int, str] = {}
        """Of each block with an input, the JSON so far."""
        self._usage: dict[str, Any] = {}
        self._is_whole = True
        """Whether all blocks could be put together as they came."""
        self._thoughts = 0

    def read(self, data: Any, event: str = "") -> Iterator[Piece]:
        """Yield what an event says.

        Raises:
            UnreadableError: a part of the answer cannot be read.
        """
        if not isinstance(data, Mapping):
            return
        match data.get("type") or event:
            case "message_start":
                message = _mapping(data.get("message"), "message")
                yield from self._about(message)
            case "content_block_start":
                yield from self._begin(_index(data), _mapping(data.get("content_block"), "content_block"))
            case "content_block_delta":
                yield from self._grow(_index(data), _mapping(data.get("delta"), "delta"))
            case "message_delta":
                yield from self._counts(data.get("usage"))
                yield from self._end(_mapping(data.get("delta"), "delta").get("stop_reason"))
            case "message_stop":
                yield Done()
            case "message":  # an answer that is no stream
                yield from self._about(data)
                for at, block in enumerate(data.get("content") or ()):
                    yield from self._begin(at, _mapping(block, f"content.{at}"))
                yield from self._end(data.get("stop_reason"))
                yield Done()
            case _:
                if failure := failures.failure_in(data, event):
                    yield failure

    def _about(self, message: Mapping[str, Any]) -> Iterator[Piece]:
        named = {name: message.get(name) for name in ("model", "id")}
        short = {name: value[:_SHOWN] for name, value in named.items() if isinstance(value, str) and value}
        yield About(model=short.get("model"), response_id=short.get("id"))
        yield from self._counts(message.get("usage"))

    def _counts(self, usage: Any) -> Iterator[Piece]:
        """Read counts: each event has some of them, and only together they tell the whole request."""
        if isinstance(usage, Mapping):
            self._usage |= {name: value for name, value in usage.items() if value is not None}
            if (tokens := tokens_of(self._usage)) is not None:
                yield tokens

    def _begin(self, at: int, block: Mapping[str, Any]) -> Iterator[Piece]:
        if at in self._blocks:
            raise UnreadableError(f"content.{at}: begins twice")
        self._blocks[at] = dict(block)
        match block.get("type"):
            case "text":
                yield from _shown(Kind.TEXT, block.get("text"))
            case "thinking":
                if self._thoughts:
                    yield Text(kind=Kind.REASONING, text="\n\n")
                self._thoughts += 1
                yield from _shown(Kind.REASONING, block.get("thinking"))
            case "tool_use":
                yield self._call(at, block)
            case _:
                pass

    def _call(self, at: int, block: Mapping[str, Any]) -> CallPiece:
        given, name = block.get("input"), block.get("name")
        if not isinstance(name, str) or not isinstance(given, Mapping | None):
            raise UnreadableError(f"content.{at}: a call without a name, or with an input that is no object")
        arguments = jsontext.dumps(given).decode() if given else ""
        return CallPiece(index=at, id=str(block.get("id") or ""), name=name, arguments=arguments)

    def _grow(self, at: int, delta: Mapping[str, Any]) -> Iterator[Piece]:
        block, kind = self._blocks.get(at), str(delta.get("type"))
        if block is None:
            raise UnreadableError(f"content.{at}: goes on before it begins")
        if kind in _TEXTS:
            name, shown = _TEXTS[kind]
            if not isinstance(text := delta.get(name), str):
                raise UnreadableError(f"content.{at}.{name}: {type(text).__name__} has no meaning here")
            block[name] = (block.get(name) or "") + text
            if shown is not None:
                yield Text(kind=shown, text=text)
        elif kind == "input_json_delta":
            yield from self._argue(at, block, delta.get("partial_json"))
        elif kind == "citations_delta":
            block["citations"] = [*(block.get("citations") or ()), delta.get("citation")]
        else:
            self._is_whole = False

    def _argue(self, at: int, block: Mapping[str, Any], text: Any) -> Iterator[Piece]:
        if not isinstance(text, str):
            raise UnreadableError(f"content.{at}.partial_json: {type(text).__name__} has no meaning here")
        self._inputs[at] = self._inputs.get(at, "") + text
        if block.get("type") == "tool_use" and text:
            yield CallPiece(index=at, arguments=text)

    def _end(self, reason: Any) -> Iterator[Piece]:
        if not isinstance(reason, str) or not reason:
            return
        self._complete()
        if self._is_whole and not all(map(_is_plain, self._blocks.values())):
            yield Extras(members={BLOCKS: [block for _, block in sorted(self._blocks.items())]})
        yield Finish(reason=reason)

    def _complete(self) -> None:
        """Give the blocks the inputs that came in pieces; those of calls that run here are the calls' own."""
        for at, text in self._inputs.items():
            if self._blocks[at].get("type") != "tool_use" and text:
                try:
                    self._blocks[at]["input"] = jsontext.loads(text)
                except (ValueError, RecursionError):
                    self._is_whole = False


def _is_plain(block: Mapping[str, Any]) -> bool:
    """Tell whether chat completions' message says all of a block."""
    return block.get("type") in ("text", "tool_use") and not block.get("citations")


def _shown(kind: Kind, text: Any) -> Iterator[Piece]:
    if isinstance(text, str) and text:
        yield Text(kind=kind, text=text)


def _index(data: Mapping[str, Any]) -> int:
    if (index := integer(data.get("index"))) is None:
        raise UnreadableError("index: is not there")
    return index


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UnreadableError(f"{where}: {type(value).__name__} has no meaning here")
    return value
