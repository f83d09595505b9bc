"""Leases and sweeps over a fail-over: whoever lives is never judged by what another server knew of it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mainstem_shared.coordination.leases import Lease
from mainstem_shared.coordination.suspicions import Suspicions, server_of
from mainstem_shared.operations.performing import Operations
from mainstem_shared.operations.sweeping import Sweeper
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from mainstem_tasks.celery_support.publisher import CeleryPublisher
from support.models import listed
from support.models import verb_calls as v
from support.processes.proxy import Proxy
from support.processes.refusals import operator, refusing
from support.processes.servers import ValkeyProcess
from support.waiting import wait_until

LEASE_S = 3.0


@pytest.fixture
async def name(store_url: str) -> AsyncIterator[Proxy]:
    """A name that leads to one server now, and to another after a fail-over (`name.port`)."""
    async with Proxy(int(store_url.rpartition(":")[2].partition("/")[0])) as proxy:
        yield proxy


@pytest.fixture
async def named(name: Proxy) -> AsyncIterator[Store]:
    store = Store(name.url)
    yield store
    await store.close()


def sweeper(store: Store, broker_url: str, owner: str) -> Sweeper:
    settings = Settings(lease_s=LEASE_S, sweep_s=0.2)
    by = Operations(store=store, settings=settings, publisher=CeleryPublisher(broker_url))
    return Sweeper(operations=by, owner=lambda: owner)


async def status(store: Store, run_id: str) -> str:
    return (await v.record(store, run_id))["status"]


async def listed_as_owner(store: Store, owner: str, run_id: str) -> None:
    """An owner of a run, with no lease."""
    await store.client.zadd(keys.WORKERS, {owner: 1})
    await store.client.sadd(keys.owned(owner), run_id)
    await store.client.expire(keys.owned(owner), 60)


async def sweep(by: Sweeper, times: int) -> None:
    for _ in range(times):
        await by._recover_lost()


async def test_the_own_owner_is_never_judged(store: Store, broker_url: str):
    """A sweeper whose own lease is missing knows that the server does not hear it: it judges nobody, and beats."""
    mine, others = await v.running(store, owner="me"), await v.running(store, owner="other")
    await listed_as_owner(store, "me", mine.run_id)
    await listed_as_owner(store, "other", others.run_id)
    beats: list[int] = []
    by = sweeper(store, broker_url, "me")
    by.on_unseen = lambda: beats.append(1)
    await sweep(by, 4)
    assert len(beats) == 4
    assert [await status(store, control.run_id) for control in (mine, others)] == ["running"] * 2


async def test_a_run_of_ones_own_is_not_lost_in_a_look(store: Store, broker_url: str):
    """Also where its owner is listed nowhere: a fail-over can lose the listing with its tail."""
    mine = await v.running(store, owner="me")
    await listed.put(store.client, "active", {mine.run_id: 1})
    await sweeper(store, broker_url, "me").sweep()
    assert await status(store, mine.run_id) == "running"


@pytest.mark.one_server("a name that leads to another server")
@pytest.mark.parametrize("kind", ["another server", "the same server, promoted again"])
async def test_after_a_failover_nobody_is_judged_for_one_lease(
    kind: str,
    named: Store,
    name: Proxy,
    broker_url: str,
    private_valkey: ValkeyProcess,
    empty_server: ValkeyProcess,
):
    """What was suspected before counts no more; who is dead is settled after the grace."""
    by = sweeper(named, broker_url, "me")
    controls = [await v.running(named, owner="other")]
    await listed_as_owner(named, "other", controls[0].run_id)
    await sweep(by, 1)
    if kind == "another server":
        name.port = private_valkey.port or 0
        name.cut_all()
        second = Store(private_valkey.url())
        controls = [await v.running(second, owner="other")]
        await listed_as_owner(second, "other", controls[0].run_id)
        await second.close()
    else:
        with refusing(empty_server, "demoted"):
            pass
    before = await server_of(named)
    await sweep(by, 4)
    assert await status(named, controls[0].run_id) == "running"
    assert await server_of(named) == before
    wait_until(lambda: not by.suspicions.in_grace, description="the grace to end", timeout_s=2 * LEASE_S)
    await sweep(by, 2)
    assert await status(named, controls[0].run_id) == "failed"


async def test_an_owner_that_comes_back_before_it_is_judged_lives(
    store: Store, broker_url: str, empty_server: ValkeyProcess, monkeypatch: pytest.MonkeyPatch
):
    """Its beat is looked for once more before its runs are touched: a resync, for one, brings it."""
    control = await v.running(store, owner="other")
    await listed_as_owner(store, "other", control.run_id)
    by = sweeper(store, broker_url, "me")
    await sweep(by, 1)
    judge = Suspicions.judge

    def after_a_beat(suspects: Suspicions, *seen: Any, **options: Any) -> set[str]:
        with empty_server.client() as client:
            client.set(keys.lease("other"), "worker", ex=5)
        dead = judge(suspects, *seen, **options)
        assert dead == {"other"}
        return dead

    monkeypatch.setattr(Suspicions, "judge", after_a_beat)
    await sweep(by, 1)
    assert await status(store, control.run_id) == "running"


@pytest.mark.one_server("a password is given to one server")
def test_a_lease_is_renewed_at_once_when_the_store_is_reached_again(private_valkey: ValkeyProcess):
    """Not a third of a lease later: on another server it may have nearly expired."""
    lease = Lease(private_valkey.url(), Settings(lease_s=600))
    lease.start()
    try:
        with operator(private_valkey) as client:
            for moved in (False, True):
                client.delete(keys.lease(lease.owner))
                lease.beat_soon(moved=moved)
                wait_until(
                    lambda: client.exists(keys.lease(lease.owner)), description="the beat", timeout_s=2
                )
    finally:
        lease.stop()


def test_a_store_that_stands_still_suspends_no_process(private_valkey: ValkeyProcess):
    """However long a beat waits: this process runs, and takes nobody's word that it did not."""
    suspended: list[int] = []
    lease = Lease(private_valkey.url(), Settings(lease_s=1), on_suspended=lambda: suspended.append(1))
    lease.start()
    owner = lease.owner
    frozen = time.monotonic()
    private_valkey.freeze()
    try:
        wait_until(
            lambda: time.monotonic() - frozen > 4 or suspended or not lease.may_write,
            description="four leases",
            timeout_s=10,
        )
        assert lease.may_write
    finally:
        private_valkey.thaw()
        lease.stop()
    assert (suspended, lease.owner) == ([], owner)
