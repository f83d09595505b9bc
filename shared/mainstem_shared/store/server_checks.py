"""Checks what a store or broker server, as it is configured, cannot guarantee; each finding has a remedy.

One list for all who say it: workers and gateways in their logs when they start, `mainstem doctor` on request.
What a Celery application sets otherwise than a worker needs is in `mainstem_workers.configuration_checks`.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from redis.exceptions import RedisError

from mainstem_shared import errors
from mainstem_shared.store import failures, topologies
from mainstem_shared.store.client import Store
from mainstem_shared.store.connections import CONNECT_TIMEOUT_S
from mainstem_shared.store.nodes import Node

logger = logging.getLogger(__name__)

RETRY_S: Final = 5.0
SKEW_S: Final = 1.0
"""Deadlines are compared between machines: less is noise, more makes sweeps early or late."""
SKEWED_S: Final = 5.0
OLDEST: Final = (7, 0)
"""The first Redis with all that is used (`SET … NX GET`, `SPUBLISH`, `PEXPIRE … NX`); every Valkey has it."""
BUSY: Final = 0.8
"""Share of `maxmemory` from which on it is minutes until starts are refused, not days."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortcoming:
    """A setting that breaks a guarantee. `fatal`: not only after a crash, but at any time."""

    setting: str
    consequence: str
    remedy: str
    fatal: bool = False


def report(found: list[Shortcoming], where: str) -> None:
    """Log each of them as a warning of its own."""
    for broken in found:
        logger.warning(
            "%s: %s %s",
            broken.setting,
            broken.consequence,
            broken.remedy,
            extra={"action": "promise_broken", "setting": broken.setting, "where": where},
        )


def of_store(info: Mapping[str, Any], *, in_cluster: bool = False) -> list[Shortcoming]:
    """Return what a store whose INFO this is cannot guarantee; `in_cluster`: its address is a Cluster's."""
    evicted = "deletes parts of runs when memory is short."
    return [
        *_version(info),
        *([] if in_cluster else _cluster(info)),
        *_durability(info),
        *_eviction(info, evicted),
        *_memory(info),
        *_role(info),
        *_replicas(info),
    ]


def of_broker(info: Mapping[str, Any]) -> list[Shortcoming]:
    """Return what a broker cannot guarantee. It need not keep anything: what it loses is published again."""
    evicted = "deletes queues when memory is short: runs start minutes late."
    return [*_cluster(info), *_eviction(info, evicted), *_memory(info), *_role(info)]


def _version(info: Mapping[str, Any]) -> Iterator[Shortcoming]:
    version = str(info.get("redis_version", ""))
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is not None and (int(numbers[1]), int(numbers[2])) < OLDEST:
        yield Shortcoming(
            setting="version",
            consequence=f"Redis {version} lacks commands that every process uses: nothing is swept.",
            remedy="Run Redis 7.0 or later, or any version of Valkey.",
            fatal=True,
        )


def _cluster(info: Mapping[str, Any]) -> Iterator[Shortcoming]:
    if info.get("cluster_enabled"):
        yield Shortcoming(
            setting="cluster",
            consequence="a node of a Cluster: nothing can be started, and no worker or gateway starts.",
            remedy="A store may be one: write redis+cluster://. A broker cannot; see docs/scaling.md.",
            fatal=True,
        )


def _durability(info: Mapping[str, Any]) -> Iterator[Shortcoming]:
    if not info.get("aof_enabled"):
        yield Shortcoming(
            setting="durability",
            consequence="append-only file off: a restart of the store loses events that it acknowledged.",
            remedy="Set `appendonly yes`.",
        )
    elif info.get("aof_last_write_status") == "err" or info.get("aof_last_bgrewrite_status") == "err":
        yield Shortcoming(
            setting="durability",
            consequence="the append-only file could not be written: a restart loses what came since.",
            remedy="Look at the server's log, and at the space on its disk.",
        )


def _eviction(info: Mapping[str, Any], consequence: str) -> Iterator[Shortcoming]:
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        yield Shortcoming(
            setting="maxmemory-policy",
            consequence=f"{policy} {consequence}",
            remedy="Set `maxmemory-policy noeviction`.",
            fatal=True,
        )


def _memory(info: Mapping[str, Any]) -> Iterator[Shortcoming]:
    limit, used = info.get("maxmemory", 0), info.get("used_memory", 0)
    if limit and used > limit * BUSY:
        yield Shortcoming(
            setting="maxmemory",
            consequence=f"{used / limit:.0%} are in use: when all is, nothing can be started.",
            remedy="Give the server more, or lower MAINSTEM_RETENTION_S.",
        )


def _role(info: Mapping[str, Any]) -> Iterator[Shortcoming]:
    if info.get("role") == "slave":
        yield Shortcoming(
            setting="role",
            consequence="a replica takes no writes, or takes them and loses them.",
            remedy="Give the address of the primary, or of the Sentinels.",
            fatal=True,
        )


def _replicas(info: Mapping[str, Any]) -> Iterator[Shortcoming]:
    """A primary counts its good replicas only where it needs them to write."""
    if info.get("connected_slaves") and "min_slaves_good_slaves" not in info:
        yield Shortcoming(
            setting="min-replicas-to-write",
            consequence="cut off from its replicas, it goes on acknowledging what a fail-over then loses.",
            remedy="Set `min-replicas-to-write 1` and `min-replicas-max-lag 10`: it stops in ten seconds.",
        )


def of_clock(apart_s: float) -> list[Shortcoming]:
    """Return what breaks if a process's clock and the store's are so far apart."""
    if apart_s < SKEW_S:
        return []
    return [
        Shortcoming(
            setting="clocks",
            consequence=f"{apart_s:.1f} s apart from the server's, by which runs go: tokens of identity "
            "providers expire early or late, and log lines do not line up.",
            remedy="Run a time service (NTP) on all machines.",
            fatal=apart_s >= SKEWED_S,
        )
    ]


async def watch_start(store_url: str, broker_url: str) -> None:
    """Report, once each server has answered, what it cannot guarantee; until then a start does not wait."""
    await asyncio.gather(_report_on(store_url, "store"), _report_on(broker_url, "broker"))


async def _report_on(url: str, where: str) -> None:
    if not topologies.is_ours(url):
        return  # other brokers have no such settings
    server = Store(url, patience_s=CONNECT_TIMEOUT_S)
    try:
        found = await _patiently(server, where)
        report(found, where)
        if not found:
            logger.info("a server is set up well", extra={"action": "promises_kept", "where": where})
    except RedisError as error:  # a managed service may not let us look: then nothing is known
        logger.info(
            "cannot look at a server's settings", extra={"action": "promises_unknown", "why": repr(error)}
        )
    finally:
        await server.close()


async def _patiently(server: Store, where: str) -> list[Shortcoming]:
    while True:
        try:
            nodes = await server.patiently(server.nodes)
            found = [await _of_node(server, node, where) for node in nodes]
        except errors.StoreUnavailable as error:
            cause = error.__cause__
            if isinstance(cause, RedisError) and failures.code_of(cause) == "NOPERM":
                raise cause from None  # asking again gives no right to ask
            await asyncio.sleep(RETRY_S)
        else:
            return list(
                {(broken.setting, broken.consequence): broken for node in found for broken in node}.values()
            )


async def _of_node(server: Store, node: Node, where: str) -> list[Shortcoming]:
    info: Mapping[str, Any] = await server.patiently(lambda: node.client.info("everything"))
    if where == "broker":
        return of_broker(info)
    before = time.time()
    seconds, micros = await server.patiently(node.client.time)
    here_s = (before + time.time()) / 2  # this machine's clock, not what it has learnt
    in_cluster = server.topology.by_slot
    return [*of_store(info, in_cluster=in_cluster), *of_clock(abs(seconds + micros / 1e6 - here_s))]
