"""Failures of the store: every code is read in every form it comes in, and judged once."""

from __future__ import annotations

import hiredis
import pytest
from redis._parsers.base import BaseParser
from redis.asyncio.client import Pipeline
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError, InvalidResponse, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from mainstem_shared.store import failures

PASSING = (
    "READONLY You can't write against a read only replica.",
    "NOREPLICAS Not enough good replicas to write.",
    "NOPERM User default has no permissions to run the 'xadd' command",
    "NOAUTH Authentication required.",
    "WRONGPASS invalid username-password pair or user is disabled.",
    "MISCONF Errors writing to the AOF file: No space left on device",
    "LOADING Valkey is loading the dataset in memory",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "BUSY Valkey is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "UNKILLABLE Sorry the script already executed write commands against the dataset.",
    "CLUSTERDOWN The cluster is down",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "OOM command not allowed when used memory > 'maxmemory'.",
    "EXECABORT Transaction discarded because of previous errors.",
    "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
    "NOMASTERLINK Can't SYNC while not connected with my master",
    "THROTTLED a code that no server has yet",
    "ERR max number of clients reached",
    "MOVED 866 127.0.0.1:7001",
    "ASK 866 127.0.0.1:7001",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "ERR upstream failure",
    "ERR Connection refused",
    "ERR The server is shutting down",
)
OUR_FAULT = (
    "WRONGTYPE Operation against a key holding the wrong kind of value",
    "ERR wrong number of arguments for 'xadd' command",
    "ERR unknown command 'FOO', with args beginning with: 'READONLY' ",
    "ERR user_script:5: Script attempted to access nonexistent global variable 'x' script: abc",
    "ERR The ID specified in XADD is equal or smaller than the target stream top item",
    "CROSSSLOT Keys in request don't hash to the same slot",
)


def parsed(reply: str) -> Exception:
    """As redis-py raises it for one command."""
    return BaseParser.parse_error(reply)


def raw(reply: str) -> Exception:
    """As hiredis has it on raw connections."""
    return hiredis.ReplyError(reply)


def in_pipeline(reply: str) -> Exception:
    """As redis-py raises it out of a pipeline, which puts the command in front."""
    error = parsed(reply)
    Pipeline.annotate_exception(None, error, 1, ("SET", "of pipeline caused error: ('WRONGTYPE", "x"))  # type: ignore[arg-type]
    return error


FORMS = (parsed, raw, in_pipeline)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reply", PASSING)
def test_what_a_server_answers_while_it_cannot_serve_may_pass(form, reply: str):
    """Whatever class or words it comes in, and also if nobody has ever heard of the code."""
    error = form(reply)
    assert failures.is_transient(error), repr(error)
    assert failures.code_of(error) == reply.split(" ", maxsplit=1)[0]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reply", OUR_FAULT)
def test_what_says_that_the_caller_is_wrong_shows(form, reply: str):
    """Repeating it would hide a defect for as long as somebody is patient."""
    assert not failures.is_transient(form(reply))


@pytest.mark.parametrize("form", FORMS)
def test_a_server_that_is_no_primary_is_left(form):
    """Only then: a full primary stays the primary."""
    elsewhere = {reply.split(" ")[0] for reply in PASSING if failures.is_elsewhere(form(reply))}
    assert elsewhere == {
        *("READONLY", "MASTERDOWN", "LOADING", "NOREPLICAS", "CLUSTERDOWN", "UNBLOCKED", "NOMASTERLINK")
    }


@pytest.mark.parametrize("form", FORMS)
def test_memory_that_ran_out_is_told_from_the_rest(form):
    """It is answered at once: waiting two seconds frees nothing."""
    assert [reply for reply in PASSING if failures.is_out_of_memory(form(reply))] == [
        "OOM command not allowed when used memory > 'maxmemory'."
    ]


def test_lost_connections_pass_and_faults_do_not():
    """What is no reply at all is judged by its type."""
    lost = (
        RedisConnectionError("x"),
        RedisTimeoutError("x"),
        OSError("x"),
        TimeoutError(),
        InvalidResponse("x"),
    )
    assert all(map(failures.is_transient, lost))
    assert not any(map(failures.is_transient, (DataError("x"), ResponseError("x"), ValueError("READONLY x"))))
    assert failures.code_of(RedisConnectionError("READONLY in a sentence")) == ""
