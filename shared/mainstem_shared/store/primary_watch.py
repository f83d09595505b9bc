"""`PrimaryWatch` asks the Sentinels every second which server is the primary, and leaves the former one.

A primary that stood still goes on acknowledging on open connections when it wakes up, for about ten seconds
after another was promoted: what it says in that time is lost. Only the Sentinels know. Without them (a name
that leads elsewhere, a managed service) connections are left when they break or answer READONLY.
"""

# redis-py's types are partly unknown.
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any, Final

from redis.asyncio.sentinel import SentinelConnectionPool

from mainstem_shared.store import failures, raw_connections
from mainstem_shared.store.client import Store

logger = logging.getLogger(__name__)

POLL_S: Final = 1.0
"""Sentinels take seconds to promote a server: asking more often finds it no sooner."""


class PrimaryWatch:
    """Watches for one loop's connections to a store. `on_moved` is called when there is another primary."""

    def __init__(self, store: Store, on_moved: Callable[[], None] = lambda: None) -> None:
        self._store = store
        self._on_moved = on_moved
        self._known: tuple[Any, ...] | None = None

    async def run(self) -> None:
        """Watch until cancelled; return at once where no Sentinels are to be asked."""
        pool = self._store.client.connection_pool
        while isinstance(pool, SentinelConnectionPool):
            # An error: there is no primary now, or nobody knows of one. Connections break by themselves.
            with contextlib.suppress(failures.RedisError, OSError):
                self._judge(await pool.get_master_address())  # idle connections to another are closed by it
            await asyncio.sleep(POLL_S)

    def _judge(self, address: tuple[Any, ...]) -> None:
        former, self._known = self._known, address
        if former in (None, address):
            return
        logger.warning(
            "the store has another primary; leaving the former one",
            extra={"action": "primary_moved", "former": former, "primary": address},
        )
        raw_connections.abort_all(self._store.url)
        self._on_moved()
