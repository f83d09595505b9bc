"""One of three servers is away, killed or frozen: everything that does not need it goes on, and says what is missing."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from mainstem_shared import errors, transitions
from mainstem_shared.model.principals import Principal
from mainstem_shared.model.runs import Status
from mainstem_shared.operations import starting
from mainstem_shared.operations.indexes import CHECKS, Indexes
from mainstem_shared.operations.performing import Operations
from mainstem_shared.operations.queries import listings, searches, summaries
from mainstem_shared.operations.queries.listings import Query
from mainstem_shared.operations.sweeping import Sweeper
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys, readiness
from mainstem_shared.store.client import Store
from support.models import verb_calls as v
from support.processes import dying_process
from support.processes.servers import ValkeyProcess
from support.waiting import wait_until_async

RUNS = 15
SETTINGS = Settings()
HOWS = ["kill", "freeze"] if "MAINSTEM_FLEET_ROUNDS" in os.environ else ["kill"]
"""A frozen server takes a quarter of a minute: each first call waits until it is found silent."""


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, valkey_binary: Path) -> Iterator[list[ValkeyProcess]]:
    """Three static shards."""
    del valkey_binary
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(ValkeyProcess(tmp_path_factory.mktemp(f"shard{n}"))) for n in range(3)]


@pytest.fixture
async def store(servers: list[ValkeyProcess]) -> AsyncIterator[Store]:
    for server in servers:
        with server.client() as client:
            client.flushall()
    made = Store(",".join(server.url() for server in servers))
    yield made
    await made.close()


def _leave(server: ValkeyProcess, how: str) -> None:
    server.freeze() if how == "freeze" else server.sigkill()


def _return(server: ValkeyProcess, how: str) -> None:
    server.thaw() if how == "freeze" else server.start()


@pytest.mark.parametrize("how", HOWS)
async def test_the_others_go_on_and_say_what_is_missing(
    how: str, store: Store, servers: list[ValkeyProcess]
) -> None:
    """Sweeps, lists, counts, what is due, readiness and starts; and all of it again once the server is back."""
    run_ids = {(await v.running(store)).run_id for _ in range(RUNS)}
    away = servers[1].url()
    here = {run_id for run_id in run_ids if store.topology.node_of(keys.run(run_id).record) != away}
    assert 0 < len(here) < RUNS
    indexes = Indexes(store=store, settings=SETTINGS)
    for run_id in run_ids:
        await indexes.check_at(run_id, 1)
    messages = dying_process.Messages()
    operations = Operations(store=store, settings=SETTINGS, publisher=messages)  # type: ignore[arg-type]
    sweeper = Sweeper(operations=operations, owner=lambda: "sweeper")
    await store.command("SET", keys.lease("me"), "worker", "EX", 120)
    await store.command("SET", keys.lease("sweeper"), "worker", "EX", 120)
    _leave(servers[1], how)
    try:
        began = time.monotonic()
        page = await listings.page(store, Query(), limit=100)
        assert ({run.run_id for run in page.runs}, page.complete) == (here, False)
        overview = await summaries.active(store, Query())
        assert (overview.counts, overview.complete) == ({Status.RUNNING: len(here)}, False)
        recent = await summaries.recent(store, Query(), limit=100)
        assert ({run.run_id for run in recent.runs}, recent.complete) == (here, False)
        missed: set[str] = set()
        ran = await searches.find(
            store, searches.Search(query=Query(), engine="demo"), limit=100, by_end=False, missed=missed
        )
        assert ({run.run_id for run in ran}, missed) == (here, {away})
        assert (await indexes.due())[CHECKS].count == len(here)
        await sweeper.sweep()
        assert sweeper.backlog[CHECKS][0] == len(here)
        assert sweeper.census is not None
        assert (sweeper.census.complete, sweeper.census.runs["running"]) == (False, len(here))
        assert not sweeper.store_up
        assert {node.url for node in sweeper.servers if not node.is_up} == {away}
        assert await readiness.check_writes(store) == {
            server.url(): server is not servers[1] for server in servers
        }
        assert time.monotonic() - began < 20
        assert await _start_where_it_can(operations, away)
    finally:
        _return(servers[1], how)

    async def is_whole() -> bool:
        found = await listings.page(store, Query(), limit=100)
        return found.complete and run_ids <= {run.run_id for run in found.runs}

    await wait_until_async(is_whole, description="the list to be whole again", timeout_s=20)
    await sweeper.sweep()
    assert sweeper.store_up
    assert sweeper.census is not None
    assert all((await readiness.check_writes(store)).values())
    records = await transitions.read_many(store, sorted(run_ids))
    assert not [record for record in records if isinstance(record, transitions.Gone)]


async def _start_where_it_can(operations: Operations, away: str) -> str:
    """Start a run of a user and on a thread whose servers are there."""
    node_of = operations.store.topology.node_of
    user = next(
        user for n in itertools.count() if node_of(keys.user_runs("default", user := f"u{n}")) != away
    )
    thread = next(
        thread for n in itertools.count() if node_of(keys.thread("default", thread := f"t{n}")) != away
    )
    outcome = await starting.start_run(
        operations,
        starting.parse_request({"engine": "demo", "input": {}}),
        principal=Principal(user_id=user),
        thread_id=thread,
    )
    return outcome.run_id


async def test_most_servers_unavailable_is_not_ready(store: Store, servers: list[ValkeyProcess]) -> None:
    """And none at all is what it was on one server: every call says so."""
    await v.running(store)
    with contextlib.ExitStack() as stack:
        for server in servers[1:]:
            server.sigkill()
            stack.callback(server.start)
        with pytest.raises(errors.StoreUnavailable):
            await readiness.check_writes(store)
        servers[0].sigkill()
        stack.callback(servers[0].start)
        with pytest.raises(errors.StoreUnavailable):
            await listings.page(store, Query(), limit=100)
