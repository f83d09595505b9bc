"""A node is one server of a store, or one service of Sentinels, with a process's connections to it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Sequence
from functools import cached_property
from typing import Any, Final

from mainstem_shared.store import connections, failures, shared_connections
from mainstem_shared.store.shard_maps import GuardedAddress

ANSWER_S: Final = 1.0
"""How long a server may take to say that it is there, before others go on without it."""
FRESH_S: Final = 0.5
"""For how long what it said is believed."""
LARGE_AT_ONCE: Final = connections.MAX_CONNECTIONS
"""Large commands that have a connection at a time; others are queued."""


class Node:
    """Connections to one address; all are made on first use, inside the loop that uses them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.is_up = True
        """Whether the server answered when it was last asked."""
        self.latency_s = 0.0
        self.round_trips = 0
        self.errors = 0
        """Round trips without an answer, or with a refusal."""
        self._places = asyncio.Semaphore(LARGE_AT_ONCE)
        self._served = 0
        self._asked_at = 0.0
        self._asking: asyncio.Task[None] | None = None

    @cached_property
    def client(self) -> Any:
        """The redis-py client.

        Untyped: redis-py annotates every reply form of every protocol; ours is fixed (RESP2, bytes).
        """
        return connections.connect(self.url)

    @cached_property
    def shared(self) -> shared_connections.SharedConnection:
        """The connection that all short calls share."""
        return shared_connections.SharedConnection(self.url, on_lost=self._renew)

    def _renew(self) -> None:
        """Leave the other connections as well: what answers them may be no primary any more."""
        if "client" in self.__dict__:
            connections.renew(self.client)

    @property
    def losses(self) -> int:
        """How often the shared connection was lost."""
        return self.shared.losses if "shared" in self.__dict__ else 0

    async def answers(self, *, at_once: bool = False) -> bool:
        """Tell whether the server answers; it is asked if nobody did a moment ago, or `at_once`."""
        if at_once or time.monotonic() - self._asked_at >= FRESH_S:
            if self._asking is None:
                self._asking = asyncio.create_task(self._ask())
            await asyncio.shield(self._asking)  # once for all who want to know
        return self.is_up

    async def _ask(self) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(ANSWER_S):
                self.is_up = await self._ping() or await self._ping()  # the first may find a lost connection
        except TimeoutError:
            self.is_up = False
        finally:
            self._asked_at = time.monotonic()
            self.latency_s = self._asked_at - began
            self._asking = None

    async def _ping(self) -> bool:
        try:
            await self.shared.call(("PING",))
        except (failures.RedisError, OSError):
            return False
        return True

    async def send(self, commands: Sequence[tuple[Any, ...]], *, large: bool = False) -> list[Any]:
        """Send commands in one round trip, once, and return their replies in order.

        Raises:
            redis.exceptions.RedisError, OSError: no answer, or the first refusal; or keys moved to another
                shard while the commands waited for a connection.
        """
        self.round_trips += 1
        try:
            if not large:
                return await self.shared.call(*commands)
            async with self._place():
                return await self._send_large(commands)
        except (failures.RedisError, OSError):
            self.errors += 1
            raise

    @contextlib.asynccontextmanager
    async def _place(self) -> AsyncGenerator[None]:
        """Wait for a connection as long as the line moves: a thousand runs may begin in one busy process.

        Raises:
            redis.exceptions.ConnectionError: those in front got no answer, and nobody moved.
        """
        while True:
            served = self._served
            try:
                async with asyncio.timeout(connections.REPLY_TIMEOUT_S):
                    await self._places.acquire()
                break
            except TimeoutError:
                if self._served == served:
                    raise failures.ConnectionLost("No connection is free, and none became so.") from None
        try:
            yield
            self._served += 1
        finally:
            self._places.release()

    async def _send_large(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
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
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
        if "shared" in self.__dict__:
            await self.shared.close()
        if "client" in self.__dict__:
            await connections.close_sentinels(self.client)
            await self.client.aclose()
