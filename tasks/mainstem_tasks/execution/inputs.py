"""Fetches a segment's inputs from the run's record into the inbox that its engine reads.

A continuation is given what the log does not have yet.
"""

from __future__ import annotations

import logging

from mainstem_shared import errors, transitions
from mainstem_shared.eventlog.writing.channels import Channel
from mainstem_tasks.execution.runtime import Runtime
from mainstem_tasks.sdk.inboxes import Inbox

logger = logging.getLogger(__name__)


class Inputs:
    """One segment's inputs: fetches them from the record, and notes there how many its engine has read."""

    def __init__(self, runtime: Runtime, channel: Channel, *, read: int) -> None:
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
