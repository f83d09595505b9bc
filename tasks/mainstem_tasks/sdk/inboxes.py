"""`run.inbox` gives an engine the input that users send while its run works.

An input counts as read when the engine takes it: from then on `input.accepted` stands in the log, in its
place among the engine's own events. `execution.inputs` fills the inbox from the run's record.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mainstem_shared.model.events import Type
from mainstem_tasks.sdk.channel import Channel
from mainstem_tasks.sdk.pauses import Paused


class Inbox:
    """What users say, in order. Reading may raise what emitting does: it is an event of the run.

    Once the run asks a human, nothing can be read: that decision comes first.
    """

    def __init__(self, channel: Channel, *, read: int = 0, on_read: Callable[[], None] | None = None) -> None:
        self.read: int = read
        """How many inputs the log has, those of earlier segments too."""
        self.on_read = on_read
        """Called after each read, while somebody wants to know."""
        self._channel = channel
        self._waiting: deque[dict[str, Any]] = deque()
        self._readers: dict[asyncio.Future[None], None] = {}
        self._closed = False

    async def get(self) -> str:
        """Return the next text; wait for it if there is none."""
        while self.empty():
            reader: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._readers[reader] = None
            try:
                await reader
            finally:
                self._readers.pop(reader, None)
        return self.get_nowait()

    def get_nowait(self) -> str:
        """Return the next text.

        Raises:
            asyncio.QueueEmpty: there is none.
        """
        if self.empty():
            raise asyncio.QueueEmpty
        said = self._waiting[0]
        self._channel.emit(Type.INPUT_ACCEPTED, said)
        self._waiting.popleft()
        self.read += 1
        if self.on_read is not None:
            self.on_read()
        return said["text"]

    def empty(self) -> bool:
        """Tell whether there is nothing to read now."""
        if self._closed:
            raise Paused
        return not self._waiting

    # -- the other end

    @property
    def known(self) -> int:
        """How many of the run's inputs are here, or were."""
        return self.read + len(self._waiting)

    def deliver(self, inputs: Iterable[Mapping[str, Any]]) -> None:
        """Add what users said."""
        self._waiting.extend(dict(said) for said in inputs)
        self._wake()

    def close(self) -> None:
        """Let nothing more be read in this segment."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        for reader in self._readers:
            if not reader.done():
                reader.set_result(None)
