"""The in-process Redis answers as the real server does, command by command and verb by verb."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.redis_in_process import _COMMANDS, LAST_ID, CommandError, Database
from model.scripts import SHIPPED

KEYS = st.sampled_from(["{k}a", "{k}b"])
WORDS = st.sampled_from(["x", "y", "z", "10", "7"])
NUMBERS = st.integers(-3, 5).map(str)
IDS = st.builds("{}-{}".format, st.integers(0, 3), st.integers(0, 3))
BOUNDS = st.one_of(IDS, IDS.map("({}".format), st.sampled_from([LAST_ID, f"({LAST_ID}"]))


class Try:
    """A command with generated arguments."""

    def __init__(self, name: str, *args: st.SearchStrategy[str]) -> None:
        self.name = name
        self.calls: st.SearchStrategy[tuple[str, ...]] = st.tuples(st.just(name), *args)


TYPES: dict[str, list[Try]] = {
    "string": [
        Try("SET", KEYS, WORDS),
        Try("SET", KEYS, WORDS, st.just("PX"), st.just("100000")),
        Try("GET", KEYS),
    ],
    "hash": [
        Try("HSET", KEYS, WORDS, NUMBERS),
        Try("HSET", KEYS, WORDS, NUMBERS, WORDS, NUMBERS),
        Try("HSETNX", KEYS, WORDS, NUMBERS),
        Try("HGET", KEYS, WORDS),
        Try("HMGET", KEYS, WORDS, WORDS),
        Try("HDEL", KEYS, WORDS, WORDS),
        Try("HINCRBY", KEYS, WORDS, NUMBERS),
        Try("HEXISTS", KEYS, WORDS),
        Try("HKEYS", KEYS),
        Try("HLEN", KEYS),
        Try("HGETALL", KEYS),
    ],
    "set": [
        Try("SADD", KEYS, WORDS, WORDS),
        Try("SREM", KEYS, WORDS),
        Try("SCARD", KEYS),
        Try("SISMEMBER", KEYS, WORDS),
        Try("SMEMBERS", KEYS),
    ],
    "list": [
        Try("LPUSH", KEYS, WORDS),
        Try("RPUSH", KEYS, WORDS),
        Try("LPOP", KEYS),
        Try("LINDEX", KEYS, NUMBERS),
        Try("LLEN", KEYS),
        Try("LREM", KEYS, st.just("0"), WORDS),
    ],
    "zset": [
        Try("ZADD", KEYS, NUMBERS, WORDS),
        Try("ZADD", KEYS, st.sampled_from(["LT", "XX", "NX"]), NUMBERS, WORDS),
        Try("ZADD", KEYS, st.sampled_from(["0.5", "1.25", "1700000000000", "1e300"]), WORDS),
        Try("ZSCORE", KEYS, WORDS),
        Try("ZRANK", KEYS, WORDS),
        Try("ZCOUNT", KEYS, st.just("-inf"), NUMBERS),
        Try("ZRANGE", KEYS, NUMBERS, NUMBERS),
        Try("ZRANGE", KEYS, NUMBERS, NUMBERS, st.just("WITHSCORES")),
        Try("ZREM", KEYS, WORDS),
        Try("ZCARD", KEYS),
        Try("ZREVRANGE", KEYS, st.just("0"), st.sampled_from(["0", "1", "-1"])),
        Try("ZRANGEBYSCORE", KEYS, NUMBERS, NUMBERS),
        Try(
            "ZRANGEBYSCORE",
            KEYS,
            st.just("-inf"),
            NUMBERS,
            st.just("WITHSCORES"),
            st.just("LIMIT"),
            st.just("0"),
            st.just("2"),
        ),
        Try(
            "ZRANGEBYSCORE",
            KEYS,
            st.just("-inf"),
            NUMBERS,
            st.just("LIMIT"),
            st.just("0"),
            st.just("2"),
        ),
    ],
    "stream": [
        Try("XADD", KEYS, IDS, st.just("f"), WORDS),
        Try("XADD", KEYS, st.just("NOMKSTREAM"), IDS, st.just("f"), WORDS),
        Try("XLEN", KEYS),
        Try("XRANGE", KEYS, BOUNDS, st.just("+")),
        Try("XRANGE", KEYS, st.just("-"), IDS, st.just("COUNT"), st.sampled_from(["0", "2"])),
        Try("XREVRANGE", KEYS, st.just("+"), st.just("-"), st.just("COUNT"), st.just("1")),
        Try("XTRIM", KEYS, st.just("MINID"), st.just("="), IDS),
    ],
}
LONGER = "longer"
"""A lifetime above all that were set before: of two equal ones, it depends on the millisecond which is longer."""
ANY = [
    Try("DEL", KEYS),
    Try("EXISTS", KEYS, KEYS),
    Try("PTTL", KEYS),
    Try("UNLINK", KEYS),
    Try("PEXPIRE", KEYS, st.sampled_from(["200000", "0"])),
    Try("PEXPIRE", KEYS, st.just("300000"), st.just("NX")),
    Try("PEXPIRE", KEYS, st.sampled_from(["1000", LONGER]), st.just("GT")),
    Try("COPY", KEYS, KEYS, st.just("REPLACE")),
    Try("RENAME", KEYS, KEYS),
]


@pytest.fixture
def server(store_url: str) -> Iterator[redis.Connection]:
    pool: Any = redis.ConnectionPool.from_url(store_url, protocol=2)  # as scripts get replies
    connection = pool.get_connection()
    yield connection
    pool.release(connection)
    pool.disconnect()


UNORDERED = frozenset({"SMEMBERS"})
"""Commands whose replies come in any order."""


def asked(server: redis.Connection, command: tuple[str, ...]) -> Any:
    """What the real server says; an error as its text."""
    server.send_command(*command)
    try:
        return plain(server.read_response())
    except redis.ResponseError as error:
        return f"ERR {error}"


def plain(reply: Any) -> Any:
    if isinstance(reply, list):
        return [plain(item) for item in reply]
    return reply.decode() if isinstance(reply, bytes) else reply


def modelled(database: Database, command: tuple[str, ...]) -> Any:
    try:
        return database.call(*command)
    except CommandError as error:
        return str(error)


@pytest.mark.parametrize("kind", TYPES)
def test_every_command_answers_as_the_server_does(server: redis.Connection, kind: str):
    """Random commands on two keys of one type: each reply is the server's; of a lifetime, that there is one."""

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(st.one_of(*(one.calls for one in (*TYPES[kind], *ANY))), max_size=25))
    def agree(commands: list[tuple[str, ...]]) -> None:
        asked(server, ("DEL", "{k}a", "{k}b"))
        database = Database()
        for number, generated in enumerate(commands):
            command = tuple(str(400_000 + 1_000 * number) if arg == LONGER else arg for arg in generated)
            if command[0] == "COPY" and command[1] == command[2]:
                continue  # refused by the server; no verb does it
            real, mine = asked(server, command), modelled(database, command)
            if command[0] == "PTTL" and real > 0:
                assert mine > 0
            elif command[0] in UNORDERED:
                assert sorted(mine) == sorted(real), command
            else:
                assert mine == real, command

    agree()


def test_every_command_of_a_script_is_tried():
    """No verb uses a command that is not compared with the server's, and none is modelled in vain."""
    used = {name for source in SHIPPED.values() for name in re.findall(r"redis\.call\('([A-Z]+)'", source)}
    tried = {one.name for kind in (*TYPES.values(), ANY) for one in kind}
    assert used <= tried
    assert tried == set(_COMMANDS)
