"""`PrimaryWatch` asks which servers are the primaries, and closes connections to a former one.

It asks Sentinels every second, and a Cluster every five for its slots.

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

from mainstem_shared import errors
from mainstem_shared.store import failures, raw_connections
from mainstem_shared.store.client import Store
from mainstem_shared.store.nodes import Node

logger = logging.getLogger(__name__)

POLL_S: Final = 1.0
"""Sentinels take seconds to promote a server: asking more often finds it no sooner."""
REFRESH_S: Final = 5.0
"""A node that lost a slot says so itself; this is for connections that are silent."""


class PrimaryWatch:
    """Watches for one loop's connections to a store. `on_moved` is called when there is another primary."""

    def __init__(self, store: Store, on_moved: Callable[[], None] = lambda: None) -> None:
        self._store = store
        self._on_moved = on_moved
        self._known: dict[str, tuple[Any, ...]] = {}

    async def run(self) -> None:
        """Watch until cancelled; return at once where nobody is to be asked."""
        watched: set[str] = set()
        async with asyncio.TaskGroup() as watches:

            def watch_all() -> None:
                for url in self._store.topology.nodes:  # later ones, too: shards may be added
                    if url not in watched:
                        watched.add(url)
                        watches.create_task(self._watch(self._store.node(url)))

            watch_all()
            await self._refresh(watch_all)

    async def _refresh(self, watch_all: Callable[[], None]) -> None:
        """Look from time to time whether slots have moved of which nobody said so."""
        while self._store.topology.queries(thorough=True) is not None:
            try:
                await self._store.refresh(thorough=True)
            except errors.Misconfigured as error:
                noted = {"action": "store_misconfigured", "error": str(error)}
                logger.critical("the store's servers are not those of its address", extra=noted)
            except (failures.RedisError, OSError):
                pass  # asked again
            watch_all()
            await asyncio.sleep(REFRESH_S)

    async def _watch(self, node: Node) -> None:
        pool = node.client.connection_pool
        while isinstance(pool, SentinelConnectionPool):
            # An error: there is no primary now, or nobody knows of one. Connections break by themselves.
            with contextlib.suppress(failures.RedisError, OSError):
                # idle connections to another are closed by it
                self._judge(node, await pool.get_master_address())
            await asyncio.sleep(POLL_S)

    def _judge(self, node: Node, address: tuple[Any, ...]) -> None:
        former, self._known[node.url] = self._known.get(node.url), address
        if former in (None, address):
            return
        logger.warning(
            "the store has another primary; leaving the former one",
            extra={"action": "primary_moved", "former": former, "primary": address},
        )
        raw_connections.abort_all(node.url)
        self._on_moved()
