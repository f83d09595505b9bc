"""A deployment: every worker and every gateway is replaced, one after the other, while runs go on and start."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import random
from pathlib import Path

import httpx
import pytest

from chaos.load import Load
from chaos.properties import Properties
from chaos.system import START_S, System, gateway_is_ready, worker_is_ready
from mainstem_shared.store import keys
from support.processes.processes import Child
from support.waiting import wait_until_async

AT_ONCE = 10
AT_LEAST = 25
LONG_TOKENS = (150, 250)
EXIT_S = 60.0
SETTLE_S = 60.0
STOPPED = (0, -15)
"""Exit codes of a process that stopped as it was told; uvicorn hands the signal on when it is through."""


@pytest.mark.timeout(180)
async def test_a_rolling_restart_loses_nothing(tmp_path: Path):
    """No run is lost, no event lost or doubled; who has a checkpoint goes on elsewhere; nobody was swept."""
    with contextlib.ExitStack() as stack:
        system = System(tmp_path, stack, workers=2)
        await system.start()
        load = Load(system, random.Random(4), at_once=AT_ONCE, at_least=AT_LEAST, long_tokens=LONG_TOKENS)
        properties = Properties(system, load.started)
        stack.callback(properties.close)
        loading = asyncio.create_task(load.run())
        try:
            replacing = asyncio.create_task(replace_everything(system, load))
            await asyncio.wait({loading, replacing}, return_when=asyncio.FIRST_COMPLETED)
            if not replacing.done():
                replacing.cancel()
                await loading  # it failed
            await replacing
            load.stop()
            async with asyncio.timeout(SETTLE_S):
                await loading
        finally:
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
        await properties.come_to_rest()
        properties.check_all()
        check_ends(system, load)
        assert system.complaints() == []


async def replace_everything(system: System, load: Load) -> None:
    """Start each new worker before the old one stops; a gateway is away for as long as its restart takes."""
    for old in list(system.workers):
        await wait_until_async(lambda: len(load.live) >= AT_ONCE, description="the load", timeout_s=START_S)
        await wait_until_async(
            lambda child=old: works(system, child), description="runs on it", timeout_s=START_S
        )
        new = system.add_worker()
        await wait_until_async(
            lambda child=new: worker_is_ready(child), description=new.name, timeout_s=START_S
        )
        await stopped(old)
        system.workers.remove(old)
    async with httpx.AsyncClient(trust_env=False) as client:
        for child, port in zip(system.gateways, system.ports, strict=True):
            await stopped(child)
            child.start()
            await wait_until_async(
                lambda p=port: gateway_is_ready(client, p), description=child.name, timeout_s=START_S
            )


def works(system: System, child: Child) -> bool:
    with system.store.client() as client:
        return any(client.scard(key) for key in client.scan_iter(f"ms:{{w:*-{child.pid}-*:runs"))


async def stopped(child: Child) -> None:
    child.terminate()
    assert await asyncio.to_thread(child.wait, EXIT_S) in STOPPED


def check_ends(system: System, load: Load) -> None:
    """A run with checkpoints is completed wherever it was begun; others may say that they were stopped."""
    ends: collections.Counter[tuple[str, str]] = collections.Counter()
    moved = 0
    with system.store.client() as client:
        for run in load.started:
            reason, segment = client.hmget(keys.run(run.run_id).record, "reason", "segment")
            ends[run.engine, str(reason)] += 1
            moved += run.engine == "counting" and segment != "1"
    assert ends.keys() <= {("counting", "completed"), ("demo", "completed"), ("demo", "shutdown")}
    assert moved, "no run was handed over: this showed nothing"
    assert all(reader.fold.text for run in load.started for reader in run.readers)
