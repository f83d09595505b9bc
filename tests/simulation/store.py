"""The simulated store: servers that speak RESP, run the shipped Lua verbs and let readers block.

A node is one server process with its data. A store is what stands at the address: its primary, which a fail-over
replaces by one that had heard less.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import hiredis

from mainstem_shared import transitions
from mainstem_shared.store.client import Script
from model.redis_in_process import CommandError
from model.scripts import SHIPPED, Interpreter
from simulation.commands import StoreDatabase
from simulation.network import Network, Wire
from simulation.timeline import Timeline, Timer

NAMES: Final = {
    hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest(): name for name, source in SHIPPED.items()
}
"""Verbs by digest."""
_READS: Final = frozenset(
    [
        "GET",
        "EXISTS",
        "HGET",
        "HMGET",
        "HGETALL",
        "HKEYS",
        "HLEN",
        "HEXISTS",
        "ZRANGE",
        "ZREVRANGE",
        "ZCARD",
        "ZSCORE",
        "ZCOUNT",
        "ZRANGEBYSCORE",
        "ZREVRANGEBYSCORE",
        "SMEMBERS",
        "SCARD",
        "XRANGE",
        "XREVRANGE",
        "XLEN",
        "PTTL",
        "PEXPIRETIME",
        "LLEN",
        "LINDEX",
        "TIME",
        "PING",
        "INFO",
        "ROLE",
        "XREAD",
        "CLIENT",
        "SELECT",
        "SCRIPT",
        "MULTI",
        "EXEC",
    ]
)
_READING: Final = frozenset(
    value.name
    for value in vars(transitions).values()
    if isinstance(value, Script) and "no-writes" in value.source.partition("\n")[0]
)
_EMPTY: Final = {
    b"ZRANGE": b"*0\r\n",
    b"ZCARD": b":0\r\n",
    b"ZCOUNT": b":0\r\n",
    b"ZREMRANGEBYSCORE": b":0\r\n",
}
"""Replies where there is no such key: nine tenths of all commands are looks at indexes of empty buckets."""
RESYNC_S: Final = 1.0
"""For how long a demoted primary serves what it had."""
_NIL_LIST: Final = b"*-1\r\n"
_READONLY: Final = CommandError("READONLY You can't write against a read only replica.")


class Blocked:
    """A reader that waits for entries."""

    def __init__(self, streams: list[tuple[str, str]], count: int) -> None:
        self.streams = streams
        self.count = count
        self.timer: Timer | None = None


class Session:
    """What a server knows of one connection."""

    def __init__(self) -> None:
        self.reader = hiredis.Reader()
        self.waiting: deque[list[bytes]] = deque()
        self.blocked: Blocked | None = None
        self.queued: list[list[bytes]] | None = None


class Node:
    """One server process."""

    def __init__(
        self,
        timeline: Timeline,
        network: Network,
        interpreter: Interpreter,
        *,
        name: str,
        data: StoreDatabase,
    ) -> None:
        self.timeline = timeline
        self.name = name
        self.data = data
        self.is_replica = False
        self.clock_ahead_s = 0.0
        self.slow_s = 0.0
        """How long each message takes it, on top of nothing."""
        self.commands = 0
        self._free_at = 0.0
        self._network = network
        self._interpreter = interpreter
        self._sessions: dict[Wire, Session] = {}
        self._scripts: set[str] = set()
        self._readers: dict[str, dict[Wire, None]] = {}
        self._special: dict[str, Callable[[Wire, Session, list[bytes]], Any]] = {
            "EVALSHA": self._evalsha, "EVAL": self._eval, "SCRIPT": self._script, "XREAD": self._xread,
            "INFO": self._info, "ROLE": self._role, "TIME": self._time, "PING": lambda *_: "PONG",
            "CLIENT": lambda *_: "OK", "SELECT": lambda *_: "OK", "MULTI": self._multi, "EXEC": self._exec,
        }  # fmt: skip

    # -- connections

    def accept(self, wire: Wire) -> None:
        self._sessions[wire] = Session()

    def received(self, wire: Wire, data: bytes) -> None:
        now = self.timeline.now
        if self.slow_s or self._free_at > now:  # one after the other, in the order of arrival
            self._free_at = max(self._free_at, now) + self.slow_s + 1e-7
            self.timeline.at(self._free_at, lambda: self._received(wire, data))
        else:
            self._received(wire, data)

    def _received(self, wire: Wire, data: bytes) -> None:
        session = self._sessions.get(wire)
        if session is None:
            return
        session.reader.feed(data)
        while (command := session.reader.gets()) is not False:
            session.waiting.append(command)
        self._serve(wire, session)

    def closed(self, wire: Wire) -> None:
        session = self._sessions.pop(wire, None)
        if session is not None:
            self._unblock(wire, session)

    def hang_up(self) -> None:
        """Break all connections."""
        for wire in list(self._sessions):
            wire.break_()

    def demote(self, heir: Node) -> None:
        """Become a replica: writes are refused, blocked readers are told. It has the heir's data a moment later."""
        self.is_replica = True
        self.follow(heir)
        for wire, session in list(self._sessions.items()):
            if session.blocked is not None:
                self._unblock(wire, session)
                wire.reply(encode(CommandError("UNBLOCKED force unblock from blocking operation")))

    def follow(self, primary: Node) -> None:
        """Have the data of a primary, from a moment later on."""
        self.timeline.after(RESYNC_S, lambda: setattr(self, "data", primary.data))

    # -- commands

    def _serve(self, wire: Wire, session: Session) -> None:
        replies: list[bytes] = []
        waiting, data = session.waiting, self.data
        self._set_time()
        while waiting and session.blocked is None:
            command = waiting.popleft()
            empty = _EMPTY.get(command[0])
            if empty and session.queued is None and command[1].decode("latin-1") not in data.data:
                self.commands += 1
                replies.append(empty)
                continue
            reply = self._execute(wire, session, command)
            if session.blocked is None:
                replies.append(encode(reply))
        if replies:
            wire.reply(b"".join(replies))
        if self.data.appended:
            self._wake()

    def _set_time(self) -> None:
        self.data.now = int((self.timeline.wall_s + self.clock_ahead_s) * 1000)
        self.data._expire()

    def _execute(self, wire: Wire, session: Session, command: list[bytes]) -> Any:
        name = command[0].decode().upper()
        if session.queued is not None and name != "EXEC":
            session.queued.append(command)
            return "QUEUED"
        self.commands += 1
        try:
            if self.is_replica and name not in _READS and not self._only_reads(command):
                return _READONLY
            special = self._special.get(name)
            if special is not None:
                return special(wire, session, command)
            return self.data.call(name, *command[1:])
        except CommandError as error:
            return error

    @staticmethod
    def _only_reads(command: list[bytes]) -> bool:
        return command[0] == b"EVALSHA" and NAMES.get(command[1].decode()) in _READING

    def _multi(self, _: Wire, session: Session, __: list[bytes]) -> str:
        session.queued = []
        return "OK"

    def _exec(self, wire: Wire, session: Session, _: list[bytes]) -> list[Any]:
        queued, session.queued = session.queued or [], None
        return [self._execute(wire, session, command) for command in queued]

    def _evalsha(self, _: Wire, __: Session, command: list[bytes]) -> Any:
        digest = command[1].decode()
        if digest not in self._scripts:
            raise CommandError("NOSCRIPT No matching script. Please use EVAL.")
        return self._run(NAMES[digest], command)

    def _eval(self, _: Wire, __: Session, command: list[bytes]) -> Any:
        digest = hashlib.sha1(command[1], usedforsecurity=False).hexdigest()
        self._scripts.add(digest)
        return self._run(NAMES[digest], command)

    def _script(self, _: Wire, __: Session, command: list[bytes]) -> str:
        digest = hashlib.sha1(command[2], usedforsecurity=False).hexdigest()
        self._scripts.add(digest)
        return digest

    def _run(self, name: str, command: list[bytes]) -> Any:
        keys = int(command[2])
        names = [key.decode("latin-1") for key in command[3 : 3 + keys]]
        self._interpreter.database = self.data
        return self._interpreter.run(name, names, command[3 + keys :])

    def _info(self, *_: Any) -> str:
        role = "slave" if self.is_replica else "master"
        return f"run_id:{self.name}\r\nmaster_replid:{self.name}\r\nrole:{role}\r\nused_memory:0\r\nmaxmemory:0\r\n"

    def _role(self, *_: Any) -> list[Any]:
        return ["slave" if self.is_replica else "master", 0, []]

    def _time(self, *_: Any) -> list[str]:
        micros = int((self.timeline.wall_s + self.clock_ahead_s) * 1e6)
        return [str(micros // 1_000_000), str(micros % 1_000_000)]

    # -- blocking reads

    def _xread(self, wire: Wire, session: Session, command: list[bytes]) -> Any:
        words = [word.decode("latin-1") for word in command]
        count = int(words[words.index("COUNT") + 1])
        names = words[words.index("STREAMS") + 1 :]
        half = len(names) // 2
        blocked = Blocked(list(zip(names[:half], names[half:], strict=True)), count)
        found = self._found(blocked)
        if found or "BLOCK" not in words:
            return found or None
        session.blocked = blocked
        for name, _ in blocked.streams:
            self._readers.setdefault(name, {})[wire] = None
        timeout_s = int(words[words.index("BLOCK") + 1]) / 1000
        blocked.timer = self.timeline.after(timeout_s, lambda: self._answer(wire, session, _NIL_LIST))
        return None

    def _found(self, blocked: Blocked) -> list[Any]:
        self._set_time()
        return [
            [name, entries]
            for name, last in blocked.streams
            if (entries := self.data.after(name, last, count=blocked.count))
        ]

    def _wake(self) -> None:
        appended, self.data.appended = self.data.appended, set()
        for name in sorted(appended):
            for wire in list(self._readers.get(name, ())):
                session = self._sessions[wire]
                if session.blocked is not None and (found := self._found(session.blocked)):
                    self._answer(wire, session, encode(found))

    def _answer(self, wire: Wire, session: Session, reply: bytes) -> None:
        self._unblock(wire, session)
        wire.reply(reply)
        self._serve(wire, session)

    def _unblock(self, wire: Wire, session: Session) -> None:
        blocked, session.blocked = session.blocked, None
        if blocked is None:
            return
        if blocked.timer is not None:
            blocked.timer.cancel()
        for name, _ in blocked.streams:
            readers = self._readers.get(name, {})
            readers.pop(wire, None)
            if not readers:
                self._readers.pop(name, None)


def encode(reply: Any) -> bytes:
    """Encode a reply in RESP2."""
    if isinstance(reply, str):
        raw = reply.encode("latin-1")
        return b"$%d\r\n%s\r\n" % (len(raw), raw)
    if isinstance(reply, bytes):
        return b"$%d\r\n%s\r\n" % (len(reply), reply)
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, CommandError):
        return b"-%s\r\n" % str(reply).encode()
    return b"*%d\r\n%s" % (len(reply), b"".join(map(encode, reply)))


class Store:
    """What stands at the store's address, over all its fail-overs."""

    ADDRESS: Final = "store"

    def __init__(self, timeline: Timeline, network: Network) -> None:
        self._timeline = timeline
        self._network = network
        self._interpreter = Interpreter()
        self._made = 0
        self.lost_from: list[tuple[float, float]] = []
        """Of each fail-over: since when what was written is lost, and when the new primary began."""
        self.is_away = False
        self._replicas: list[Node] = []
        self.primary = self._node(StoreDatabase())
        network.listen(self.ADDRESS, self.primary)

    def _node(self, data: StoreDatabase) -> Node:
        self._made += 1
        name = hashlib.sha1(f"node {self._made}".encode(), usedforsecurity=False).hexdigest()
        return Node(self._timeline, self._network, self._interpreter, name=name, data=data)

    @property
    def commands(self) -> int:
        return self.primary.commands

    def restart(self, *, away_s: float) -> None:
        """Stop the server, and start it again with all its data: another process, with no scripts."""
        if not self.is_away:
            self.fail_over(self.primary.data.copy(), since=self._timeline.now, away_s=away_s, whole=True)

    def fail_over(
        self,
        data: StoreDatabase,
        *,
        since: float,
        away_s: float,
        demoted: bool = False,
        whole: bool = False,
    ) -> None:
        """Replace the primary by one that has `data`; the former dies, or goes on as a replica."""
        former, self.is_away = self.primary, True
        self._network.listen(self.ADDRESS, None)
        if not demoted:
            former.hang_up()

        def promoted() -> None:
            self.primary, self.is_away = self._node(data), False
            for replica in self._replicas:
                replica.follow(self.primary)
            if demoted:
                former.demote(self.primary)
                self._replicas.append(former)
            self.primary.clock_ahead_s = former.clock_ahead_s
            if not whole:
                self.lost_from.append((since, self._timeline.now))
            self._network.listen(self.ADDRESS, self.primary)

        self._timeline.after(away_s, promoted)
