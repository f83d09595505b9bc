"""The commands of the simulated store: those of the verbs, and what the product sends beside them.

Built on the model's Redis, whose commands are compared with a real server's; what is added here is not compared.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, Final

from model import redis_in_process
from model.redis_in_process import CommandError, Database, Reply, Stream, stream_id

WRONGTYPE: Final = "WRONGTYPE Operation against a key holding the wrong kind of value"


def number(score: float) -> str:
    """Write a score as the server does."""
    return f"{score:.17g}"


class StoreDatabase(Database):
    """The keys of one simulated server. Expired keys are found by a heap: there are many."""

    def __init__(self, data: dict[str, Any] | None = None, expires: dict[str, int] | None = None) -> None:
        super().__init__(data, expires)
        self._deadlines = [(at, key) for key, at in self.expires.items()]
        heapq.heapify(self._deadlines)
        self._known_at = dict(self.expires)
        self.appended: set[str] = set()
        """Streams that got an entry since whoever serves blocked readers looked."""

    def copy(self) -> StoreDatabase:
        other = StoreDatabase(self.data, self.expires)
        other.now = self.now
        return other

    def call(self, name: str, *args: Any) -> Reply:
        self._expire()
        command = _COMMANDS.get(name.upper())
        if command is None:
            raise CommandError(f"ERR unknown command '{name}'")
        return command(self, *[_text(arg) for arg in args])

    def _expire(self) -> None:
        deadlines = self._deadlines
        while deadlines and deadlines[0][0] <= self.now:
            at, key = heapq.heappop(deadlines)
            if self.expires.get(key) == at:
                self._drop(key)

    def _expires_at(self, key: str, at: int) -> None:
        self.expires[key] = at
        heapq.heappush(self._deadlines, (at, key))

    # -- keys

    def _pexpire(self, key: str, ttl: str, *condition: str) -> int:
        if key not in self.data:
            return 0
        at, known = self.now + int(ttl), self.expires.get(key)
        refused = {
            "NX": known is not None,
            "XX": known is None,
            "GT": known is None or at <= known,
            "LT": known is not None and at >= known,
        }
        if any(refused[one.upper()] for one in condition):
            return 0
        if int(ttl) <= 0:
            self._drop(key)
        else:
            self._expires_at(key, at)
        return 1

    def _expire_s(self, key: str, ttl: str, *condition: str) -> int:
        return self._pexpire(key, str(int(ttl) * 1000), *condition)

    def _pexpiretime(self, key: str) -> int:
        if key not in self.data:
            return redis_in_process.MISSING
        return self.expires.get(key, redis_in_process.NO_EXPIRY)

    def _copy(self, source: str, target: str, *options: str) -> int:
        done = super()._copy(source, target, *options)
        if done and target in self.expires:
            self._expires_at(target, self.expires[target])
        return done

    def _rename(self, source: str, target: str) -> str:
        done = super()._rename(source, target)
        if target in self.expires:
            self._expires_at(target, self.expires[target])
        return done

    # -- strings

    def _set(self, key: str, value: str, *options: str) -> str | None:
        words = [one.upper() for one in options]
        former = self.data.get(key)
        if ("NX" in words and former is not None) or ("XX" in words and former is None):
            return former if "GET" in words else None
        self._drop(key)
        self.data[key] = value
        for unit, factor in (("PX", 1), ("EX", 1000)):
            if unit in words:
                self._expires_at(key, self.now + factor * int(options[words.index(unit) + 1]))
        return former if "GET" in words else "OK"

    # -- hashes

    def _hgetall(self, key: str) -> list[Reply]:
        return [part for pair in self.data.get(key, {}).items() for part in pair]

    # -- sets: dicts without values, in the order of their members

    def _sadd(self, key: str, *members: str) -> int:
        known = self.data.get(key, {})
        new = {**known, **dict.fromkeys(members, "")}
        self.data[key] = dict(sorted(new.items()))
        return len(new) - len(known)

    def _srem(self, key: str, *members: str) -> int:
        return self._hdel(key, *members)

    def _smembers(self, key: str) -> list[Reply]:
        return list(self.data.get(key, {}))

    def _sismember(self, key: str, member: str) -> int:
        return int(member in self.data.get(key, {}))

    # -- sorted sets

    def _zadd(self, key: str, *args: str) -> int:
        options: set[str] = set()
        rest = list(args)
        while rest and rest[0].upper() in {"NX", "XX", "GT", "LT", "CH"}:
            options.add(rest.pop(0).upper())
        known: dict[str, float] = dict(self.data.get(key, {}))
        added = changed = 0
        for score, member in zip(map(float, rest[::2]), rest[1::2], strict=True):
            former = known.get(member)
            if former is None:
                if "XX" not in options:
                    known[member] = score
                    added += 1
            elif "NX" not in options and not (
                ("LT" in options and score >= former) or ("GT" in options and score <= former)
            ):
                changed += former != score
                known[member] = score
        self._put(key, known)
        return added + (changed if "CH" in options else 0)

    def _zscore(self, key: str, member: str) -> str | None:
        score = self.data.get(key, {}).get(member)
        return None if score is None else number(score)

    def _zrank(self, key: str, member: str) -> int | None:
        order = self._zorder(key)
        return order.index(member) if member in order else None

    def _zcount(self, key: str, low: str, high: str) -> int:
        return len(self._within(key, low, high))

    def _zrange(self, key: str, start: str, stop: str, *options: str) -> list[Reply]:
        if key not in self.data:
            return []
        members = self._zorder(key)
        first = int(start) if int(start) >= 0 else max(0, len(members) + int(start))
        end = int(stop) if int(stop) >= 0 else len(members) + int(stop)
        return self._scored(key, members[first : end + 1], options)

    def _zrevrange(self, key: str, start: str, stop: str, *options: str) -> list[Reply]:
        return self._scored(key, super()._zrevrange(key, start, stop), options)

    def _zrangebyscore(self, key: str, low: str, high: str, *options: str) -> list[Reply]:
        return self._scored(key, _limited(self._within(key, low, high), options), options)

    def _zrevrangebyscore(self, key: str, high: str, low: str, *options: str) -> list[Reply]:
        return self._scored(key, _limited(self._within(key, low, high)[::-1], options), options)

    def _zremrangebyscore(self, key: str, low: str, high: str) -> int:
        return self._zrem(key, *found) if (found := self._within(key, low, high)) else 0

    def _within(self, key: str, low: str, high: str) -> list[str]:
        if key not in self.data:
            return []
        scores = self.data[key]
        return [m for m in self._zorder(key) if _above(scores[m], low) and _below(scores[m], high)]

    def _scored(self, key: str, members: list[str], options: tuple[str, ...]) -> list[Reply]:
        if "WITHSCORES" not in options or not members:
            return list(members)
        scores = self.data[key]
        return [part for member in members for part in (member, number(scores[member]))]

    # -- streams

    def _xadd(self, key: str, *args: str) -> str | None:
        rest = list(args)
        longest = None
        if rest[0].upper() == "MAXLEN":
            longest = int(rest[2] if rest[1] in {"~", "="} else rest[1])
            del rest[: 3 if rest[1] in {"~", "="} else 2]
        name = rest[1] if rest[0] == "NOMKSTREAM" else rest[0]
        if name == "*":
            rest[0] = self._next_id(key)
        added = super()._xadd(key, *rest)
        if added is not None:
            self.appended.add(key)
        if longest is not None and len(self.data[key].entries) > longest:
            self.data[key] = Stream(self.data[key].entries[-longest:], self.data[key].last)
        return added

    def _next_id(self, key: str) -> str:
        ms, seq = self._stream(key).last
        return f"{self.now}-0" if self.now > ms else f"{ms}-{seq + 1}"

    def after(self, key: str, last: str, *, count: int) -> list[Reply]:
        """Return a stream's entries after an id, as XREAD does."""
        stream = self.data.get(key)
        if stream is None or stream.last <= stream_id(last):
            return []
        return self._between(key, f"({last}", "+", ["COUNT", str(count)])


def _above(score: float, bound: str) -> bool:
    return score > float(bound[1:]) if bound.startswith("(") else score >= float(bound)


def _below(score: float, bound: str) -> bool:
    return score < float(bound[1:]) if bound.startswith("(") else score <= float(bound)


def _limited(members: list[str], options: tuple[str, ...]) -> list[str]:
    if "LIMIT" not in options:
        return members
    offset, count = (int(one) for one in options[options.index("LIMIT") + 1 :][:2])
    return members[offset : offset + count]


_text = redis_in_process._text

_NAMED: Final = {
    "EXPIRE": StoreDatabase._expire_s,
    "UNLINK": StoreDatabase._del,
    **{
        name.removeprefix("_").upper(): getattr(StoreDatabase, name)
        for name in (
            "_pexpire", "_pexpiretime", "_copy", "_rename", "_set", "_hgetall", "_sadd", "_srem", "_smembers",
            "_sismember", "_zadd", "_zscore", "_zrank", "_zcount", "_zrange", "_zrevrange", "_zrangebyscore",
            "_zrevrangebyscore", "_zremrangebyscore", "_xadd",
        )
    },
}  # fmt: skip
_COMMANDS: Final[dict[str, Callable[..., Reply]]] = {**redis_in_process._COMMANDS, **_NAMED}
