"""Probes the broker at intervals, so that metrics show whether it takes messages, and how fast."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from mainstem_shared import errors
from mainstem_tasks.celery_support.publisher import CeleryPublisher

EVERY_S: Final = 10.0
"""A probe is one message that nobody gets: cheap, but no heartbeat."""


class BrokerWatch:
    """Knows what came of this process's last probe. `run` until cancelled."""

    def __init__(self, publisher: CeleryPublisher) -> None:
        self._publisher = publisher
        self.is_up = True
        self.latency_s = 0.0

    async def run(self) -> None:
        """Probe until cancelled."""
        while True:
            began = time.monotonic()
            try:
                await self._publisher.aping()
            except errors.BrokerUnavailable:
                self.is_up = False
            else:
                self.is_up = True
            self.latency_s = time.monotonic() - began
            await asyncio.sleep(EVERY_S)
