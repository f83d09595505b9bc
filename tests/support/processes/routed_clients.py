"""Clients of a store of several servers, for tests that look into it: each command goes where its key is.

What has no key goes to all servers, and their replies are put together. The same calls as on one server's client.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import redis
import redis.asyncio
from redis.asyncio.client import Pipeline as AsyncPipeline
from redis.client import Pipeline

from mainstem_shared.store import failures, keys
from mainstem_shared.store.blocking import BlockingStore
from mainstem_shared.store.client import Store
from mainstem_shared.store.connections import connect_blocking

_OF_EACH_KEY = frozenset({"EXISTS", "DEL", "UNLINK", "TOUCH"})
"""Commands of many keys that are counted: each goes by itself."""
PATIENCE_S = 5.0
"""For how long a key may be on its way."""
_SPECIAL = frozenset({"SCAN", "FLUSHDB", "FLUSHALL", "DBSIZE"})
_WITHOUT_KEY = frozenset(
    {
        "KEYS",
        "SCAN",
        "DBSIZE",
        "FLUSHDB",
        "FLUSHALL",
        "INFO",
        "CONFIG",
        "SCRIPT",
        "PING",
        "ECHO",
        "CLIENT",
        "TIME",
    }
)


def _words(args: Sequence[Any]) -> list[Any]:
    """Return a command's words: redis-py has some names of two words in one."""
    return [*str(args[0]).upper().split(), *args[1:]]


def _keys_of(args: Sequence[Any]) -> list[Any]:
    """Return the keys of a command; none: it goes to all servers."""
    words = _words(args)
    if words[0] in _WITHOUT_KEY:
        return []
    if words[0] in _OF_EACH_KEY:
        return words[1:]
    if words[0] in ("EVAL", "EVALSHA"):
        return [words[3]]
    if words[0] in ("MEMORY", "XINFO", "OBJECT"):
        return [words[2]]
    if words[0] == "XREAD":
        after = [str(word).upper() for word in words].index("STREAMS") + 1
        return [words[after]]
    return [words[1]]


def flush(client: Any) -> None:
    """Delete all keys of one server but its mark of a static shard: processes go by it."""
    mark = client.get(keys.SHARD) if not client.info("cluster")["cluster_enabled"] else None
    client.flushall()
    if mark is not None:
        client.set(keys.SHARD, mark)


async def _flush(client: Any) -> None:
    mark = await client.get(keys.SHARD) if not (await client.info("cluster"))["cluster_enabled"] else None
    await client.flushall()
    if mark is not None:
        await client.set(keys.SHARD, mark)


def _together(args: Sequence[Any], replies: list[Any]) -> Any:
    """Put the replies of all servers together."""
    name = " ".join(str(word).upper() for word in _words(args)[:2])
    if name.split()[0] == "KEYS" or name == "CLIENT LIST":
        return [one for reply in replies for one in reply]
    return replies[0]


class RoutedPipeline(Pipeline):
    """Sends what was collected one by one, in order."""

    def execute(self, raise_on_error: bool = True) -> list[Any]:  # noqa: FBT001, FBT002 - redis-py's signature
        collected, self.command_stack = self.command_stack, []
        return [self.routed.execute_command(*args, **options) for args, options in collected]


class RoutedClient(redis.Redis):
    """A blocking client of all servers of a store, with text replies if not told otherwise."""

    def __init__(self, url: str, *, text: bool = True) -> None:
        super().__init__(decode_responses=text)
        self._text = text
        self._where = BlockingStore(url, timeout_s=5)
        self._where.check()
        self._clients: dict[str, redis.Redis] = {}

    def execute_command(self, *args: Any, **options: Any) -> Any:
        name, found = _words(args)[0], _keys_of(args)
        if name in self._special:
            return self._special[name](args)
        if not found:
            return _together(args, [client.execute_command(*args, **options) for client in self._all()])
        if len(found) > 1:
            return sum(self.execute_command(args[0], key) for key in found)
        return self._patiently(found[0], args, options)

    def _patiently(self, key: Any, args: Sequence[Any], options: dict[str, Any]) -> Any:
        """Send a command to the server that has its key, which may be on its way to another."""
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self._client(self._where.topology.node_of(key)).execute_command(*args, **options)
            except (redis.ConnectionError, redis.ResponseError) as error:
                if time.monotonic() > until or not failures.may_have_moved(error):
                    raise
            with contextlib.suppress(redis.RedisError, OSError):
                self._where.refresh()
            time.sleep(0.02)

    @cached_property
    def _special(self) -> dict[str, Callable[[Sequence[Any]], Any]]:
        """Commands to all servers whose replies are no lists."""
        return {
            "SCAN": lambda args: (0, [k for it in self._all() for k in it.scan_iter(**_scanned(args))]),
            "FLUSHDB": lambda _: [flush(client) for client in self._all()],
            "FLUSHALL": lambda _: [flush(client) for client in self._all()],
            "DBSIZE": lambda _: len([key for key in self.keys() if keys.SHARD not in str(key)]),
        }

    def _all(self) -> list[redis.Redis]:
        return [self._client(node) for node in self._where.nodes()]

    def _client(self, node: str) -> redis.Redis:
        """Return a connection that is closed when a mover comes by, and that hears then where keys are."""
        if node not in self._clients:
            made = self._clients[node] = connect_blocking(node, timeout_s=20)
            made.connection_pool.connection_kwargs["decode_responses"] = self._text
        return self._clients[node]

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Any:  # noqa: FBT001, FBT002 - redis-py's signature
        made = RoutedPipeline(
            self.connection_pool, self.response_callbacks, transaction=False, shard_hint=shard_hint
        )
        made.routed = self
        return made

    def close(self) -> None:
        for client in self._clients.values():
            client.close()
        self._where.close()
        super().close()


class RoutedAsyncPipeline(AsyncPipeline):
    """Sends what was collected one by one, in order."""

    async def execute(self, raise_on_error: bool = True) -> list[Any]:  # noqa: FBT001, FBT002 - redis-py's signature
        collected, self.command_stack = self.command_stack, []
        return [await self.routed.execute_command(*args, **options) for args, options in collected]


class RoutedAsyncClient(redis.asyncio.Redis):
    """A client of all servers of a store, by that store's own connections; it has nothing to close."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        name, found = _words(args)[0], _keys_of(args)
        if name in _SPECIAL:
            return await self._of_all(name, args)
        if not found:
            return _together(args, [await it.execute_command(*args, **options) for it in await self._all()])
        if len(found) > 1:
            return sum([await self.execute_command(args[0], key) for key in found])
        node = await self._store.node_of(found[0])
        return await node.client.execute_command(*args, **options)

    async def _of_all(self, name: str, args: Sequence[Any]) -> Any:
        if name == "DBSIZE":
            return len([key for key in await self.keys() if key != keys.SHARD.encode()])
        clients = await self._all()
        if name == "SCAN":
            return 0, [key for client in clients async for key in client.scan_iter(**_scanned(args))]
        return [await _flush(client) for client in clients]

    async def _all(self) -> list[Any]:
        return [node.client for node in await self._store.nodes()]

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Any:  # noqa: FBT001, FBT002 - redis-py's signature
        made = RoutedAsyncPipeline(
            self.connection_pool, self.response_callbacks, transaction=False, shard_hint=shard_hint
        )
        made.routed = self
        return made


def _scanned(args: Sequence[Any]) -> dict[str, Any]:
    """Return what a SCAN asks for."""
    words = [word.decode() if isinstance(word, bytes) else word for word in args]
    match = words[words.index("MATCH") + 1] if "MATCH" in words else "*"
    return {"match": match, "count": 1000}


def look_through_all_servers() -> None:
    """Have `Store.client`, the only server's client, be one of all servers for whoever asks for it in a test."""

    def client(store: Store) -> Any:
        only = store.topology.only
        return RoutedAsyncClient(store) if only is None else store.node(only).client

    Store.client = property(client)
