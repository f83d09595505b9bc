"""`BlockingStore` sends commands to the servers that have their keys, from threads that depend on no loop.

For leases and `mainstem doctor`. Nothing is repeated: whoever beats or looks does so again by itself.
"""

# redis-py's types are partly unknown.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from typing import Any

from redis.exceptions import RedisError

from mainstem_shared.store import failures, topologies
from mainstem_shared.store.connections import BlockingClient, connect_blocking


class BlockingStore:
    """A client of a store for one thread at a time."""

    def __init__(self, url: str, *, timeout_s: float) -> None:
        """Prepare it; nothing is opened.

        Raises:
            Misconfigured: the address cannot be read.
        """
        self.topology = topologies.of(url)
        self._timeout_s = timeout_s
        self._clients: dict[str, BlockingClient] = {}
        self._is_stale = False
        for node in self.topology.nodes:
            self.client(node)

    def client(self, node: str) -> BlockingClient:
        """Return the client of one of the servers."""
        found = self._clients.get(node)
        if found is None:
            found = self._clients[node] = connect_blocking(node, timeout_s=self._timeout_s)
        return found

    def nodes(self) -> tuple[str, ...]:
        """Return the addresses of all servers.

        Raises:
            redis.exceptions.RedisError, OSError: nobody says which there are.
            Misconfigured: they are others than the address means.
        """
        if not self.topology.nodes:
            self.refresh()
        return self.topology.nodes

    def commands(self, *commands: tuple[Any, ...]) -> list[Any]:
        """Send commands, once, those of each server in one round trip; returns their replies in order.

        Raises:
            redis.exceptions.RedisError, OSError: one of the servers does not answer, or refuses.
        """
        if self._is_stale:
            self.refresh()
        try:
            return self._commands(commands)
        except (RedisError, OSError) as error:
            self._is_stale = failures.may_have_moved(error)
            raise

    def _commands(self, commands: tuple[tuple[Any, ...], ...]) -> list[Any]:
        by_node: dict[str, list[int]] = {}
        for place, command in enumerate(commands):
            by_node.setdefault(self._node_of(topologies.key_of(command)), []).append(place)
        replies: dict[int, Any] = {}
        for node, places in by_node.items():
            with self.client(node).pipeline(transaction=False) as pipe:
                for place in places:
                    pipe.execute_command(*commands[place])
                replies |= zip(places, pipe.execute(), strict=True)
        return [replies[place] for place in range(len(commands))]

    def _node_of(self, key: str | bytes) -> str:
        try:
            return self.topology.node_of(key)
        except topologies.Unlearned:
            self.refresh()
            return self.topology.node_of(key)

    def check(self) -> None:
        """Make sure that the servers are those that the address means.

        Raises:
            redis.exceptions.RedisError, OSError: not all that must answer do.
            Misconfigured: they are others.
        """
        self._drive(self.topology.introduce())

    def refresh(self) -> None:
        """Bring the topology up to date.

        Raises:
            redis.exceptions.RedisError, OSError: nobody who can say it answers.
            Misconfigured: the servers are others than the address means.
        """
        queries = self.topology.queries()
        self._is_stale = False
        if queries is not None:
            self._drive(queries)

    def _drive(self, queries: topologies.Queries) -> None:
        try:
            url, command = next(queries)
            while True:
                try:
                    reply = self.client(url).execute_command(*command)
                except (RedisError, OSError) as error:
                    url, command = queries.throw(error)
                else:
                    url, command = queries.send(reply)
        except StopIteration:
            return

    def disconnect(self) -> None:
        """Drop all connections: the servers behind them may be no primaries any more."""
        for client in self._clients.values():
            client.connection_pool.disconnect()

    def close(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            client.close()
