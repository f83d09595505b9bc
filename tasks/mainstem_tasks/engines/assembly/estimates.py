"""Estimates tokens from text, without a tokenizer: for answers that broke off before their provider counted.

A token is six Latin letters, three digits or letters of other scripts, or most of an ideograph, and never
spans two words. Within a third of o200k_base for prose in many languages and for code:
`tests/unit/test_estimates.py` has the counts.
"""

# pyright: reportUnknownVariableType=false
# What clients sent is read by hand, not by types.

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from mainstem_shared.model import jsontext

MESSAGE_TOKENS: Final = 4
"""What a message costs beside its text: its role and its borders."""
MARGIN: Final = 4 / 3
"""What an estimate must be multiplied by to be the most that a request may have."""
IMAGE_TOKENS: Final = 800
"""A picture, or any other content that is no text: providers count its size, not its bytes."""
_PIECES: Final = re.compile(
    r"(?P<word>[A-Za-z\u00c0-\u024f]+)|(?P<digits>[0-9]+)"
    r"|(?P<ideographs>[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]+)"
    r"|(?P<letters>[^\W\d_]+)|(?P<space>\s+)|(?P<marks>[^\w\s]+|.)",
    re.DOTALL,
)
_PER_TOKEN: Final[Mapping[str, float]] = {
    "word": 6.0,
    "digits": 3.0,
    "ideographs": 1.25,
    "letters": 3.0,
    "marks": 3.0,
}
"""Characters; a piece is one token at least. Single blanks belong to the word that they precede."""


def tokens_in(text: str) -> int:
    """Return about how many tokens a text is; 0 only for none."""
    total = 0.0
    for piece in _PIECES.finditer(text):
        kind, length = str(piece.lastgroup), piece.end() - piece.start()
        if kind == "space":
            total += 0 if length == 1 and piece.group() == " " else 1
        else:
            total += max(1.0, length / _PER_TOKEN[kind])
    return math.ceil(total) or bool(text)


def tokens_of_request(messages: Iterable[Mapping[str, Any]], tools: Iterable[Any] = ()) -> int:
    """Return about how many tokens a request's messages and tools are."""
    return sum(map(_message, messages)) + sum(map(_json, tools))


def _message(message: Mapping[str, Any]) -> int:
    content = message.get("content")
    parts: list[Any] = content if isinstance(content, list) else [content]
    calls = message.get("tool_calls")
    return MESSAGE_TOKENS + sum(map(_part, parts)) + (_json(calls) if calls else 0)


def _part(part: Any) -> int:
    match part:
        case str():
            return tokens_in(part)
        case {"text": str() as text}:
            return tokens_in(text)
        case None:
            return 0
        case _:
            return IMAGE_TOKENS


def _json(value: Any) -> int:
    return tokens_in(jsontext.dumps(value).decode(errors="replace"))
