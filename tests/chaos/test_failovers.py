"""Fail-overs and refusals: servers are killed, stopped, demoted and filled under load, and no healthy run is lost.

MAINSTEM_CHAOS_FAILOVERS and MAINSTEM_CHAOS_REFUSALS say how often; `make chaos` sets the long form.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from pathlib import Path

import pytest

from chaos.fleets import MARGIN_S, SEED, disturbed
from support.processes.refusals import REFUSALS, refusing
from support.processes.sentinels import Group, Member, group
from support.processes.servers import ValkeyProcess

FAILOVERS = int(os.environ.get("MAINSTEM_CHAOS_FAILOVERS", "2"))
REFUSED = int(os.environ.get("MAINSTEM_CHAOS_REFUSALS", "0"))
STALL_S = (4.0, 20.0)
REFUSAL_S = (1.0, 4.0)
NOTICED_S = 5.0
"""Until everybody has left a primary that woke up: Sentinels demote it, and clients ask them once a second."""
SERVERS = ("store", "broker", "both")


@pytest.mark.slow
@pytest.mark.timeout(120 + 75 * FAILOVERS)
async def test_failovers_lose_no_healthy_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Store and broker behind Sentinels; the primary is killed, or stands still for 4 to 20 s and wakes up."""
    dice = random.Random(SEED + 1)
    with group(tmp_path / "group") as servers:
        env = {
            "MAINSTEM_REDIS_URL": servers.url(0),
            "MAINSTEM_BROKER_URL": servers.url(1),
            "MAINSTEM_COMPACT_AFTER_S": "3600",
        }
        async with disturbed("fail-overs", tmp_path, env, capsys) as (fleet, faults):
            for trial in range(FAILOVERS):
                await asyncio.sleep(dice.uniform(2, 5))
                since = time.monotonic()
                if trial % 3 == 0:
                    await killed(servers)
                    faults["killed"] += 1
                else:
                    await stalled(servers, dice.uniform(*STALL_S))
                    faults["stalled"] += 1
                # A start that a primary acknowledged while it was cut off, or thawed, may be lost (docs/failovers.md).
                fleet.lost_spans.append((since - MARGIN_S, time.monotonic() + NOTICED_S))
                await asyncio.to_thread(servers.wait_until_whole)


async def killed(servers: Group) -> None:
    former = servers.primary
    former.sigkill()
    await asyncio.to_thread(servers.wait_for_other_primary, former)
    await asyncio.to_thread(follow, former, servers.primary)


def follow(former: Member, primary: Member) -> None:
    """Start a killed server again; the Sentinels make it follow, which takes them ten seconds less if it begins so."""
    former.options = (*former.options, "--replicaof", primary.host, str(primary.port))
    former.start()


async def stalled(servers: Group, seconds: float) -> None:
    former = servers.primary
    former.freeze()
    try:
        await asyncio.sleep(seconds)
    finally:
        former.thaw()


@pytest.mark.slow
@pytest.mark.timeout(120 + 60 * len(REFUSALS) * max(REFUSED, 1))
async def test_refusals_lose_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Store and broker refuse in each way there is, in random order, one or both at a time."""
    dice = random.Random(SEED + 2)
    with ValkeyProcess(tmp_path / "store") as store, ValkeyProcess(tmp_path / "broker") as broker:
        env = {"MAINSTEM_REDIS_URL": store.url(0), "MAINSTEM_BROKER_URL": broker.url(0)}
        async with disturbed("refusals", tmp_path, env, capsys) as (_, faults):
            plan = [(server, kind) for kind in REFUSALS for server in SERVERS for _ in range(REFUSED)]
            plan = plan or [(dice.choice(SERVERS), kind) for kind in REFUSALS]
            dice.shuffle(plan)
            for name, kind in plan:
                await asyncio.sleep(dice.uniform(0.5, 1.5))
                with contextlib.ExitStack() as refused:
                    for server in {"store": [store], "broker": [broker], "both": [store, broker]}[name]:
                        refused.enter_context(refusing(server, kind))
                    await asyncio.sleep(dice.uniform(*REFUSAL_S))
                faults[f"{name} {kind}"] += 1
