"""Splits the body of a streamed completion into JSON values, whatever of server-sent events it keeps to.

Lines may end with LF, CR or CRLF and come in any pieces; events may lack the blank line between them, or the
line end after the last one; a body may be no event stream at all but one JSON text, or a page. Nothing is
passed over that could be part of an answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from pydantic_core import from_json

from mainstem_shared.model import jsontext
from mainstem_tasks.engines.assembly.completeness import Completeness

SHOWN: Final = 300
"""Characters of a body that is no JSON, for the error's words."""
EVENT_LIMIT: Final = 16 * 1024 * 1024
"""Bytes of one line: twice what a run may hold; more is no answer that anybody waits for."""
_LINE_END: Final = re.compile(rb"\r\n|\r|\n")
_FIELD: Final = re.compile(r"(data|event|id|retry|:)")
_DONE: Final = frozenset({"[done]", "done"})


@dataclass(frozen=True, slots=True)
class Value:
    """A JSON value, and the type of the event that it came in."""

    data: Any
    event: str = ""


@dataclass(frozen=True, slots=True)
class End:
    """`[DONE]`."""


@dataclass(frozen=True, slots=True)
class Noise:
    """Words that are no JSON, and can be no part of an answer: a page, a proxy's message."""

    text: str


@dataclass(frozen=True, slots=True)
class Garbled:
    """What begins as JSON and is none: a part of the answer is lost."""

    text: str


Item = Value | End | Noise | Garbled


class BodyReader:
    """Reads one body, from the bytes as they arrive."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._scanned = 0
        self._skip_lf = False
        self._event = ""
        self._held: list[str] = []
        self._progress = Completeness()
        self._noise = ""

    def feed(self, data: bytes) -> Iterator[Item]:
        """Yield what is complete with this piece of the body. Consume it whole."""
        if self._skip_lf and data:
            data, self._skip_lf = data.removeprefix(b"\n"), False
        self._bytes += data
        start = 0
        while match := _LINE_END.search(self._bytes, max(start, self._scanned)):
            line = bytes(self._bytes[start : match.start()])
            start = self._scanned = match.end()
            yield from self._line(line)
        self._skip_lf = self._skip_lf or (start == len(self._bytes) and self._bytes.endswith(b"\r"))
        del self._bytes[:start]
        self._scanned = len(self._bytes)
        if len(self._bytes) > EVENT_LIMIT:
            yield Garbled(f"a line of more than {EVENT_LIMIT} bytes")
            self._bytes.clear()
        elif self._bytes.endswith((b"}", b"]")) and self._held_is_plain():
            yield from self._early()

    def end(self) -> Iterator[Item]:
        """Yield what the end of the body completes."""
        last = bytes(self._bytes)
        self._bytes.clear()
        if last:
            yield from self._line(last)
        yield from self._give_up()
        if self._noise:
            yield Noise(self._noise)

    def _held_is_plain(self) -> bool:
        """Tell whether the body is JSON alone: then no line end says that it is over."""
        return bytes(self._bytes.lstrip()[:1]) in (b"{", b"[") or (bool(self._held) and not self._event)

    def _early(self) -> Iterator[Item]:
        text = "\n".join((*self._held, self._bytes.decode("utf-8", "replace")))
        if len(text) < EVENT_LIMIT and (value := _parsed(text)) is not None:
            self._bytes.clear()
            self._scanned = 0
            self._forget()
            yield Value(value)

    def _line(self, raw: bytes) -> Iterator[Item]:
        line = raw.decode("utf-8", "replace").removeprefix("\ufeff")
        if not line.strip():
            yield from self._give_up()
            self._event = ""
            return
        if line.lstrip()[0] in "{[" or not _FIELD.match(line):
            yield from self._data(line)
            return
        name, _, text = line.partition(":")
        if name == "event":
            self._event = text.strip()
        elif name == "data":
            yield from self._data(text.removeprefix(" "))

    def _data(self, text: str) -> Iterator[Item]:
        word = text.strip().strip("\"'").casefold()
        if word in _DONE:
            yield from self._give_up()
            yield End()
            return
        if not self._held and text.lstrip()[:1] not in ("{", "["):
            self._hear(text.strip())
            return
        self._held.append(text)
        self._progress.push(text + "\n")
        if self._progress.is_whole:
            value = _parsed("\n".join(self._held))
            if value is not None:
                event = self._event
                self._forget()
                yield Value(value, event)

    def _hear(self, said: str) -> None:
        """Take a line that is no object: a heartbeat, or words that explain a failure."""
        if said and _parsed(said) is None and said != "null":
            self._noise = f"{self._noise} {said}".strip()[:SHOWN]

    def _give_up(self) -> Iterator[Item]:
        if self._held:
            text = "\n".join(self._held)
            self._forget()
            yield Garbled(text[:SHOWN])

    def _forget(self) -> None:
        self._held = []
        self._progress = Completeness()


def _parsed(text: str) -> Any:
    """Return a JSON text's value; None if it is none."""
    try:
        return from_json(text)
    except (ValueError, TypeError):
        pass
    try:
        return jsontext.loads(text)
    except (ValueError, RecursionError):
        return None
