"""Proves that the store takes what a start writes: by writing, because replies to reads prove nothing.

A store that is full, was demoted, has no replica left or revoked a right answers every ping. A Cluster is
told by one script over two slots, which nothing but a Cluster refuses. Used by `/readyz`, and by workers and
gateways when they start.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import Any, Final

from redis.exceptions import RedisError

from mainstem_shared import errors
from mainstem_shared.store import failures, keys
from mainstem_shared.store.blocking import BlockingStore
from mainstem_shared.store.client import Store
from mainstem_shared.store.connections import connect_blocking
from mainstem_shared.store.nodes import Node
from mainstem_shared.store.redaction import redacted
from mainstem_shared.store.topologies import Topology

PATIENCE_S: Final = 2.0
"""Probes of orchestrators give up after a few seconds; a server this slow is not ready anyway."""
_TTL_MS: Final = 10_000
_CLUSTER_CODES: Final = frozenset({"CROSSSLOT", "MOVED", "ASK", "CLUSTERDOWN"})
_TWO_SLOTS: Final = "return #KEYS"


async def check_writes(store: Store) -> dict[str, bool]:
    """Run each kind of command that a start and its worker write with, on keys that end by themselves.

    Returns which servers took them, by address. A store is ready as long as at least half of its servers do:
    runs on these go on, and whoever is sent elsewhere finds the same.

    Raises:
        ClusterUnsupported: the store is a node of a Cluster.
        StoreUnavailable: the only server, or most of several, does not answer in time, or refuses.
    """
    try:
        async with asyncio.timeout(PATIENCE_S):
            nodes = await store.nodes()
    except (RedisError, OSError, TimeoutError) as error:
        raise _unready(error) from error
    failed = await asyncio.gather(*(_failure_at(store, node) for node in nodes))
    worst = [error for error in failed if error is not None]
    if 2 * len(worst) > len(nodes):
        raise _unready(worst[0]) from worst[0]
    return {redacted(node.url): error is None for node, error in zip(nodes, failed, strict=True)}


async def _failure_at(store: Store, node: Node) -> Exception | None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            await _write(node.client, store.topology, node.url)
    except (RedisError, OSError, TimeoutError) as error:
        return error
    except (ValueError, StopIteration):
        return failures.ConnectionLost("nobody knows what this server has")
    return None


async def _write(client: Any, topology: Topology, node: str) -> None:
    one = keys.readiness(secrets.token_hex(4), tag=topology.tag_at(node))
    queue, log = f"{one}:q", f"{one}:l"
    pipe = client.pipeline(transaction=False)
    if not topology.by_slot:
        pipe.eval(_TWO_SLOTS, 2, one, keys.readiness(secrets.token_hex(4)))
    pipe.hset(one, "at", 1)
    pipe.eval("return redis.call('HSET', KEYS[1], 'at', 2)", 1, one)
    pipe.hdel(one, "at")
    pipe.set(one, 1, px=_TTL_MS)
    pipe.delete(one)
    pipe.zadd(one, {"at": 1})
    pipe.pexpire(one, _TTL_MS)
    pipe.zrem(one, "at")
    pipe.rpush(queue, 1)
    pipe.pexpire(queue, _TTL_MS)
    pipe.lpop(queue)
    pipe.xadd(log, {"at": 1})
    pipe.pexpire(log, _TTL_MS)
    pipe.xtrim(log, maxlen=0)
    pipe.delete(one, queue, log)
    await pipe.execute()


def check_servers(store_url: str, broker_url: str) -> None:
    """Make sure that runs can be kept on these servers. Blocking; an unavailable one is not judged.

    Raises:
        ClusterUnsupported: one of them is a node of a Cluster.
        Misconfigured: the store's are not those that its address means.
    """
    store = BlockingStore(store_url, timeout_s=PATIENCE_S)
    refuse_cluster(*(() if store.topology.by_slot else store.topology.nodes), broker_url)
    with contextlib.suppress(RedisError, OSError):
        store.check()
    store.close()


def refuse_cluster(*urls: str) -> None:
    """Make sure that none of these servers is a node of a Cluster. Blocking; judges available ones only.

    Raises:
        ClusterUnsupported: one of them is.
    """
    for url in urls:
        if not url.startswith(("redis://", "rediss://", "unix://")):
            continue  # Sentinels know no Cluster, and other brokers none of this kind
        with contextlib.suppress(ValueError), connect_blocking(url, timeout_s=PATIENCE_S) as client:
            try:
                one, other = keys.readiness("a"), keys.readiness("b")
                client.eval(_TWO_SLOTS, 2, one, other)
            except (RedisError, OSError) as error:
                if failures.code_of(error) in _CLUSTER_CODES:
                    raise errors.ClusterUnsupported from error


def _unready(error: BaseException) -> errors.Unavailable:
    code = failures.code_of(error)
    if code in _CLUSTER_CODES:
        return errors.ClusterUnsupported()
    if failures.is_out_of_memory(error):
        return errors.StoreUnavailable("The store is out of memory and refuses writes.")
    if code:
        return errors.StoreUnavailable(f"The store refuses writes: {code}. See `mainstem doctor`.")
    return errors.StoreUnavailable()
