"""The in-process Redis answers as the real server does, command by command and verb by verb."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.redis_in_process import CommandError, Database

KEYS = st.sampled_from(["{k}a", "{k}b"])
WORDS = st.sampled_from(["x", "y", "z", "10", "7"])
NUMBERS = st.integers(-3, 5).map(str)
IDS = st.builds("{}-{}".format, st.integers(0, 3), st.integers(0, 3))
BOUNDS = st.one_of(IDS, IDS.map("({}".format))
TYPES: dict[str, list[st.SearchStrategy[tuple[str, ...]]]] = {
    "string": [
        st.tuples(st.just("SET"), KEYS, WORDS),
        st.tuples(st.just("SET"), KEYS, WORDS, st.just("PX"), st.just("100000")),
        st.tuples(st.just("GET"), KEYS),
    ],
    "hash": [
        st.tuples(st.just("HSET"), KEYS, WORDS, NUMBERS),
        st.tuples(st.just("HSET"), KEYS, WORDS, NUMBERS, WORDS, NUMBERS),
        st.tuples(st.just("HSETNX"), KEYS, WORDS, NUMBERS),
        st.tuples(st.just("HGET"), KEYS, WORDS),
        st.tuples(st.just("HMGET"), KEYS, WORDS, WORDS),
        st.tuples(st.just("HDEL"), KEYS, WORDS, WORDS),
        st.tuples(st.just("HINCRBY"), KEYS, WORDS, NUMBERS),
        st.tuples(st.just("HEXISTS"), KEYS, WORDS),
        st.tuples(st.just("HKEYS"), KEYS),
        st.tuples(st.just("HLEN"), KEYS),
    ],
    "list": [
        st.tuples(st.just("LPUSH"), KEYS, WORDS),
        st.tuples(st.just("RPUSH"), KEYS, WORDS),
        st.tuples(st.just("LPOP"), KEYS),
        st.tuples(st.just("LINDEX"), KEYS, NUMBERS),
        st.tuples(st.just("LLEN"), KEYS),
        st.tuples(st.just("LREM"), KEYS, st.just("0"), WORDS),
    ],
    "zset": [
        st.tuples(st.just("ZADD"), KEYS, NUMBERS, WORDS),
        st.tuples(st.just("ZADD"), KEYS, st.just("LT"), NUMBERS, WORDS),
        st.tuples(st.just("ZREM"), KEYS, WORDS),
        st.tuples(st.just("ZCARD"), KEYS),
        st.tuples(st.just("ZREVRANGE"), KEYS, st.just("0"), st.sampled_from(["0", "1", "-1"])),
        st.tuples(
            st.just("ZRANGEBYSCORE"),
            KEYS,
            st.just("-inf"),
            NUMBERS,
            st.just("LIMIT"),
            st.just("0"),
            st.just("2"),
        ),
    ],
    "stream": [
        st.tuples(st.just("XADD"), KEYS, IDS, st.just("f"), WORDS),
        st.tuples(st.just("XADD"), KEYS, st.just("NOMKSTREAM"), IDS, st.just("f"), WORDS),
        st.tuples(st.just("XLEN"), KEYS),
        st.tuples(st.just("XRANGE"), KEYS, BOUNDS, st.just("+")),
        st.tuples(st.just("XRANGE"), KEYS, st.just("-"), IDS, st.just("COUNT"), st.just("2")),
        st.tuples(st.just("XREVRANGE"), KEYS, st.just("+"), st.just("-"), st.just("COUNT"), st.just("1")),
        st.tuples(st.just("XTRIM"), KEYS, st.just("MINID"), st.just("="), IDS),
    ],
}
ANY = [
    st.tuples(st.just("DEL"), KEYS),
    st.tuples(st.just("EXISTS"), KEYS, KEYS),
    st.tuples(st.just("PTTL"), KEYS),
    st.tuples(st.just("PEXPIRE"), KEYS, st.sampled_from(["200000", "0"])),
    st.tuples(st.just("COPY"), KEYS, KEYS, st.just("REPLACE")),
    st.tuples(st.just("RENAME"), KEYS, KEYS),
]


@pytest.fixture
def server(store_url: str) -> Iterator[redis.Connection]:
    pool: Any = redis.ConnectionPool.from_url(store_url)
    connection = pool.get_connection()
    yield connection
    pool.release(connection)
    pool.disconnect()


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
    @given(st.lists(st.one_of(*TYPES[kind], *ANY), max_size=25))
    def agree(commands: list[tuple[str, ...]]) -> None:
        asked(server, ("DEL", "{k}a", "{k}b"))
        database = Database()
        for command in commands:
            if command[0] == "COPY" and command[1] == command[2]:
                continue  # refused by the server; no verb does it
            real, mine = asked(server, command), modelled(database, command)
            if command[0] == "PTTL" and real > 0:
                assert mine > 0
            else:
                assert mine == real, command

    agree()
