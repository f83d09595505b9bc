"""`run.inbox`, what users say to a run while its engine works; and how it comes from the run's record there.

An input counts as read when the engine takes it: from then on `input.accepted` stands in the log, in its
place among the engine's own events. A continuation is given what the log does not have.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from mainstem_shared import errors, transitions
from mainstem_shared.model.events import Type
from mainstem_tasks.sdk.channel import Channel
from mainstem_tasks.sdk.pauses import Paused

if TYPE_CHECKING:
    from mainstem_shared.eventlog.writing.channels import Channel as LogChannel
    from mainstem_tasks.execution.runtime import Runtime

logger = logging.getLogger(__name__)


class Inbox:
    """What users say, in order. Reading may raise what emitting does: it is an event of the run.

    Once the run asks a human, nothing can be read: that decision comes first.
    """

    def __init__(self, channel: Channel, *, read: int = 0, on_read: Callable[[], None] | None = None) -> None:
        self.read = read
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


class Inputs:
    """One segment's inputs: fetches them from the record, and notes there how many its engine has read."""

    def __init__(self, runtime: Runtime, channel: LogChannel, *, read: int) -> None:
        self.inbox = Inbox(channel, read=read, on_read=self.fetch)
        self._runtime = runtime
        self._channel = channel
        self._wanted = False
        self._fetching = False

    def fetch(self) -> None:
        """Ask the record, now or right after the answer that is under way."""
        self._wanted = True
        if not self._fetching:
            self._fetching = True
            self._runtime.spawn(self._fetch())

    def end(self) -> None:
        """Let go of the inbox, which an engine may still hold: what it reads now is no news."""
        self.inbox.on_read = None

    async def fetched(self) -> None:
        """Fetch what is there before the engine starts."""
        self._wanted = self._fetching = True
        await self._fetch()

    async def _fetch(self) -> None:
        try:
            while self._wanted:
                self._wanted = False
                await self._fetch_once()
        except errors.MainstemError as error:
            # The record keeps them: a sweeper sends the mail again, and the end hands them back.
            noted = {"action": "inputs_not_fetched", "run_id": self._channel.control.run_id}
            logger.warning("inputs were not fetched", extra={**noted, "why": error.code})
        finally:
            self._fetching = False

    async def _fetch_once(self) -> None:
        # What counts as read is what the log has: a crash before that leaves it to the continuation.
        read = self.inbox.read
        if read:
            await self._channel.flush()
        control, known = self._channel.control, self.inbox.known
        answer = await transitions.inbox(self._runtime.store, control, read=read, known=known)
        if isinstance(answer, list):
            self.inbox.deliver(answer)
