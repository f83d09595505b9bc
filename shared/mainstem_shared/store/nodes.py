"""A node is one server of a store, or one service of Sentinels, with a process's connections to it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from mainstem_shared.store import connections, failures, shared_connections
from mainstem_shared.store.shard_maps import GuardedAddress


class Node:
    """Connections to one address; all are made on first use, inside the loop that uses them."""

    def __init__(self, url: str) -> None:
        self.url = url

    @cached_property
    def client(self) -> Any:
        """The redis-py client.

        Untyped: redis-py annotates every reply form of every protocol; ours is fixed (RESP2, bytes).
        """
        return connections.connect(self.url)

    @cached_property
    def shared(self) -> shared_connections.SharedConnection:
        """The connection that all short calls share."""
        return shared_connections.SharedConnection(self.url)

    @property
    def losses(self) -> int:
        """How often the shared connection was lost."""
        return self.shared.losses if "shared" in self.__dict__ else 0

    async def send(self, commands: Sequence[tuple[Any, ...]], *, large: bool = False) -> list[Any]:
        """Send commands in one round trip, once, and return their replies in order.

        Raises:
            redis.exceptions.RedisError, OSError: no answer, or the first refusal; or keys moved to another
                shard while the commands waited for a connection.
        """
        if not large:
            return await self.shared.call(*commands)
        if isinstance(self.url, GuardedAddress):
            return await self._send_guarded(self.url, commands)
        if len(commands) == 1:
            return [await self.client.execute_command(*commands[0])]
        async with self.client.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            return await pipe.execute()

    async def _send_guarded(self, address: GuardedAddress, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        version = address.version()
        async with self.client.client() as connected:  # one connection, which it does not open again
            if address.version() != version:
                raise failures.ConnectionLost("Buckets have moved between shards: look again.")
            async with connected.pipeline(transaction=False) as pipe:
                for command in commands:
                    pipe.execute_command(*command)
                return await pipe.execute()

    async def close(self) -> None:
        """Close all connections."""
        if "shared" in self.__dict__:
            await self.shared.close()
        if "client" in self.__dict__:
            await connections.close_sentinels(self.client)
            await self.client.aclose()
