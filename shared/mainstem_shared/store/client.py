"""`Store` runs verbs and commands with Mainstem's own retry policy, on the servers that have their keys.

redis-py's retries know nothing of idempotence, so they are off: a verb carries a nonce and is repeated here
after a lost reply. Verbs share one connection for each server (`nodes`); everything else goes through
redis-py's pools. Blocking reads and the event writer have connections of their own (`raw_connections`).
Which server has a key says the store's topology (`topologies`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any, Final, TypeVar

from redis.exceptions import AskError, NoScriptError, RedisError

from mainstem_shared import errors
from mainstem_shared.model import time as clock
from mainstem_shared.store import failures, shared_connections, topologies
from mainstem_shared.store.nodes import Node

if TYPE_CHECKING:
    from mainstem_shared.archive.database import Archive

T = TypeVar("T")

FIRST_DELAY_S: Final = 0.02
LONGEST_DELAY_S: Final = 1.0
QUERY_TIMEOUT_S: Final = 1.0
"""How long a server may take to say which slots there are, before another one is asked."""
_UNANSWERED: Final = object()
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
        self.appends = "append_control(" in body
        """Whether it appends to a log, so that whoever reads the log is to be woken."""
        self.digest = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


class Store:
    """A client of the store that repeats what may be repeated, for as long as its caller has patience."""

    def __init__(self, url: str, *, patience_s: float = 2.0, archive: Archive | None = None) -> None:
        self.url = url
        self.topology = topologies.of(url)
        self.archive = archive
        """Where finished runs go from here, and who reads them looks next; closed with the store."""
        self.patience_s = patience_s
        self.connections: dict[str, Node] = {}
        """The servers that this process is connected to, by address."""
        self._refresh: asyncio.Task[None] | None = None

    def node(self, url: str) -> Node:
        """Return this process's connections to one of the store's servers."""
        found = self.connections.get(url)
        if found is None:
            found = self.connections[url] = Node(url)
        return found

    async def nodes(self) -> list[Node]:
        """Return all servers of the store.

        Raises:
            redis.exceptions.RedisError, OSError: nobody says which there are.
            Misconfigured: they are others than the address means.
        """
        if not self.topology.nodes:
            await self.refresh()
        return [self.node(url) for url in self.topology.nodes]

    @property
    def client(self) -> Any:
        """The redis-py client of the one server."""
        return self.node(self.topology.only or self.topology.nodes[0]).client

    @property
    def shared(self) -> shared_connections.SharedConnection:
        """The connection to the one server that all short calls share."""
        return self.node(self.topology.only or self.topology.nodes[0]).shared

    @property
    def losses(self) -> int:
        """How often a connection was lost: after each, another server may answer."""
        return sum(node.losses for node in self.connections.values())

    async def close(self) -> None:
        """Close all connections."""
        if self._refresh is not None:
            self._refresh.cancel()
            await asyncio.gather(self._refresh, return_exceptions=True)
        for node in self.connections.values():
            await node.close()
        if self.archive is not None:
            await self.archive.close()

    # -- where keys are

    async def refresh(self, *, first: str | None = None, thorough: bool = False) -> None:
        """Bring the topology up to date, once for all who ask meanwhile; `first` is asked at first.

        `thorough`: also where a server would say so that something has changed.

        Raises:
            redis.exceptions.RedisError, OSError: nobody who can say it answers.
            Misconfigured: the servers are others than the address means.
        """
        if self._refresh is None:
            queries = self.topology.queries(first=first, thorough=thorough)
            if queries is None:
                return
            self._refresh = asyncio.create_task(self._refresh_by(queries))
            self._refresh.add_done_callback(self._refreshed)
        await asyncio.shield(self._refresh)

    def _refreshed(self, task: asyncio.Task[None]) -> None:
        self._refresh = None
        if not task.cancelled():
            task.exception()  # whoever waited has it; nobody may have

    async def _refresh_by(self, queries: topologies.Queries) -> None:
        try:
            url, command = next(queries)
            while True:
                try:
                    async with asyncio.timeout(QUERY_TIMEOUT_S):
                        (reply,) = await self.node(url).shared.call(command)
                except (RedisError, OSError, TimeoutError) as error:
                    url, command = queries.throw(error)
                else:
                    url, command = queries.send(reply)
        except StopIteration:
            return

    async def node_of(self, key: str | bytes) -> Node:
        """Return the server that has a key.

        Raises:
            redis.exceptions.RedisError, OSError: nobody says which it is.
            Misconfigured: the servers are others than the address means.
        """
        try:
            return self.node(self.topology.node_of(key))
        except topologies.Unlearned:
            await self.refresh()
            return self.node(self.topology.node_of(key))

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
        commands = [("EVALSHA", script.digest, len(named), *named, *args) for named, args in calls]
        try:
            return await self.commands(*commands, large=True)
        except NoScriptError:
            await self.patiently(lambda: self._load(script, [named[0] for named, _ in calls]))
            return await self.commands(*commands, large=True)

    async def _load(self, script: Script, names: Sequence[str]) -> None:
        """Have the servers of these keys know a script."""
        nodes = {await self.node_of(name) for name in names}
        await asyncio.gather(*(node.send([("SCRIPT", "LOAD", script.source)]) for node in nodes))

    async def _evaluate(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> list[Any]:
        large = script.large or any(isinstance(arg, bytes) and len(arg) > LARGE for arg in args)
        node = await self.node_of(keys[0])
        wakes = [_wake_of(keys[0])] if script.appends and self.topology.by_slot else []
        rest = (len(keys), *keys, *args)
        try:
            return (await node.send([("EVALSHA", script.digest, *rest), *wakes], large=large))[0]
        except NoScriptError:
            return (await node.send([("EVAL", script.source, *rest), *wakes], large=large))[0]
        except AskError as error:
            return await self._ask(error, ("EVAL", script.source, *rest))

    async def _ask(self, error: AskError, command: tuple[Any, ...]) -> Any:
        """Ask the node that a slot is on its way to: it answers for keys that have arrived, when told so."""
        assert isinstance(self.topology, topologies.Cluster)
        told: Any = error  # its address has no types
        heir = self.node(self.topology.address_of(told.host, told.port))
        return (await heir.send([("ASKING",), command]))[1]

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
        replies = [_UNANSWERED] * len(commands)
        return await self.patiently(lambda: self._send(commands, replies, large=large), patience_s=patience_s)

    async def _send(
        self, commands: Sequence[tuple[Any, ...]], replies: list[Any], *, large: bool
    ) -> list[Any]:
        """Send the commands that have no reply yet, each to the server that has its key, to all at once."""
        if self.topology.only is not None:
            return await self.node(self.topology.only).send(commands, large=large)
        by_node: dict[Node, list[int]] = {}
        for place, command in enumerate(commands):
            if replies[place] is _UNANSWERED:
                by_node.setdefault(await self.node_of(topologies.key_of(command)), []).append(place)
        sent = (
            self._send_to(node, [commands[place] for place in places], large=large)
            for node, places in by_node.items()
        )
        answers = await asyncio.gather(*sent, return_exceptions=True)
        failure: BaseException | None = None
        for places, answer in zip(by_node.values(), answers, strict=True):
            if isinstance(answer, BaseException):
                failure = answer
                continue
            for place, reply in zip(places, answer, strict=True):
                replies[place] = reply
        if failure is not None:
            raise failure
        return replies

    async def _send_to(self, node: Node, commands: list[tuple[Any, ...]], *, large: bool) -> list[Any]:
        try:
            return await node.send(commands, large=large)
        except AskError as error:  # of one of them: each goes alone where it is
            if len(commands) == 1:
                return [await self._ask(error, commands[0])]
        return [reply for one in commands for reply in await self._send_to(node, [one], large=large)]

    async def unavailable(self) -> list[Node]:
        """Ask each server whether it is there; returns those that are not.

        Raises:
            StoreUnavailable: none is, or nobody says which there are.
        """
        try:
            nodes = await self.nodes()
        except (RedisError, OSError) as error:
            raise errors.StoreUnavailable from error
        found = await asyncio.gather(*(node.answers(at_once=True) for node in nodes))
        if not any(found):
            raise errors.StoreUnavailable
        return [node for node, is_there in zip(nodes, found, strict=True) if not is_there]

    async def there(self, names: Sequence[str], *, missed: set[str] | None = None) -> list[bool]:
        """Tell for each of these keys whether its server is there: a look at many goes on without the rest.

        The only server of a store is taken to be, and is not asked: a call of it tells. `missed` gets the
        addresses of servers that are not, and an empty one if it is not known which has one of the keys.

        Raises:
            StoreUnavailable: none of them is there.
        """
        if self.topology.only is not None or not names:
            return [True] * len(names)
        places = self._places(names)
        if None in places:
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                await self.refresh()
            places = self._places(names)
        nodes = [self.node(url) for url in dict.fromkeys(places) if url is not None]
        found = await asyncio.gather(*(node.answers() for node in nodes))
        up = {node.url for node, is_there in zip(nodes, found, strict=True) if is_there}
        if not up:
            raise errors.StoreUnavailable
        if missed is not None:
            missed |= {place or "" for place in places} - up
        return [place in up for place in places]

    def _places(self, names: Sequence[str]) -> list[str | None]:
        found: list[str | None] = []
        for name in names:
            try:
                found.append(self.topology.node_of(name))
            except topologies.Unlearned:
                found.append(None)
        return found

    async def learn_time(self) -> None:
        """Know the store's time from here on: what is written next, others compare with theirs.

        Raises:
            StoreUnavailable: as `each`.
        """
        if not clock.CLOCK.is_known:
            await self.each("PING")  # connections ask for the time as they open

    async def each(self, *command: Any, patience_s: float | None = None) -> list[Any]:
        """Send one command to each server; returns their replies. Repeating it must be safe.

        Raises:
            StoreUnavailable: one of them does not answer within `patience_s`.
        """

        async def send() -> list[Any]:
            nodes = await self.nodes()
            return [reply for (reply,) in await asyncio.gather(*(node.send([command]) for node in nodes))]

        return await self.patiently(send, patience_s=patience_s)

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
                await self._refresh_topology(error)
            await asyncio.sleep(wait)
            delay = min(2 * delay, LONGEST_DELAY_S)

    async def _refresh_topology(self, error: BaseException) -> None:
        """Ask where keys are after a failure that may have come of not knowing it; the next attempt tells."""
        if failures.may_have_moved(error):
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                await self.refresh()


def _wake_of(key: str) -> tuple[str, str, str]:
    """Return the command that wakes whoever follows a run of the key's bucket on a Cluster."""
    return "SPUBLISH", f"{key[: key.index('}') + 1]}:appended", ""
