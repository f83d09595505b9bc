"""`Store` runs verbs and commands with Mainstem's own retry policy.

redis-py's retries know nothing of idempotence, so they are off: a verb carries a nonce and is repeated here
after a lost reply. Verbs share one connection (`shared_connections`); everything else goes through redis-py's
pool. Blocking reads and the event writer have connections of their own (`raw_connections`).
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import cached_property
from importlib import resources
from typing import TYPE_CHECKING, Any, Final, TypeVar

from redis.exceptions import NoScriptError, RedisError

from mainstem_shared import errors
from mainstem_shared.store import connections, failures, shared_connections

if TYPE_CHECKING:
    from mainstem_shared.archive.database import Archive

T = TypeVar("T")

FIRST_DELAY_S: Final = 0.02
LONGEST_DELAY_S: Final = 1.0
LARGE: Final = 64 * 1024
"""Bytes of one argument with which a verb goes over a connection of its own: nobody shall wait behind it."""

_LUA = resources.files("mainstem_shared") / "transitions" / "lua"
_PRELUDE: Final = (_LUA / "_prelude.lua").read_text("utf-8")


class Script:
    """One verb's Lua source, with the prelude that all share, and its digest."""

    def __init__(self, name: str, *, large: bool = False) -> None:
        self.name = name
        self.large = large
        """Whether its replies may be megabytes."""
        shebang, _, body = (_LUA / f"{name}.lua").read_text("utf-8").partition("\n")
        self.source = f"{shebang}\n{_PRELUDE}{body}"
        self.digest = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


class Store:
    """A client of the store that repeats what may be repeated, for as long as its caller has patience."""

    def __init__(self, url: str, *, patience_s: float = 2.0, archive: Archive | None = None) -> None:
        self.url = url
        self.archive = archive
        """Where finished runs go from here, and who reads them looks next; closed with the store."""
        self.patience_s = patience_s

    @cached_property
    def client(self) -> Any:
        """The redis-py client; made on first use, inside the loop that uses it.

        Untyped: redis-py annotates every reply form of every protocol; ours is fixed (RESP2, bytes).
        """
        return connections.connect(self.url)

    @cached_property
    def shared(self) -> shared_connections.SharedConnection:
        """The connection that all short calls share; made like `client`."""
        return shared_connections.SharedConnection(self.url)

    async def close(self) -> None:
        """Close all connections."""
        if "shared" in self.__dict__:
            await self.shared.close()
        if "client" in self.__dict__:
            await connections.close_sentinels(self.client)
            await self.client.aclose()
        if self.archive is not None:
            await self.archive.close()

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

    async def verbs(self, script: Script, calls: Sequence[tuple[Sequence[str], Sequence[Any]]]) -> list[Any]:
        """Run a verb many times, each time with its keys and arguments; returns its answers, in order.

        Raises:
            StoreUnavailable: as `verb`; some or all of them have run.
        """
        if not calls:
            return []
        first = await self.verb(script, *calls[0])  # from then on the server knows the script
        rest = (("EVALSHA", script.digest, len(named), *named, *args) for named, args in calls[1:])
        return [first, *await self.commands(*rest, large=True)]

    async def _evaluate(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> list[Any]:
        large = script.large or any(isinstance(arg, bytes) and len(arg) > LARGE for arg in args)
        call = self._call_alone if large else self.call
        try:
            return await call("EVALSHA", script.digest, len(keys), *keys, *args)
        except NoScriptError:
            return await call("EVAL", script.source, len(keys), *keys, *args)

    async def command(self, *command: Any, patience_s: float | None = None, large: bool = False) -> Any:
        """Send one command and return its reply. It must be safe to repeat.

        Raises:
            StoreUnavailable: as `commands`.
        """
        return (await self.commands(command, patience_s=patience_s, large=large))[0]

    async def commands(
        self, *commands: tuple[Any, ...], patience_s: float | None = None, large: bool = False
    ) -> list[Any]:
        """Send commands in one round trip and return their replies, in order. Repeating them must be safe.

        Replies are as the server sends them: integers, bytes, None, and flat lists of these. `large`: an
        argument or a reply may have many kilobytes; it goes over a connection of its own.

        Raises:
            StoreUnavailable: no answer within `patience_s`, or the server is out of memory.
        """
        if not commands:
            return []
        send = self._send_alone if large else self.shared.call
        return await self.patiently(lambda: send(*commands), patience_s=patience_s)

    async def _send_alone(self, *commands: tuple[Any, ...]) -> list[Any]:
        if len(commands) == 1:
            return [await self.client.execute_command(*commands[0])]
        async with self.client.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            return await pipe.execute()

    async def call(self, *command: Any) -> Any:
        """Send one short command over the shared connection, once; raises as `SharedConnection.call`."""
        return (await self.shared.call(command))[0]

    async def _call_alone(self, *command: Any) -> Any:
        return await self.client.execute_command(*command)

    async def patiently(self, operation: Callable[[], Awaitable[T]], *, patience_s: float | None = None) -> T:
        """Run an idempotent operation, repeated while the store is unavailable, within `patience_s`.

        Raises:
            StoreUnavailable: it never answered, or refused for as long as that (for want of memory: at once).
        """
        deadline = time.monotonic() + (self.patience_s if patience_s is None else patience_s)
        delay = FIRST_DELAY_S
        while True:
            wait = delay * random.uniform(0.5, 1.5)
            try:
                return await operation()
            except (RedisError, OSError) as error:
                if failures.is_out_of_memory(error):
                    raise errors.StoreUnavailable("The store is out of memory and refuses writes.") from error
                if not failures.is_transient(error):
                    raise
                if time.monotonic() + wait > deadline:
                    raise errors.StoreUnavailable from error
            await asyncio.sleep(wait)
            delay = min(2 * delay, LONGEST_DELAY_S)
