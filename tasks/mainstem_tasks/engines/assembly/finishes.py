"""Classifies the reasons that providers give for the end of an answer.

The words differ (`tool_calls`, `TOOL_USE`, `max_tokens`, `SAFETY`); what matters is whether the answer is the
whole one. An unknown word is an ordinary end unless it sounds like a cut, a filter or a failure.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final


class Ending(StrEnum):
    """What an answer's end means for it."""

    ORDINARY = "ordinary"
    CUT = "cut"
    """By a limit of tokens."""
    FILTERED = "filtered"
    """By the provider's rules."""
    UNSAID = "unsaid"
    """The protocol ended, but no reason was given."""
    PAUSED = "paused"
    """The provider wants to be asked again, with the answer so far, and goes on then."""
    FAILED = "failed"


_WORDS: Final[tuple[tuple[Ending, re.Pattern[str]], ...]] = (
    (Ending.PAUSED, re.compile(r"^pause")),
    (
        Ending.FILTERED,
        re.compile(r"filter|safety|sensitive|block|prohibited|recitation|refusal|spii|guardrail"),
    ),
    (Ending.CUT, re.compile(r"length|max|limit|incomplete|truncat|exceeded|budget")),
    (Ending.FAILED, re.compile(r"error|fail|abort|cancel|timeout|interrupt|insufficient|overload|malformed")),
)
_CALLS: Final = re.compile(r"tool|function")


def ending_of(reason: str | None) -> Ending:
    """Return what the provider's word for the end means."""
    if reason is None:
        return Ending.UNSAID
    word = reason.casefold()
    return next((ending for ending, pattern in _WORDS if pattern.search(word)), Ending.ORDINARY)


def announces_calls(reason: str | None) -> bool:
    """Tell whether the reason says that the answer ends with calls."""
    return ending_of(reason) is Ending.ORDINARY and bool(_CALLS.search((reason or "").casefold()))
