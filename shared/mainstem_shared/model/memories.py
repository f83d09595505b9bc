"""A memory is what an engine keeps on a thread, as bytes by key; `Changes` is what one commit does to it.

Pure. The verbs `checkpoint`, `pause` and `finish` commit changes; `copy` puts a fork's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

KEY_LIMIT: Final = 512
"""Longest key of a memory, in bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What a checkpoint, a pause or an end commits to a memory.

    Attributes:
        engine: whose memory it is.
        values: what stands under each changed key from now on; None: nothing.
        size: bytes of all keys and values afterwards.
        ttl_ms: how long the memory lives from now on, at least.
    """

    engine: str
    values: Mapping[str, bytes | None]
    size: int
    ttl_ms: int

    def arguments(self) -> list[str | int | bytes]:
        """Return the arguments of a verb that commits them: engine, size, TTL, and so on."""
        puts: list[str | int | bytes] = []
        for key, value in self.values.items():
            if value is not None:
                puts += [key, value]
        deleted = [key for key, value in self.values.items() if value is None]
        return [self.engine, self.size, self.ttl_ms, len(puts) // 2, *puts, *deleted]


def arguments(changes: Changes | None) -> list[str | int | bytes]:
    """Return the arguments for changes, or for none."""
    return ["", 0, 0, 0] if changes is None else changes.arguments()
