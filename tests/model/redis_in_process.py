"""A Redis in Python executes the commands that the verbs use, on values that are never mutated.

Copying a database is copying one dict, so that a state of the world costs little to keep and to go back to.
`test_redis_in_process` checks every command against a real server, with generated calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

NO_EXPIRY: Final = -1
MISSING: Final = -2
LAST_ID: Final = f"{2**64 - 1}-{2**64 - 1}"
"""Nothing comes after it."""
Reply = Any
"""str, int, None, or a list of replies. Text holds bytes as Latin-1, as Lua's strings do."""


class CommandError(Exception):
    """The server's error reply: its text begins with a code."""


class Stream(NamedTuple):
    """Entries (id, fields and values), and the last id that was ever added."""

    entries: tuple[tuple[str, tuple[str, ...]], ...] = ()
    last: tuple[int, int] = (0, 0)


def stream_id(text: str, *, seq: int = 0) -> tuple[int, int]:
    """Parse `<ms>-<seq>`; `seq` stands in for one that is missing."""
    head, _, tail = text.partition("-")
    return int(head), int(tail) if tail else seq


class Database:
    """The keys of one server. Every write replaces a value; none is changed in place."""

    def __init__(self, data: dict[str, Any] | None = None, expires: dict[str, int] | None = None) -> None:
        self.data: dict[str, Any] = dict(data or {})
        self.expires: dict[str, int] = dict(expires or {})
        self.now = 0
        """Milliseconds; keys whose time is over are gone."""
        self.lose_nothing = False
        """Ignore lifetimes: for explorations in which no key expires."""
        self._fingerprint: int | None = None

    def copy(self) -> Database:
        """Return a database that shares all values."""
        other = Database(self.data, self.expires)
        other.now, other.lose_nothing = self.now, self.lose_nothing
        return other

    def fingerprint(self) -> int:
        """Return a number that equal databases share; different ones do so once in 10^19."""
        if self._fingerprint is None:
            values = (
                (k, tuple(sorted(v.items())) if isinstance(v, dict) else v) for k, v in self.data.items()
            )
            self._fingerprint = hash(tuple(sorted(values)))
        return self._fingerprint

    def call(self, name: str, *args: Any) -> Reply:
        """Execute one command.

        Raises:
            CommandError: as the server refuses it.
            KeyError: no verb uses the command, so it is not modelled.
        """
        self._expire()
        self._fingerprint = None
        command = _COMMANDS[name.upper()]
        return command(self, *[_text(arg) for arg in args])

    def _expire(self) -> None:
        if self.expires and not self.lose_nothing:
            for key in [key for key, at in self.expires.items() if at <= self.now]:
                self._drop(key)

    def _put(self, key: str, value: Any) -> None:
        """Store a value; an empty collection is no key (streams stay)."""
        if not value and not isinstance(value, (str, Stream)):
            self._drop(key)
        else:
            self.data[key] = value

    def _drop(self, key: str) -> int:
        self.expires.pop(key, None)
        return 0 if self.data.pop(key, None) is None else 1

    # -- keys

    def _del(self, *names: str) -> int:
        return sum(self._drop(key) for key in names)

    def _exists(self, *names: str) -> int:
        return sum(key in self.data for key in names)

    def _pttl(self, key: str) -> int:
        if key not in self.data:
            return MISSING
        return self.expires[key] - self.now if key in self.expires else NO_EXPIRY

    def _pexpire(self, key: str, ttl: str, *option: str) -> int:
        if key not in self.data or not self._may_expire(key, int(ttl), option):
            return 0
        if int(ttl) <= 0 and not self.lose_nothing:
            self._drop(key)
        else:
            self.expires[key] = self.now + int(ttl)
        return 1

    def _may_expire(self, key: str, ttl: int, option: tuple[str, ...]) -> bool:
        """Whether an option lets a lifetime be changed; none is longer than any."""
        known = self.expires.get(key)
        match option:
            case ():
                return True
            case ("NX",):
                return known is None
            case ("GT",):
                return known is not None and self.now + ttl > known
            case _:
                raise CommandError("ERR of PEXPIRE's options only NX and GT are modelled")

    def _copy(self, source: str, target: str, *options: str) -> int:
        if source not in self.data or (target in self.data and "REPLACE" not in options):
            return 0
        self._drop(target)
        self.data[target] = self.data[source]
        if source in self.expires:
            self.expires[target] = self.expires[source]
        return 1

    def _rename(self, source: str, target: str) -> str:
        if source not in self.data:
            raise CommandError("ERR no such key")
        value, at = self.data[source], self.expires.get(source)
        self._drop(source)
        self._drop(target)
        self.data[target] = value
        if at is not None:
            self.expires[target] = at
        return "OK"

    # -- strings

    def _get(self, key: str) -> str | None:
        return self.data.get(key)

    def _set(self, key: str, value: str, *options: str) -> str:
        self._drop(key)
        self.data[key] = value
        if options and options[0].upper() == "PX":
            self.expires[key] = self.now + int(options[1])
        return "OK"

    # -- hashes

    def _hget(self, key: str, field: str) -> str | None:
        return self.data.get(key, {}).get(field)

    def _hmget(self, key: str, *fields: str) -> list[Reply]:
        known = self.data.get(key, {})
        return [known.get(field) for field in fields]

    def _hgetall(self, key: str) -> list[Reply]:
        return [part for pair in self.data.get(key, {}).items() for part in pair]

    def _hlen(self, key: str) -> int:
        return len(self.data.get(key, {}))

    def _hkeys(self, key: str) -> list[Reply]:
        return list(self.data.get(key, {}))

    def _hset(self, key: str, *pairs: str) -> int:
        known = self.data.get(key, {})
        new = dict(zip(pairs[::2], pairs[1::2], strict=True))
        self.data[key] = {**known, **new}
        return len(self.data[key]) - len(known)

    def _hsetnx(self, key: str, field: str, value: str) -> int:
        if field in self.data.get(key, {}):
            return 0
        return self._hset(key, field, value)

    def _hdel(self, key: str, *fields: str) -> int:
        known = self.data.get(key, {})
        self._put(key, {field: value for field, value in known.items() if field not in fields})
        return len(known) - len(self.data.get(key, {}))

    def _hincrby(self, key: str, field: str, by: str) -> int:
        total = int(self.data.get(key, {}).get(field, "0")) + int(by)
        self._hset(key, field, str(total))
        return total

    def _hexists(self, key: str, field: str) -> int:
        return int(field in self.data.get(key, {}))

    # -- sets

    def _sadd(self, key: str, *members: str) -> int:
        known: frozenset[str] = self.data.get(key, frozenset())
        self.data[key] = known | set(members)
        return len(self.data[key]) - len(known)

    def _srem(self, key: str, *members: str) -> int:
        known: frozenset[str] = self.data.get(key, frozenset())
        self._put(key, known - set(members))
        return len(known) - len(self.data.get(key, ()))

    def _scard(self, key: str) -> int:
        return len(self.data.get(key, ()))

    def _sismember(self, key: str, member: str) -> int:
        return int(member in self.data.get(key, ()))

    def _smembers(self, key: str) -> list[Reply]:
        return sorted(self.data.get(key, ()))

    # -- lists

    def _lpush(self, key: str, *items: str) -> int:
        self._put(key, (*reversed(items), *self.data.get(key, ())))
        return len(self.data[key])

    def _rpush(self, key: str, *items: str) -> int:
        self._put(key, (*self.data.get(key, ()), *items))
        return len(self.data[key])

    def _lpop(self, key: str) -> str | None:
        known = self.data.get(key, ())
        if not known:
            return None
        self._put(key, known[1:])
        return known[0]

    def _lindex(self, key: str, index: str) -> str | None:
        known = self.data.get(key, ())
        return known[int(index)] if -len(known) <= int(index) < len(known) else None

    def _llen(self, key: str) -> int:
        return len(self.data.get(key, ()))

    def _lrem(self, key: str, count: str, item: str) -> int:
        if count != "0":
            raise CommandError("ERR only LREM key 0 item is modelled")
        known = self.data.get(key, ())
        self._put(key, tuple(one for one in known if one != item))
        return len(known) - len(self.data.get(key, ()))

    # -- sorted sets: {member: score}

    def _zadd(self, key: str, *args: str) -> int:
        *options, score, member = args
        if options not in ([], ["LT"], ["XX"], ["NX"]):
            raise CommandError("ERR of ZADD's options only LT, XX and NX are modelled")
        known = self.data.get(key, {})
        here = member in known
        if (options == ["XX"] and not here) or (options == ["NX"] and here):
            return 0
        if options == ["LT"] and here and known[member] <= float(score):
            return 0
        self._put(key, {**known, member: float(score)})
        return int(not here)

    def _zscore(self, key: str, member: str) -> str | None:
        score = self.data.get(key, {}).get(member)
        return None if score is None else _text(score)

    def _zrank(self, key: str, member: str) -> int | None:
        members = self._zorder(key)
        return members.index(member) if member in members else None

    def _zrem(self, key: str, *members: str) -> int:
        known = self.data.get(key, {})
        self._put(key, {member: score for member, score in known.items() if member not in members})
        return len(known) - len(self.data.get(key, {}))

    def _zcard(self, key: str) -> int:
        return len(self.data.get(key, {}))

    def _zorder(self, key: str) -> list[str]:
        return sorted(self.data.get(key, {}), key=lambda member: (self.data[key][member], member))

    def _zrange(self, key: str, start: str, stop: str, *option: str) -> list[Reply]:
        return self._scored(key, _slice(self._zorder(key), int(start), int(stop)), option)

    def _zrevrange(self, key: str, start: str, stop: str) -> list[Reply]:
        return _slice(self._zorder(key)[::-1], int(start), int(stop))

    def _zrangebyscore(self, key: str, low: str, high: str, *options: str) -> list[Reply]:
        within = [m for m in self._zorder(key) if float(low) <= self.data[key][m] <= float(high)]
        if "LIMIT" in options:
            first = options.index("LIMIT") + 1
            offset, count = int(options[first]), int(options[first + 1])
            within = within[offset : offset + count]
        return self._scored(key, within, options[:1])

    def _zcount(self, key: str, low: str, high: str) -> int:
        return len(self._zrangebyscore(key, low, high))

    def _scored(self, key: str, members: list[str], option: tuple[str, ...]) -> list[Reply]:
        if "WITHSCORES" not in option:
            return list(members)
        return [part for member in members for part in (member, _text(self.data[key][member]))]

    # -- streams

    def _stream(self, key: str) -> Stream:
        return self.data.get(key, Stream())

    def _xadd(self, key: str, *args: str) -> str | None:
        only_existing = args[0] == "NOMKSTREAM"
        name, *pairs = args[1:] if only_existing else args
        known, new = self._stream(key), stream_id(name)
        if new == (0, 0):
            raise CommandError("ERR The ID specified in XADD must be greater than 0-0")
        if only_existing and key not in self.data:
            return None
        if new <= known.last:
            raise CommandError(
                "ERR The ID specified in XADD is equal or smaller than the target stream top item"
            )
        self.data[key] = Stream((*known.entries, (f"{new[0]}-{new[1]}", tuple(pairs))), new)
        return f"{new[0]}-{new[1]}"

    def _xlen(self, key: str) -> int:
        return len(self._stream(key).entries)

    def _xrange(self, key: str, first: str, last: str, *count: str) -> list[Reply] | None:
        return self._between(key, first, last, list(count))

    def _xrevrange(self, key: str, last: str, first: str, *count: str) -> list[Reply] | None:
        return self._between(key, first, last, list(count), reverse=True)

    def _between(
        self, key: str, first: str, last: str, count: list[str], *, reverse: bool = False
    ) -> list[Reply] | None:
        if first == f"({LAST_ID}":
            raise CommandError("ERR invalid start ID for the interval")
        if count and int(count[1]) == 0 and key in self.data:
            return None  # a null array
        found = [
            [name, list(pairs)]
            for name, pairs in self._stream(key).entries
            if _after(first, stream_id(name)) and _before(last, stream_id(name))
        ]
        if reverse:
            found.reverse()
        return found[: int(count[1])] if count else found

    def _xtrim(self, key: str, strategy: str, exact: str, least: str) -> int:
        if (strategy, exact) != ("MINID", "="):
            raise CommandError("ERR only XTRIM MINID = is modelled")
        known, floor = self._stream(key), stream_id(least)
        kept = tuple(entry for entry in known.entries if stream_id(entry[0]) >= floor)
        if key in self.data:
            self.data[key] = Stream(kept, known.last)
        return len(known.entries) - len(kept)


def _slice(members: list[str], start: int, stop: int) -> list[Reply]:
    """Return what lies between two ranks; negative ones count from the end."""
    first, last = (at if at >= 0 else len(members) + at for at in (start, stop))
    return list(members[max(first, 0) : max(last + 1, 0)])


def _after(bound: str, found: tuple[int, int]) -> bool:
    if bound == "-":
        return True
    return found > stream_id(bound[1:]) if bound.startswith("(") else found >= stream_id(bound)


def _before(bound: str, found: tuple[int, int]) -> bool:
    return bound == "+" or found <= stream_id(bound, seq=2**64 - 1)


def _text(value: Any) -> str:
    """Return an argument as the server gets it from Lua: whole numbers without a point."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, float):
        return f"{value:.17g}"
    return str(value)


_COMMANDS: Final[dict[str, Callable[..., Reply]]] = {
    name.removeprefix("_").upper(): method
    for name, method in vars(Database).items()
    if name in {
        "_copy", "_del", "_exists", "_get", "_hdel", "_hexists", "_hget", "_hgetall", "_hincrby", "_hkeys", "_hlen",
        "_hmget", "_hset", "_hsetnx", "_lindex", "_llen", "_lpop", "_lpush", "_lrem", "_pexpire", "_pttl", "_rename",
        "_rpush", "_sadd", "_scard", "_set", "_sismember", "_smembers", "_srem", "_xadd", "_xlen", "_xrange",
        "_xrevrange", "_xtrim", "_zadd", "_zcard", "_zcount", "_zrange", "_zrangebyscore", "_zrank", "_zrem",
        "_zrevrange", "_zscore",
    }
} | {"UNLINK": Database._del}  # fmt: skip
"""By name, what is modelled."""
