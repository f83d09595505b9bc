"""Streams texts: joins halves of surrogate pairs over pieces, and separates `<think>` blocks.

Both hold back what only the next piece can decide, so that the outcome does not depend on where a stream was
cut into pieces.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mainstem_shared.model import jsontext
from mainstem_tasks.engines.assembly.pieces import Kind

TAGS: Final = ("think", "thinking", "thought", "THINK")
_OPENING: Final = {**{f"<{tag}>": f"</{tag}>" for tag in TAGS[:3]}, "[THINK]": "[/THINK]"}


class SurrogateJoiner:
    """Joins halves of surrogate pairs over pieces of text; a single half becomes U+FFFD."""

    def __init__(self) -> None:
        self._half = ""

    def push(self, text: str) -> str:
        """Return what of the stream is certain with this piece."""
        if self._half:
            text, self._half = self._half + text, ""
        if text.isascii():
            return text
        if "\ud800" <= text[-1] <= "\udbff":
            self._half, text = text[-1], text[:-1]
        return jsontext.well_formed(text)

    def flush(self) -> str:
        """Return what was held back, at the end of the stream."""
        half, self._half = self._half, ""
        return "\ufffd" if half else ""


class ThinkSplitter:
    """Tells the reasoning of an answer that begins with `<think>` from the text after `</think>`.

    Only at the answer's beginning: later, the same characters are text. White space around the tags belongs
    to neither.
    """

    def __init__(self) -> None:
        self._held = ""
        self._closing = ""
        self._state = "start"

    def push(self, text: str) -> Iterator[tuple[Kind, str]]:
        """Yield what is certain with this piece."""
        if self._state == "text":
            yield Kind.TEXT, text
            return
        self._held += text
        while self._state != "text":
            before = self._state
            yield from self._step()
            if self._state == before:
                return

    def flush(self) -> Iterator[tuple[Kind, str]]:
        """Yield what was held back, at the end of the answer."""
        held, self._held = self._held, ""
        if held and self._state != "closed":
            yield (Kind.REASONING if self._state == "thinking" else Kind.TEXT), held
        self._state = "text"

    def _step(self) -> Iterator[tuple[Kind, str]]:
        match self._state:
            case "start":
                yield from self._start()
            case "opened" | "closed":  # white space beside a tag
                self._held = self._held.lstrip()
                if self._held:
                    self._state = "thinking" if self._state == "opened" else "text"
                    if self._state == "text":
                        yield Kind.TEXT, self._take(len(self._held))
            case _:
                yield from self._think()

    def _start(self) -> Iterator[tuple[Kind, str]]:
        seen = self._held.lstrip()
        for opening, closing in _OPENING.items():
            if seen.startswith(opening):
                self._held, self._closing, self._state = seen[len(opening) :], closing, "opened"
                return
        if seen and not any(opening.startswith(seen) for opening in _OPENING):
            self._state = "text"
            yield Kind.TEXT, self._take(len(self._held))

    def _think(self) -> Iterator[tuple[Kind, str]]:
        at = self._held.find(self._closing)
        if at >= 0:
            thought = self._take(at)
            self._held, self._state = self._held[len(self._closing) :], "closed"
        else:
            thought = self._take(len(self._held) - _overlap(self._held, self._closing))
        if thought:
            yield Kind.REASONING, thought

    def _take(self, length: int) -> str:
        taken, self._held = self._held[:length], self._held[length:]
        return taken


def _overlap(text: str, tag: str) -> int:
    """Return how many characters at the end of `text` may begin `tag`."""
    return next((size for size in range(min(len(text), len(tag) - 1), 0, -1) if text.endswith(tag[:size])), 0)
