"""Machines whose clocks are hours off: what processes compare with each other goes by the store's time."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import httpx
import pytest

from mainstem_shared.store import keys
from support.clients.approvals import decision, paused
from support.clients.clients import client
from support.processes import processes
from support.processes.servers import free_port
from support.processes.wall_clocks import WallClock
from support.waiting import wait_until, wait_until_async

QUICK = {
    "MAINSTEM_LEASE_S": "1.5",
    "MAINSTEM_SWEEP_S": "0.4",
    "MAINSTEM_MAX_RUN_S": "600",
    "MAINSTEM_ENGINES": "support.engines.engines",
}
NEAR_S = 300
"""Nothing of a run that just began is due later than that."""


def with_clock(live: Any, ahead_s: int) -> dict[str, str]:
    """The environment of a process whose wall clock is so far ahead."""
    return {**QUICK, **WallClock(live.directory / f"ahead{ahead_s}", ahead_s=ahead_s).env}


@pytest.mark.parametrize("ahead_s", [7200, -7200])
def test_a_gateway_with_a_wrong_clock_writes_the_stores_time(live, ahead_s: int):
    """Its first run is created now, and looked at as soon as anybody's: not hours later, not at once."""
    port = free_port()
    gateway = processes.gateway({**live.env, **with_clock(live, ahead_s)}, live.directory, port)
    live.stack.enter_context(gateway)
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return httpx.get(f"{url}/readyz").is_success
        except httpx.TransportError:
            return False

    wait_until(answers, description="the gateway", timeout_s=30)
    run: dict[str, Any] = httpx.post(f"{url}/v1/threads/t/runs", json={"engine": "demo", "input": {}}).json()
    created_s = datetime.fromisoformat(run["created_at"]).timestamp()
    with live.store.client() as store:
        look_s = store.zscore(keys.run(run["run_id"]).active, run["run_id"]) / 1000
        (beat_s,) = [at / 1000 for _, at in store.zrange(keys.WORKERS, 0, -1, withscores=True)]
    assert abs(created_s - time.time()) < NEAR_S
    assert 0 < look_s - created_s < NEAR_S
    assert abs(beat_s - time.time()) < NEAR_S


@pytest.mark.parametrize("ahead_s", [7200, -7200])
async def test_a_worker_with_a_wrong_clock_ends_no_healthy_run(live, ahead_s: int):
    """It goes on with a run that another one began, and its sweeps leave alone what waits for a human."""
    first = live.worker("first", **with_clock(live, 0))
    async with client(live) as runs:
        resumed, waiting = [
            (await runs.start(thread, "asking", {"asks": ["a"], "window_s": 3600})).run_id for thread in "ab"
        ]
        run = await paused(runs, resumed)
        await paused(runs, waiting)
        first.stop()
        second = live.worker("second", **with_clock(live, ahead_s))
        await runs.resume(resumed, **decision(run, "approve"))
        done = await runs.wait(resumed, timeout=20)
        assert (done.reason, done.text) == ("completed", "a=approve state=a")

        def swept() -> bool:  # whoever is elected has looked at all that was due
            with live.store.client() as store:
                return f"-{second.pid}-" in (store.get(keys.SWEEP) or "")

        await wait_until_async(swept, description="a whole sweep")
        assert (await runs.get(waiting)).status == "requires_action"
