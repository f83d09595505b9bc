"""Defines the protocol through which a `RunContext` emits.

A worker's is `mainstem_shared.eventlog.writing.channels.Channel`; `testing` has one in memory.
"""

from __future__ import annotations

from typing import Any, Protocol

from mainstem_shared.model.contents import Content
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.events import Type


class Channel(Protocol):
    """The way into a run's log. It belongs to one event loop.

    Emitting may raise `Fenced` and `ChannelClosed` (the run is over for this segment), `EventTooLarge` and
    `ContentTooLarge`.
    """

    @property
    def fold(self) -> Content:
        """The content so far; it may lag behind what was emitted."""
        ...

    def text(self, kind: Type, text: str) -> None:
        """Append to the open part of this kind."""
        ...

    def emit(self, kind: str, payload: dict[str, Any]) -> None:
        """Append any other event."""
        ...

    @property
    def congested(self) -> bool:
        """Whether to wait (`drained`) before emitting more."""
        ...

    async def drained(self) -> None:
        """Wait until there is room again."""
        ...

    async def flush(self) -> Cursor:
        """Wait until everything emitted is in the log; return the log's top."""
        ...
