"""Collects dialects of providers: recorded quirks, as bytes, each with its right outcome.

An engine that speaks the protocol is tried on all of them; `docs/providers.md` is made of the table.
"""

from __future__ import annotations

from typing import Final

from mainstem_tasks.testing.dialects import calls, ends, failures, messages, responses, texts
from mainstem_tasks.testing.dialects.table import CHAT, KINDS, MESSAGES, RESPONSES, Dialect

DIALECTS: Final[tuple[Dialect, ...]] = (
    *calls.DIALECTS,
    *ends.DIALECTS,
    *texts.DIALECTS,
    *failures.DIALECTS,
    *responses.DIALECTS,
    *messages.DIALECTS,
)

__all__ = ["CHAT", "DIALECTS", "KINDS", "MESSAGES", "RESPONSES", "Dialect"]
