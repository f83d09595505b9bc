"""`Suspicions` decides which owners are dead: by the leases that a sweeper misses, and the server it asks.

A missing lease is evidence on one server only. After a fail-over the new primary has leases as old as the
last word of the former one, and owners may still beat there: what was seen before counts no more, nobody is
judged for one lease, in which whoever lives is heard. A replica, or a server that does not have the sweeper's
own lease, is no witness at all.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from mainstem_shared.store import failures
from mainstem_shared.store.client import Store
from mainstem_shared.store.nodes import Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Identifies a server's process (run id) and its data (replication id); empty if it does not say."""

    identity: str = ""
    is_replica: bool = False


async def server_of(store: Store) -> Server:
    """Return the identity of a store's servers, as one value: a change of any of them changes it.

    A run id is another after a restart, a replication id after a promotion.
    """
    servers = [await _server_at(node) for node in await store.nodes()]
    identities = [server.identity for server in servers]
    return Server(
        identity="|".join(identities) if any(identities) else "",
        is_replica=any(server.is_replica for server in servers),
    )


async def _server_at(node: Node) -> Server:
    try:
        info: dict[str, Any] = await node.client.info("server", "replication")
    except failures.RedisError as error:
        if failures.code_of(error) in ("NOPERM", "ERR"):
            return Server()  # we may not ask, as with some managed services
        raise
    identity = f"{info.get('run_id')}:{info.get('master_replid')}"
    return Server(identity=identity, is_replica=info.get("role") == "slave")


@dataclass(slots=True, kw_only=True)
class Suspicions:
    """What one sweeper suspects. An owner is dead that is missing in two sweeps in a row of one server."""

    _missing: set[str] = field(default_factory=set[str])
    _server: Server = field(default_factory=Server)
    _grace_until: float = 0.0

    @property
    def in_grace(self) -> bool:
        """Whether the server is so new that it may lack the leases of living owners."""
        return time.monotonic() < self._grace_until

    def forget(self) -> None:
        """Drop what was seen: nobody could renew a lease meanwhile, or the server is no witness."""
        self._missing = set()

    def judge(self, missing: set[str], server: Server, *, grace_s: float) -> set[str]:
        """Return who is dead, now that these owners' leases are missing on this server."""
        former, self._server = self._server, server
        if former.identity and former.identity != server.identity:
            self._grace_until = time.monotonic() + grace_s
            self.forget()
        if server.is_replica:
            self.forget()
            return set()
        dead = set[str]() if self.in_grace else missing & self._missing
        self._missing = missing
        return dead
