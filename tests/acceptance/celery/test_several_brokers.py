"""Two brokers, each with its queue, its worker and its web tier, over one store. In `make fleet`: two workers begin."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mainstem_api import AsyncRuns
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from support.engines.demowords import demo_text
from support.waiting import wait_until, wait_until_async

pytestmark = pytest.mark.skipif(
    "MAINSTEM_FLEET_ROUNDS" not in os.environ, reason="begins two workers: make fleet"
)
RUNS = 6


@pytest.fixture
def cells(live_system: Any, empty_server: Any, private_valkey: Any, tmp_path: Path) -> Iterator[list[Any]]:
    """One store; two brokers with a queue and a worker each."""
    made = [
        live_system(empty_server, broker, tmp_path / name)
        for broker, name in zip((empty_server, private_valkey), "ab", strict=True)
    ]
    for cell, name in zip(made, "ab", strict=True):
        (tmp_path / name).mkdir()
        cell.env["MAINSTEM_QUEUE"] = name
    with made[0].stack, made[1].stack:
        for cell, name in zip(made, "ab", strict=True):
            cell.worker(name, ready=False, MAINSTEM_SWEEP_S="1")
        for cell in made:
            (child,) = cell.children
            wait_until(
                lambda c=child, at=cell: at.is_ready(c), description=f"{child.name} to be ready", timeout_s=60
            )
        yield made


def settings_of(cell: Any, queue: str) -> Settings:
    return Settings(redis_url=cell.store.url(0), broker_url=cell.broker.url(1), queue=queue)


async def test_each_queue_has_its_broker_and_all_share_the_runs(cells: list[Any]) -> None:
    """A run is executed where it was started; any web tier reads, follows and aborts it, without the other's broker."""
    async with AsyncRuns(settings_of(cells[0], "a")) as a, AsyncRuns(settings_of(cells[1], "b")) as b:
        started = [
            (await tier.start(f"{name}{n}", "demo", {"tokens": 40, "interval_ms": 2}), tier, other, name)
            for n in range(RUNS)
            for tier, other, name in ((a, b, "a"), (b, a, "b"))
        ]
        for handle, _, other, name in started:
            run = await other.wait(handle.run_id, timeout=30)
            assert (run.status, run.text) == ("succeeded", demo_text(40))
            pid = next(child.pid for child in cells["ab".index(name)].children)
            assert f"-{pid}-" in (run.worker or "")
        endless = await a.start("endless", "demo", {"tokens": 100_000, "interval_ms": 5})

        async def is_running() -> bool:
            return (await b.get(endless.run_id)).status == "running"

        await wait_until_async(is_running, description="the run to begin", timeout_s=20)
        aborted = await b.abort(endless.run_id, wait=10)
        assert (aborted.outcome, aborted.signal_delivered) == ("aborted", True)


async def test_a_broker_that_is_gone_holds_up_its_own_queue_alone(cells: list[Any]) -> None:
    """And its runs, which are in the store, are found by the other's sweeper: they go to the broker that is there."""
    cells[1].broker.sigkill()
    try:
        async with AsyncRuns(settings_of(cells[0], "a")) as a, AsyncRuns(settings_of(cells[1], "b")) as b:
            orphan = await b.start("orphan", "demo", {"tokens": 5, "interval_ms": 0})
            ran = await a.start("fine", "demo", {"tokens": 5, "interval_ms": 0})
            assert (await a.wait(ran.run_id, timeout=20)).status == "succeeded"
            with cells[0].store.client() as store:
                store.zadd(keys.run(orphan.run_id).active, {orphan.run_id: 0})  # its check is due now
            assert (await asyncio.wait_for(a.wait(orphan.run_id, timeout=40), 60)).status == "succeeded"
    finally:
        cells[1].broker.start()
