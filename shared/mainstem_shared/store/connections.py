"""Connects to stores of every kind of address; nothing else makes connections.

redis-py's are made to honour cancellation on Python 3.11, and to fail on uvloop as connections do:

it sends each command under `asyncio.wait_for`, which before Python 3.12 drops a cancellation that comes
in the same turn of the loop as the end of the sending (python/cpython#86296). Nearly every cancel of a task
that talks to the store was lost that way. And uvloop raises a RuntimeError from a write to a transport that
was lost a turn ago.
"""

# redis-py's types are partly unknown.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

import redis
import redis.asyncio as aioredis
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection as SyncAbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.retry import Retry as SyncRetry
from redis.sentinel import Sentinel as SyncSentinel

from mainstem_shared import errors
from mainstem_shared.store import failures, keys, redaction, sentinel_addresses
from mainstem_shared.store.shard_maps import GuardedAddress

CONNECT_TIMEOUT_S: Final = 2.0
REPLY_TIMEOUT_S: Final = 5.0  # loopback or a data centre: a server silent for so long is unavailable
MAX_CONNECTIONS: Final = 32  # verbs take under a millisecond each; more would only queue in the server
_LOST_ON_UVLOOP: Final = "the handler is closed"


def connect(url: str, *, max_connections: int = MAX_CONNECTIONS) -> aioredis.Redis:
    """Return a client of `url`: `redis://`, `rediss://`, `unix://`, or one of `sentinel_addresses`.

    Waits for a free connection instead of failing beyond the cap, and never repeats a command by itself.

    Raises:
        Misconfigured: the address cannot be read.
    """
    options: dict[str, Any] = {
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": REPLY_TIMEOUT_S,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "protocol": 2,
    }
    if sentinel_addresses.is_sentinel(url):
        address = sentinel_addresses.parse(url)
        sentinel = Sentinel(
            list(address.nodes), sentinel_kwargs={"socket_timeout": CONNECT_TIMEOUT_S, **address.sentinel}
        )
        client = sentinel.master_for(address.service, db=address.db, **{**options, **address.server})
        _make_cancellable(client.connection_pool, url)
        return client
    with _reading(url):
        pool = aioredis.BlockingConnectionPool.from_url(
            url, max_connections=max_connections, timeout=REPLY_TIMEOUT_S, **options
        )
        pool.connection_class(**pool.connection_kwargs)  # opens nothing, and refuses what it does not know
    _make_cancellable(pool, url)
    return aioredis.Redis.from_pool(pool)


def renew(client: aioredis.Redis) -> None:
    """Have each connection of a client be opened anew before its next command.

    For whoever knows that another server may be at the address now: one that was demoted goes on answering
    reads on the connections that it has, with what it had then.
    """
    pool = client.connection_pool
    known: list[Any] = [*pool._available_connections, *pool._in_use_connections]  # noqa: SLF001
    for connection in known:
        connection.is_elsewhere = True


async def close_sentinels(client: aioredis.Redis) -> None:
    """Close a client's connections to Sentinels; they are opened again when it asks them the next time."""
    pool = client.connection_pool
    if isinstance(pool, SentinelConnectionPool):
        for sentinel in pool.sentinel_manager.sentinels:
            await sentinel.aclose()


BlockingClient = redis.Redis
"""What `connect_blocking` returns."""


def connect_blocking(url: str, *, timeout_s: float) -> redis.Redis:
    """Return a synchronous client, for threads that must not depend on any loop. Never repeats by itself."""
    options: dict[str, Any] = {
        "retry": SyncRetry(NoBackoff(), 0),
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "protocol": 2,
    }
    if not sentinel_addresses.is_sentinel(url):
        with _reading(url):
            client = redis.Redis.from_url(url, **options)
            blocking: Any = client.connection_pool
            blocking.connection_class(**blocking.connection_kwargs)
            _guard_blocking(blocking, url)
            return client
    address = sentinel_addresses.parse(url)
    sentinel = SyncSentinel(
        list(address.nodes), sentinel_kwargs={"socket_timeout": timeout_s, **address.sentinel}
    )
    client = sentinel.master_for(address.service, db=address.db, **{**options, **address.server})
    _guard_blocking(client.connection_pool, url)
    return client


@contextmanager
def _reading(url: str) -> Generator[None]:
    try:
        yield
    except (ValueError, TypeError):  # without the cause: what it quotes may be a piece of a password
        raise errors.Misconfigured(
            f"{redaction.redacted(url)} is no address of one server: it should be "
            "redis[s]://[user:password@]host:port/db, with special characters percent-encoded. "
            "Several servers need Sentinels: sentinel://host:port,host:port/service/db."
        ) from None


class _Cancellable(AbstractConnection):
    """Notices a cancellation that the sending of a command dropped, and a transport that is no more.

    And a server that turned out not to be the primary: the next command goes over a new connection.
    """

    is_elsewhere = False
    """Whether the address may lead to another server by now."""

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)
        except ResponseError as error:
            # Not at once: the rest of a pipeline's replies is still to be read.
            self.is_elsewhere = self.is_elsewhere or failures.is_elsewhere(error)
            raise

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:  # noqa: FBT001, FBT002
        if self.is_elsewhere:
            self.is_elsewhere = False
            await self.disconnect(nowait=True)
        task = asyncio.current_task()
        before = task.cancelling() if task else 0
        try:
            await super().send_packed_command(command, check_health)
        except RuntimeError as error:
            if _LOST_ON_UVLOOP not in str(error):
                raise
            raise RedisConnectionError("The connection was lost before the command was sent.") from error
        if task and task.cancelling() > before:
            await self.disconnect(nowait=True)  # a reply is on its way that nobody will read
            raise asyncio.CancelledError


@cache
def _cancellable(kind: type[AbstractConnection]) -> type[AbstractConnection]:
    return type(f"Cancellable{kind.__name__}", (_Cancellable, kind), {})


def _make_cancellable(pool: ConnectionPool, url: str) -> None:
    """Have a pool that has made no connection yet make such connections, and guarded ones to a shard."""
    pool.connection_class = _cancellable(pool.connection_class)
    if isinstance(url, GuardedAddress):
        guarded = (_Guarded, pool.connection_class)
        pool.connection_class = type(f"Guarded{pool.connection_class.__name__}", guarded, {"address": url})


# -- shards


_GET_MARK: Final = ("GET", keys.SHARD)


class _Guarded(AbstractConnection):
    """Reads a shard's mark as it opens, and fails if the process has an older map: callers look again.

    Only its pool opens it: a command whose place was looked up before would go out by an older map.
    """

    address: GuardedAddress
    _version_then = 0

    async def connect(self) -> None:
        self._version_then = self.address.version()
        await super().connect()

    async def on_connect_check_health(self, check_health: bool = True) -> None:  # noqa: FBT001, FBT002
        await super().on_connect_check_health(check_health)
        await self.send_command(*_GET_MARK, check_health=False)
        _compare(self.address, self._version_then, await self.read_response())

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:  # noqa: FBT001, FBT002
        if not self.is_connected:
            raise RedisConnectionError("The connection was lost before the command was sent.")
        await super().send_packed_command(command, check_health)


class _GuardedBlocking(SyncAbstractConnection):
    """The same for a thread, whose map nobody else changes: it may open whenever it is used."""

    address: GuardedAddress

    def on_connect_check_health(self, check_health: bool = True) -> None:  # noqa: FBT001, FBT002
        then = self.address.version()
        super().on_connect_check_health(check_health)
        self.send_command(*_GET_MARK, check_health=False)
        _compare(self.address, then, self.read_response())


def _compare(address: GuardedAddress, version_then: int, mark: Any) -> None:
    address.heard(mark)
    if version_then not in (0, address.version()):
        raise RedisConnectionError("Buckets have moved between shards: look again where the key is.")


def _guard_blocking(pool: Any, url: str) -> None:
    if isinstance(url, GuardedAddress):
        kinds = (_GuardedBlocking, pool.connection_class)
        pool.connection_class = type(f"Guarded{pool.connection_class.__name__}", kinds, {"address": url})
