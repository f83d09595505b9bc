"""Three nodes of a Cluster: every verb is one slot's, so that runs spread by thread over the nodes.

The verbs and their keys are ready for a Cluster; the writer, the tailer and the shared line are not (they have
one connection each): docs/scaling.md says what that means.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio.cluster import RedisCluster

from mainstem_shared import transitions
from mainstem_shared.eventlog.reading import run_states
from mainstem_shared.model.cursors import START
from mainstem_shared.model.runs import Reason, Status
from mainstem_shared.store import keys
from mainstem_shared.store.client import Script, Store
from support.models.logs import RunLog
from support.processes.servers import ValkeyProcess, free_port
from support.waiting import wait_until

SLOTS = 16384
RUNS = 24


class ClusterStore(Store):
    """Sends each verb to the node that has its keys."""

    @cached_property
    def client(self) -> Any:
        return RedisCluster.from_url(self.url, protocol=2)

    async def _evaluate(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> list[Any]:
        return await self.client.eval(script.source, len(keys), *keys, *args)


@pytest.fixture
def nodes(tmp_path: Path, valkey_binary: Path) -> Iterator[list[ValkeyProcess]]:
    """Three nodes that know each other, with a third of the slots each."""
    del valkey_binary
    with contextlib.ExitStack() as stack:
        # Not the default, 10,000 above the other one: many a free port has none there.
        buses = [str(free_port()) for _ in range(3)]
        started = [
            stack.enter_context(
                ValkeyProcess(tmp_path / f"node{n}", "--cluster-enabled", "yes", "--cluster-port", buses[n])
            )
            for n in range(3)
        ]
        clients = [stack.enter_context(node.client()) for node in started]
        for n, client in enumerate(clients):
            first, last = n * SLOTS // 3, (n + 1) * SLOTS // 3 - 1
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
        for node, bus in list(zip(started, buses, strict=True))[1:]:
            clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        for client in clients:
            wait_until(
                lambda c=client: "cluster_state:ok" in c.execute_command("CLUSTER", "INFO"),
                description="the cluster to form",
                timeout_s=40,
            )
        yield started


@pytest.fixture
async def store(nodes: list[ValkeyProcess]) -> AsyncIterator[Store]:
    made = ClusterStore(nodes[0].url(0))
    yield made
    await made.client.aclose()


async def test_runs_spread_over_the_nodes_and_live_there(store: Store, nodes: list[ValkeyProcess]):
    """A run's whole life, by every verb that its owner and its readers call; its keys are on one node."""
    runs = [await RunLog.start(store) for _ in range(RUNS)]
    for run in runs:
        await run.claim()
        await run.say(3)
        await run.snapshot()
        await run.say(2)
        page = await transitions.page(store, run.run_id, after=START)
        assert isinstance(page, transitions.Page)
        intent = await transitions.stop(store, run.run_id, reason=Reason.USER_ABORT)
        assert isinstance(intent, transitions.Intended)
        await run.finish()
        await run.compact()
        seen = await run_states.get_run(store, run.run_id)
        assert (seen.status, seen.text) == (Status.SUCCEEDED, run.fold.text)
    held = []
    for node in nodes:
        with node.client() as client:
            held.append({key.split("}")[0] for key in client.keys("ms:{*")})
    assert all(held), "a node has no run"
    assert sum(map(len, held)) == len(set.union(*held)), "a bucket is on two nodes"
    assert {keys.run(run.run_id).record.split("}")[0] for run in runs} == set.union(*held)
