"""Decides, while a JSON text grows, whether it could end here: by its structure, not by its validity."""

from __future__ import annotations

import re
from typing import Final

_TOKENS: Final = re.compile(r'["\\{}\[\]]')


class Completeness:
    """Follows a growing JSON text; each character is read once, and only if `is_whole` is asked."""

    def __init__(self) -> None:
        self._unseen: list[str] = []
        self._depth = 0
        self._in_string = self._escaped = self._opened = False

    def push(self, text: str) -> None:
        """Take the next piece of the text."""
        self._unseen.append(text)

    @property
    def is_whole(self) -> bool:
        """Whether an object or list was opened, and everything opened is closed."""
        text = "".join(self._unseen)
        self._unseen.clear()
        self._scan(text)
        return self._opened and self._depth <= 0 and not self._in_string

    def _scan(self, text: str) -> None:
        position = 0
        if self._escaped and text:
            self._escaped, position = False, 1
        while match := _TOKENS.search(text, position):
            position = match.end()
            sign = match[0]
            if sign == '"':
                self._in_string = not self._in_string
            elif sign == "\\":
                if self._in_string:  # whatever comes next is no sign
                    self._escaped = position == len(text)
                    position += 1
            elif not self._in_string:
                self._depth += 1 if sign in "{[" else -1
                self._opened = True
