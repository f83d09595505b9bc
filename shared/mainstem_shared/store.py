"""The connection to the store, with Mainstem's own retry policy; scripts by digest.

redis-py's retries know nothing of idempotence, so they are off: a verb carries a nonce and is repeated
here after a lost reply. Blocking reads and the event writer have connections of their own (`pipes`).
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import cached_property
from importlib import resources
from typing import Any, Final, TypeVar

import redis
import redis.asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import (
    BusyLoadingError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
)
from redis.exceptions import (
    TimeoutError as RedisTimeoutError,
)
from redis.retry import Retry as SyncRetry
from redis.sentinel import Sentinel as SyncSentinel

from mainstem_shared import connections, errors

T = TypeVar("T")

# The server is away, loads its data, or a fail-over is under way: the same call may succeed shortly.
TRANSIENT: Final = (RedisConnectionError, RedisTimeoutError, BusyLoadingError, ReadOnlyError, OSError)
# The same, where redis-py has no class for it: no replica or no disk, a script in the way, moving slots.
_TRANSIENT_CODES: Final = ("NOREPLICAS", "MASTERDOWN", "MISCONF", "BUSY ", "CLUSTERDOWN", "TRYAGAIN")

CONNECT_TIMEOUT_S: Final = 2.0
REPLY_TIMEOUT_S: Final = 5.0  # loopback or a data centre: a server silent for so long is away
MAX_CONNECTIONS: Final = 32  # verbs take under a millisecond each; more would only queue in the server
FIRST_DELAY_S: Final = 0.02
LONGEST_DELAY_S: Final = 1.0

_LUA = resources.files("mainstem_shared") / "lua"
_PRELUDE: Final = (_LUA / "_prelude.lua").read_text("utf-8")


class Script:
    """One verb's Lua source, with the prelude that all share, and its digest."""

    def __init__(self, name: str) -> None:
        self.name = name
        shebang, _, body = (_LUA / f"{name}.lua").read_text("utf-8").partition("\n")
        self.source = f"{shebang}\n{_PRELUDE}{body}"
        self.digest = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


def now_ms() -> int:
    """Wall-clock milliseconds since the epoch, as stored in records."""
    return time.time_ns() // 1_000_000


def connect(url: str, *, max_connections: int = MAX_CONNECTIONS) -> aioredis.Redis:
    """Return a client of `url`: `redis://`, `rediss://`, `unix://`, or `sentinel://host:port,…/service/db`.

    Waits for a free connection instead of failing beyond the cap, and never repeats a command by itself.
    """
    options: dict[str, Any] = {
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": REPLY_TIMEOUT_S,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "protocol": 2,
    }
    if (address := _sentinel_address(url)) is not None:
        nodes, service, database = address
        sentinel = Sentinel(nodes, sentinel_kwargs={"socket_timeout": CONNECT_TIMEOUT_S})
        client = sentinel.master_for(service, db=database, **options)
        connections.make_cancellable(client.connection_pool)
        return client
    pool = aioredis.BlockingConnectionPool.from_url(
        url, max_connections=max_connections, timeout=REPLY_TIMEOUT_S, **options
    )
    connections.make_cancellable(pool)
    return aioredis.Redis.from_pool(pool)


def connect_blocking(url: str, *, timeout_s: float) -> redis.Redis:
    """Return a synchronous client, for threads that must not depend on any loop. Never repeats by itself."""
    options: dict[str, Any] = {
        "retry": SyncRetry(NoBackoff(), 0),
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "protocol": 2,
    }
    if (address := _sentinel_address(url)) is None:
        return redis.Redis.from_url(url, **options)
    nodes, service, database = address
    return SyncSentinel(nodes, sentinel_kwargs={"socket_timeout": timeout_s}).master_for(
        service, db=database, **options
    )


def _sentinel_address(url: str) -> tuple[list[tuple[str, int]], str, int] | None:
    """Take `sentinel://host:port,…/service/db` apart; None for any other URL."""
    if not url.startswith("sentinel://"):
        return None
    hosts, _, rest = url.removeprefix("sentinel://").partition("/")
    service, _, database = rest.partition("/")
    nodes = [(host, int(port or 26379)) for host, _, port in (h.partition(":") for h in hosts.split(","))]
    return nodes, service, int(database or 0)


class Store:
    """A client of the store that repeats what may be repeated, for as long as its caller has patience."""

    def __init__(self, url: str, *, patience_s: float = 2.0) -> None:
        self.url = url
        self.patience_s = patience_s

    @cached_property
    def client(self) -> Any:
        """The redis-py client; made on first use, inside the loop that uses it.

        Untyped: redis-py annotates every reply form of every protocol; ours is fixed (RESP2, bytes).
        """
        return connect(self.url)

    async def close(self) -> None:
        """Close all connections."""
        if "client" in self.__dict__:
            await self.client.aclose()

    async def verb(
        self,
        script: Script,
        keys: Sequence[str],
        args: Sequence[Any] = (),
        *,
        patience_s: float | None = None,
    ) -> list[Any]:
        """Run a verb. It must be safe to repeat: by its nonce, or because repeating changes nothing.

        Raises:
            StoreUnavailable: no answer within `patience_s`, or the server is out of memory.
        """
        return await self.patiently(lambda: self._evaluate(script, keys, args), patience_s=patience_s)

    async def _evaluate(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> list[Any]:
        try:
            return await self.client.evalsha(script.digest, len(keys), *keys, *args)
        except NoScriptError:
            return await self.client.eval(script.source, len(keys), *keys, *args)

    async def patiently(self, operation: Callable[[], Awaitable[T]], *, patience_s: float | None = None) -> T:
        """Run an idempotent operation, again and again while the store is away, within `patience_s`.

        Raises:
            StoreUnavailable: it never answered, or refuses writes for want of memory.
        """
        deadline = time.monotonic() + (self.patience_s if patience_s is None else patience_s)
        delay = FIRST_DELAY_S
        while True:
            wait = delay * random.uniform(0.5, 1.5)
            try:
                return await operation()
            except (*TRANSIENT, ResponseError) as error:
                if is_out_of_memory(error):
                    raise errors.StoreUnavailable("The store is out of memory and refuses writes.") from error
                if not is_transient(error):
                    raise
                if time.monotonic() + wait > deadline:
                    raise errors.StoreUnavailable from error
            await asyncio.sleep(wait)
            delay = min(2 * delay, LONGEST_DELAY_S)


def is_transient(error: BaseException) -> bool:
    """Tell whether the same call may succeed shortly."""
    return isinstance(error, TRANSIENT) or str(error).startswith(_TRANSIENT_CODES)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether the server refused a write because `maxmemory` is reached."""
    return isinstance(error, OutOfMemoryError) or str(error).startswith(("OOM", "command not allowed when"))
