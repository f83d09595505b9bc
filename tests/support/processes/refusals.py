"""Servers that refuse: each way in which a real Valkey answers writes with an error, switched on and off.

Switched by a connection that the test opened before, with its own name: what the refusal shuts out is everybody
else.
"""

from __future__ import annotations

import resource
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from support.processes.servers import ValkeyProcess
from support.waiting import wait_until

Switch = Callable[[Any, ValkeyProcess], Any]
NOWHERE = ("127.0.0.1", 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One way to refuse. `code` is what its replies begin with."""

    code: str
    on: Switch
    off: Switch


def _demote(client: Any, server: ValkeyProcess) -> None:
    client.execute_command("REPLICAOF", *NOWHERE)


def _promote(client: Any, server: ValkeyProcess) -> None:
    client.execute_command("REPLICAOF", "NO", "ONE")


def _orphan(client: Any, server: ValkeyProcess) -> None:
    client.config_set("replica-serve-stale-data", "no")
    _demote(client, server)


def _break_disk(client: Any, server: ValkeyProcess) -> None:
    """A snapshot fails, for something is in its file's place: from then on writes are refused."""
    client.config_set("save", "3600 100000")
    (server.directory / "dump.rdb").unlink(missing_ok=True)
    (server.directory / "dump.rdb" / "occupied").mkdir(parents=True)
    client.bgsave()
    wait_until(
        lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err",
        description="the snapshot to fail",
    )


def _mend_disk(client: Any, server: ValkeyProcess) -> None:
    shutil.rmtree(server.directory / "dump.rdb")
    client.config_set("save", "")
    client.save()


def _fill_disk(client: Any, server: ValkeyProcess) -> None:
    """No file of this server may grow: the append-only file cannot be written, as on a full disk."""
    client.set("refusals:before", "written", px=60_000)
    grown = max(path.stat().st_size for path in server.directory.rglob("*.aof"))
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (grown, resource.RLIM_INFINITY))
    wait_until(lambda: _is_full(client), description="the disk to be full")


def _is_full(client: Any) -> bool:
    try:
        client.set("refusals:full", "not written", px=60_000)
    except redis.ResponseError:
        return True
    return False


def _empty_disk(client: Any, server: ValkeyProcess) -> None:
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, unlimited)
    wait_until(
        lambda: client.info("persistence")["aof_last_write_status"] == "ok", description="room on the disk"
    )


def _kick_everybody(client: Any) -> None:
    client.client_kill_filter(_type="normal", skipme=True)
    client.client_kill_filter(_type="pubsub", skipme=True)


def _lock(client: Any, server: ValkeyProcess) -> None:
    client.config_set("requirepass", "changed")
    _kick_everybody(client)


def _narrow(client: Any, server: ValkeyProcess) -> None:
    client.config_set("maxclients", 1)
    _kick_everybody(client)


_SCRIPTS: dict[int, socket.socket] = {}
"""Connections whose script runs for ever, by the server's process: closing one would not end its script."""


def _occupy(client: Any, server: ValkeyProcess) -> None:
    """A script of somebody else's runs for ever: everybody gets BUSY until it is killed."""
    client.config_set("busy-reply-threshold", 20)
    script = _SCRIPTS[server.pid] = socket.create_connection(("127.0.0.1", server.port or 0), timeout=10)
    script.sendall(b'EVAL "while true do end" 0\r\n')
    wait_until(lambda: _is_busy(client), description="the script to be too slow")


def _is_busy(client: Any) -> bool:
    try:
        client.ping()
    except redis.ResponseError:
        return True
    return False


def _free(client: Any, server: ValkeyProcess) -> None:
    client.execute_command("SCRIPT", "KILL")
    wait_until(lambda: not _is_busy(client), description="the script to end")
    _SCRIPTS.pop(server.pid).close()
    client.config_set("busy-reply-threshold", 5000)


REFUSALS: dict[str, Refusal] = {
    "demoted": Refusal(code="READONLY", on=_demote, off=_promote),
    "demoted and cut off": Refusal(code="MASTERDOWN", on=_orphan, off=_promote),
    "without replicas": Refusal(
        code="NOREPLICAS",
        on=lambda client, _: client.config_set("min-replicas-to-write", 1),
        off=lambda client, _: client.config_set("min-replicas-to-write", 0),
    ),
    "full": Refusal(
        code="OOM",
        on=lambda client, _: client.config_set("maxmemory", 1000),
        off=lambda client, _: client.config_set("maxmemory", 0),
    ),
    "disk broken": Refusal(code="MISCONF", on=_break_disk, off=_mend_disk),
    "disk full": Refusal(code="MISCONF", on=_fill_disk, off=_empty_disk),
    "without rights": Refusal(
        code="NOPERM",
        on=lambda client, _: client.execute_command("ACL", "SETUSER", "default", "-@write", "-@scripting"),
        off=lambda client, _: client.execute_command("ACL", "SETUSER", "default", "+@all"),
    ),
    "password changed": Refusal(
        code="NOAUTH", on=_lock, off=lambda client, _: client.config_set("requirepass", "")
    ),
    "busy with a script": Refusal(code="BUSY", on=_occupy, off=_free),
    "crowded": Refusal(code="ERR", on=_narrow, off=lambda client, _: client.config_set("maxclients", 10_000)),
}


@contextmanager
def operator(server: ValkeyProcess) -> Iterator[Any]:
    """A connection of a user of its own, who may everything whatever is done to the others."""
    with server.client() as setup:
        setup.execute_command("ACL", "SETUSER", "operator", "on", ">operator", "~*", "&*", "+@all")
    client = redis.Redis(
        port=server.port or 0,
        username="operator",
        password="operator",
        decode_responses=True,
        single_connection_client=True,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=10,
    )
    with client:
        client.ping()
        yield client


@contextmanager
def refusing(server: ValkeyProcess, kind: str) -> Iterator[Refusal]:
    """The server refuses in this way inside the block, and is as before after it."""
    refusal = REFUSALS[kind]
    with operator(server) as client:
        refusal.on(client, server)
        try:
            yield refusal
        finally:
            refusal.off(client, server)
