"""Readiness is a write: a store or broker that answers pings and takes no run is not ready."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis

from mainstem_shared import errors
from mainstem_shared.store import readiness, server_checks
from mainstem_shared.store.client import Store
from mainstem_tasks.celery_support.publisher import CeleryPublisher
from support.processes.gateways import GatewayThread, check_problem
from support.processes.processes import gateway as gateway_process
from support.processes.processes import worker
from support.processes.servers import ValkeyProcess, free_port
from support.waiting import wait_until_async

REFUSALS: list[tuple[tuple[object, ...], tuple[object, ...], str]] = [
    (("CONFIG", "SET", "maxmemory", 1000), ("CONFIG", "SET", "maxmemory", 0), "memory"),
    (("REPLICAOF", "127.0.0.1", 1), ("REPLICAOF", "NO", "ONE"), "READONLY"),
    (
        ("CONFIG", "SET", "min-replicas-to-write", 1),
        ("CONFIG", "SET", "min-replicas-to-write", 0),
        "NOREPLICAS",
    ),
    *[
        (("ACL", "SETUSER", "default", f"-{command}"), ("ACL", "SETUSER", "default", "+@all"), "NOPERM")
        for command in ("zadd", "xadd", "hset", "pexpire", "eval", "set", "zrem", "rpush")
    ],
    (("ACL", "SETUSER", "default", "resetkeys", "~other:*"), ("ACL", "SETUSER", "default", "~*"), "NOPERM"),
    (
        ("ACL", "SETUSER", "default", "resetkeys", "%R~*"),
        ("ACL", "SETUSER", "default", "~*"),
        "NOPERM",
    ),
]


async def test_a_store_that_refuses_writes_is_not_ready(
    private_valkey: ValkeyProcess, broker_url: str
) -> None:
    """Whatever it refuses with, the answer is 503 and names it; and is 200 once it takes writes again."""
    with GatewayThread(private_valkey.url(), broker_url) as gateway, private_valkey.client() as admin:
        async with gateway.client() as http:
            assert (await http.get("/readyz")).status_code == 200
            for refuse, accept, word in REFUSALS:
                admin.execute_command(*refuse)
                answer = await http.get("/readyz")
                body = check_problem(answer, 503, "store_unavailable")
                assert word in body["detail"], (refuse, body)
                assert "retry-after" in answer.headers
                admin.execute_command(*accept)
                await wait_until_async(lambda: _is_ready(http), description=f"readiness after {refuse}")


async def _is_ready(http: httpx.AsyncClient) -> bool:
    return (await http.get("/readyz")).status_code == 200


async def test_a_broker_that_refuses_writes_is_not_ready(
    private_valkey: ValkeyProcess, store_url: str
) -> None:
    """It accepts connections and answers pings; a start's message is what it has to take."""
    with GatewayThread(store_url, private_valkey.url(1)) as gateway, private_valkey.client(1) as admin:
        async with gateway.client() as http:
            assert (await http.get("/readyz")).status_code == 200
            for refuse, accept in (
                (("CONFIG", "SET", "maxmemory", 1000), ("CONFIG", "SET", "maxmemory", 0)),
                (("REPLICAOF", "127.0.0.1", 1), ("REPLICAOF", "NO", "ONE")),
                (("ACL", "SETUSER", "default", "-lpush"), ("ACL", "SETUSER", "default", "+@all")),
            ):
                admin.execute_command(*refuse)
                check_problem(await http.get("/readyz"), 503, "broker_unavailable")
                admin.execute_command(*accept)
                await wait_until_async(lambda: _is_ready(http), description=f"readiness after {refuse}")


async def test_checking_leaves_nothing_behind(store: Store, store_url: str, broker_url: str) -> None:
    """Neither keys in the store nor messages in the broker, nor a queue."""
    for _ in range(3):
        await readiness.check_writes(store)
    publisher = CeleryPublisher(broker_url)
    await publisher.aping()
    await publisher.aclose()
    assert await store.client.keys("*") == []
    with redis.Redis.from_url(broker_url, decode_responses=True) as broker:
        assert [key for key in broker.keys("*") if "ready" in key] == []


@pytest.mark.parametrize("died", [1, 3])
async def test_what_a_dead_probe_left_the_next_one_takes_away(private_valkey: ValkeyProcess, died: int):
    """A process may die between its message and taking it away: nobody else would ever do that."""
    publisher = CeleryPublisher(private_valkey.url(1))
    with private_valkey.client(1) as admin:
        admin.execute_command("ACL", "SETUSER", "default", "-del")
        for _ in range(died):
            with contextlib.suppress(errors.BrokerUnavailable):
                await publisher.aping()
        assert [key for key in admin.scan_iter() if "ready" in str(key)] != []
        admin.execute_command("ACL", "SETUSER", "default", "+@all")
        await publisher.aping()
        assert [key for key in admin.scan_iter() if "ready" in str(key)] == []
    await publisher.aclose()


# -- a Cluster


@pytest.fixture(params=["one node with all slots", "one node with none", "three nodes"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path, valkey_binary: Path) -> Iterator[ValkeyProcess]:
    """A node of a Cluster of some kind: also one that would take every single command."""
    del valkey_binary
    with contextlib.ExitStack() as stack:
        nodes = [
            stack.enter_context(
                ValkeyProcess(
                    tmp_path / f"node{number}", "--cluster-enabled", "yes", "--cluster-port", str(free_port())
                )
            )
            for number in range(3 if request.param == "three nodes" else 1)
        ]
        share = 16384 // len(nodes)
        if "none" not in request.param:
            for number, node in enumerate(nodes):
                last = 16383 if node is nodes[-1] else (number + 1) * share - 1
                with node.client() as client:
                    client.execute_command("CLUSTER", "ADDSLOTSRANGE", number * share, last)
            with nodes[0].client() as client:
                for node in nodes[1:]:
                    (bus,) = (
                        given
                        for option, given in zip(node.options, node.options[1:], strict=False)
                        if option == "--cluster-port"
                    )
                    client.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        yield nodes[0]


async def test_a_cluster_is_refused_by_name(
    cluster: ValkeyProcess, tmp_path: Path, store_url: str, broker_url: str
) -> None:
    """At the start of worker and gateway, in readiness and in what `doctor` judges by."""
    store = Store(cluster.url())
    with pytest.raises(errors.ClusterUnsupported, match="Cluster"):
        await readiness.check_writes(store)
    (found,) = [one for one in server_checks.of_store(await store.client.info()) if one.setting == "cluster"]
    assert found.fatal
    await store.close()
    with pytest.raises(errors.ClusterUnsupported):
        readiness.refuse_cluster(store_url, cluster.url())
    for urls in ((cluster.url(), broker_url), (store_url, cluster.url())):
        env = {"MAINSTEM_REDIS_URL": urls[0], "MAINSTEM_BROKER_URL": urls[1]}
        for process in (worker(env, tmp_path), gateway_process(env, tmp_path, free_port())):
            with process:
                assert process.wait(60) != 0, process.name
            assert "node of a Cluster" in process.log
            assert process.name == "worker" or "Traceback" not in process.log  # Celery's own way of refusing
            process.log_path.unlink()


async def test_a_mounted_gateway_says_that_its_store_is_a_cluster(
    cluster: ValkeyProcess, broker_url: str
) -> None:
    """Without a lifespan nothing can refuse at the start: readiness does."""
    from mainstem_api.gateway import create_app
    from mainstem_shared.settings import Settings

    app = create_app(Settings(redis_url=cluster.url(), broker_url=broker_url))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        check_problem(await http.get("/readyz"), 503, "cluster_unsupported")
    await app.state.holder.close()


def test_an_unavailable_server_is_not_judged(tmp_path: Path) -> None:
    """A start does not depend on the store; nor does what is no Redis at all."""
    readiness.refuse_cluster(
        f"redis://127.0.0.1:{free_port()}/0", "amqp://127.0.0.1:1//", "sentinel://127.0.0.1:1/main/0", ""
    )
