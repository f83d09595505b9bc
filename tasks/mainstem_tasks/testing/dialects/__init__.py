"""Collects what providers really send: recorded quirks, as bytes, each with its right outcome.

An engine that speaks the protocol is tried on all of them; `docs/providers.md` is made of the table.
"""

from __future__ import annotations

from typing import Final

from mainstem_tasks.testing.dialects import calls, ends, failures, texts
from mainstem_tasks.testing.dialects.table import CHAT, KINDS, Dialect

DIALECTS: Final[tuple[Dialect, ...]] = (*calls.DIALECTS, *ends.DIALECTS, *texts.DIALECTS, *failures.DIALECTS)

__all__ = ["CHAT", "DIALECTS", "KINDS", "Dialect"]
