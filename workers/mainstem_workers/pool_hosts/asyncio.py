"""`AsyncioHost` runs housekeeping on the asyncio pool's own loop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from mainstem_shared.settings import Settings
from mainstem_workers.housekeeping import Housekeeping
from mainstem_workers.pool_hosts.background import info_of


class AsyncioHost:
    """On the asyncio pool: on its loop, stopped by its shutdown hook after the last job."""

    def __init__(self, settings: Settings, queues: Sequence[str]) -> None:
        self._settings = settings
        self._queues = queues
        self._housekeeping: Housekeeping | None = None

    def start(self, parent: Any) -> None:
        pool = parent.pool
        housekeeping = self._housekeeping = pool.run(
            _make(self._settings, pool.loop, slots=parent.concurrency, queues=self._queues)
        )
        pool.run(housekeeping.start())
        pool.add_shutdown_hook(housekeeping.stop)

    def stop(self, parent: Any) -> None:
        """Nothing: the pool's shutdown hook does it, after the last job."""

    def terminate(self, parent: Any) -> None:
        """Nothing: the pool's shutdown hook does it, after the last job."""

    def info(self) -> dict[str, Any]:
        return info_of(None if self._housekeeping is None else self._housekeeping.runtime)


async def _make(
    settings: Settings, loop: asyncio.AbstractEventLoop, *, slots: int, queues: Sequence[str]
) -> Housekeeping:
    return Housekeeping(settings, loop, slots=slots, queues=queues)
