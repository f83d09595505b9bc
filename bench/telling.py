"""Telling: how long after a run's end its webhook is told, beside a bare request to the same receiver."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import statistics
import time

import httpx
from harness import Bench, Row

from mainstem_shared import transitions
from mainstem_shared.model.principals import Principal
from mainstem_shared.model.runs import Reason
from mainstem_shared.operations import ending, starting
from mainstem_shared.operations.courier import Courier
from mainstem_shared.operations.performing import Operations
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.fakes import webhook_receiver
from support.fakes.webhook_receiver import Receiver
from support.processes.dying_process import Messages
from support.waiting import wait_until_async

ENDS = 300
GOAL_S = 0.05


async def telling(bench: Bench) -> Row:
    """End runs one after the other, whose webhook a courier of the same process tells at once."""
    async with webhook_receiver.receiving() as receiver:
        settings = bench.settings(
            on_run_end=receiver.url(),
            webhook_secrets="whsec_" + base64.b64encode(os.urandom(32)).decode(),
        )
        store = Store(bench.server.url(0))
        operations = Operations(store=store, settings=settings, publisher=Messages())
        courier = asyncio.create_task(Courier(operations).run())
        try:
            took = [await _told(operations, receiver) for _ in range(bench.scaled(ENDS, 20))]
            bare = await _bare(receiver)
        finally:
            courier.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await courier
            await store.close()
    p50, worst = statistics.median(took), statistics.quantiles(took, n=100)[98]
    return Row(
        name="a webhook told of an end",
        figure=f"{p50 * 1000:.1f} ms p50, {worst * 1000:.1f} ms p99, from before the end is written",
        baseline=f"a bare request: {bare * 1000:.1f} ms",
        ratio=f"{p50 / bare:.1f} ×",
        goal=f"p50 ≤ {GOAL_S * 1000:.0f} ms",
        met=bench.judge(p50 <= GOAL_S),
        data={"p50_s": p50, "p99_s": worst, "bare_s": bare},
    )


async def _told(operations: Operations, receiver: Receiver) -> float:
    """Start a run, end it, and return how long it took from then until its receiver had heard."""
    await operations.store.client.hset(keys.ENGINES, "demo", "{}")
    request = starting.parse_request({"engine": "demo", "input": {}, "if_active": "enqueue"})
    answer = await starting.start_run(
        operations, request, principal=Principal(user_id="ann"), thread_id=f"told-{len(receiver.received)}"
    )
    before, began = len(receiver.received), time.perf_counter()
    settled = await ending.take_and_end(operations, answer.run_id, sealer="", reason=Reason.USER_ABORT)
    assert settled is not None
    await wait_until_async(lambda: len(receiver.received) > before, description="the receiver has heard")
    took = receiver.received[-1].at - began
    assert receiver.received[-1].event["data"]["run_id"] == answer.run_id
    state = await transitions.find(operations.store, answer.run_id)
    assert not isinstance(state, transitions.Gone)
    return took


async def _bare(receiver: Receiver) -> float:
    """Return the median of the same body's way to the receiver, over one kept connection."""
    body, took = receiver.received[-1].body, list[float]()
    async with httpx.AsyncClient(trust_env=False) as client:
        for _ in range(100):
            began = time.perf_counter()
            await client.post(receiver.url(), content=body)
            took.append(receiver.received[-1].at - began)
    return statistics.median(took)
