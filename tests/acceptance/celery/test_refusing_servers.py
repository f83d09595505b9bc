"""Servers that answer a worker with errors: it lives on with all its runs, and does what waited as soon as it can."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from mainstem_api import AsyncRuns
from mainstem_shared.model.runs import Status
from support.clients.clients import client
from support.engines.demowords import demo_text
from support.processes.processes import Child
from support.processes.projects import Project
from support.processes.refusals import REFUSALS, refusing
from support.waiting import wait_until_async

REFUSED_S = 2.0
TOKENS = 20_000
QUICK = {"MAINSTEM_SWEEP_S": "0.5", "MAINSTEM_LEASE_S": "4"}
"""Less than the refusals together last: who could not renew it must not be taken for dead."""


def with_password(live: Any) -> dict[str, str]:
    """Return addresses with a password, which is right as long as none is set: once one is, WRONGPASS comes."""
    return {name: url.replace("redis://", "redis://default:first@") for name, url in live.env.items()}


async def said(runs: AsyncRuns, run_id: str) -> int:
    return len((await runs.get(run_id)).text)


async def goes_on(runs: AsyncRuns, run_id: str, kind: str) -> None:
    before = await said(runs, run_id)

    async def grown() -> bool:
        return await said(runs, run_id) > before

    await wait_until_async(grown, description=f"the run to go on after: {kind}", timeout_s=20)


def is_well(worker: Child) -> None:
    assert worker.running, worker.log[-3000:]
    # Celery calls it critical that a message cannot be acknowledged; the broker delivers it again.
    said = worker.log.replace("CRITICAL Couldn't ack", "")
    for word in ("Unrecoverable", "CRITICAL", "run_lost"):
        assert word not in said, said[-3000:]


@pytest.mark.timeout(240)
async def test_a_broker_that_refuses_ends_neither_worker_nor_run(apart: Any):
    """One worker outlives all of it; its run streams on meanwhile, and what was started in it is executed after."""
    worker = apart.worker(**QUICK, **with_password(apart))
    async with client(apart) as runs:
        long = (await runs.start("long", "demo", {"tokens": TOKENS, "interval_ms": 10})).run_id
        await goes_on(runs, long, "the start")
        for kind in REFUSALS:
            with refusing(apart.broker, kind):
                begun = await runs.start(kind, "demo", {"tokens": 5, "interval_ms": 1})
                await asyncio.sleep(REFUSED_S)  # its length is the input
                await goes_on(runs, long, kind)
            ended = await runs.wait(begun.run_id, timeout=30)
            assert (ended.status, ended.text) == (Status.SUCCEEDED, demo_text(5)), kind
            is_well(worker)
        assert (await runs.get(long)).status is Status.RUNNING


@pytest.mark.timeout(240)
async def test_a_store_that_refuses_ends_neither_worker_nor_run(fragile: Any):
    """Events wait while nothing can be written; nobody judges an owner by a lease that nobody could renew."""
    worker = fragile.worker(**QUICK, **with_password(fragile))
    async with client(fragile) as runs:
        long = (await runs.start("long", "demo", {"tokens": TOKENS, "interval_ms": 10})).run_id
        await goes_on(runs, long, "the start")
        for kind in REFUSALS:
            with refusing(fragile.store, kind):
                await asyncio.sleep(REFUSED_S)  # its length is the input
            await goes_on(runs, long, kind)
            before = await said(runs, long)
            text = (await runs.get(long)).text
            assert text == demo_text(TOKENS)[: len(text)]
            assert len(text) >= before > 0
            is_well(worker)
        assert (await runs.get(long)).status is Status.RUNNING


@pytest.mark.timeout(180)
@pytest.mark.parametrize("pool", ["threads", "prefork"])
async def test_other_pools_outlive_a_broker_that_refuses(apart: Any, tmp_path: Path, pool: str):
    """Celery's own pools have the same consumer: an application's worker on them gets over it as well."""
    worker = Project(apart, tmp_path).worker("--pool", pool, "-c", "2")
    async with client(apart) as runs:
        for kind in ("demoted", "without rights", "password changed", "crowded"):
            with refusing(apart.broker, kind):
                begun = await runs.start(kind, "demo", {"tokens": 5, "interval_ms": 1})
                await asyncio.sleep(REFUSED_S)  # its length is the input
            ended = await runs.wait(begun.run_id, timeout=40)
            assert (ended.status, ended.text) == (Status.SUCCEEDED, demo_text(5)), kind
            is_well(worker)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", ["demoted", "without rights", "password changed", "disk full"])
async def test_a_worker_that_starts_while_everything_refuses_begins_when_it_can(whole: Any, kind: str):
    """Store and broker are one server that refuses: the worker waits for it, as for one that is away."""
    with refusing(whole.store, kind):
        worker = whole.worker(ready=False, **QUICK)
        await asyncio.sleep(2 * REFUSED_S)  # its length is the input
        assert worker.running, worker.log[-3000:]
    async with client(whole) as runs:
        await wait_until_async(whole.engines_announced, description="the engines", timeout_s=30)
        begun = await runs.start("t", "demo", {"tokens": 5, "interval_ms": 1})
        assert (await runs.wait(begun.run_id, timeout=40)).text == demo_text(5)
    is_well(worker)
