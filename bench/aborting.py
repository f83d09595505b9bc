"""Rows about aborts: idle, beside 500 runs, and with Celery's broadcast dropped, so that the mailbox does it.

Each try is one run: `abort` is called, its engine says when it was cancelled, a reader gets the end.
"""

from __future__ import annotations

import asyncio
import time

from harness import Bench, Row, data_of, percentile, sse

from mainstem_api import AsyncRuns
from mainstem_shared.store import endpoints
from mainstem_tasks.celery_support.publisher import CeleryPublisher

TRIES = 200
CROWD = 500
AT_ONCE = 50


class Silent(CeleryPublisher):
    """Publishes runs, and drops every revocation."""

    async def arevoke(self, task_id: str, *, terminate: bool = True) -> None:
        del task_id, terminate


async def aborts(bench: Bench) -> Row:
    """On an idle worker, with everything an abort has."""
    return _row(bench, "abort, idle", await times(bench), within_ms=(25, 50), mostly_ms=(5, 10))


async def aborts_busy(bench: Bench) -> Row:
    """The same while the worker executes 500 other runs."""
    crowd = bench.scaled(CROWD, 50)
    return _row(
        bench, f"abort beside {crowd} runs × 20/s", await times(bench, crowd=crowd), within_ms=(100, 100)
    )


async def aborts_by_mail(bench: Bench) -> Row:
    """On an idle worker whose Celery hears nothing of it."""
    return _row(
        bench, "abort, idle, Celery's broadcast dropped", await times(bench, silent=True), within_ms=(25, 50)
    )


def _row(
    bench: Bench,
    name: str,
    measured: tuple[list[float], list[float]],
    *,
    within_ms: tuple[float, float],
    mostly_ms: tuple[float, float] | None = None,
) -> Row:
    """Tell p50 and p99 to the engine's cancellation, and to the terminal event at a reader."""
    cancelled, ended = ((percentile(values, 0.5), percentile(values, 0.99)) for values in measured)
    met, mostly = cancelled[1] <= within_ms[0] and ended[1] <= within_ms[1], ""
    if mostly_ms is not None:
        met = met and cancelled[0] <= mostly_ms[0] and ended[0] <= mostly_ms[1]
        mostly = f"p50 ≤ {mostly_ms[0]:g} / {mostly_ms[1]:g} ms, "
    return Row(
        name=f"{name}: engine cancelled / terminal event",
        figure=f"p50 {cancelled[0]:.1f} / {ended[0]:.1f} ms, p99 {cancelled[1]:.1f} / {ended[1]:.1f} ms",
        goal=f"{mostly}p99 ≤ {within_ms[0]:g} / {within_ms[1]:g} ms",
        met=bench.judge(met),
        data={"cancelled": cancelled, "ended": ended, "tries": len(measured[1])},
    )


async def times(bench: Bench, *, crowd: int = 0, silent: bool = False) -> tuple[list[float], list[float]]:
    """Milliseconds from the call to the engine's cancellation, and to the terminal event; one per try."""
    settings = bench.settings()
    publisher = Silent(endpoints.broker_url(settings), queue=settings.queue) if silent else None
    with bench.worker(), bench.gateway() as (_, port):
        async with AsyncRuns(settings, publisher=publisher) as client:
            others = await _crowd(client, crowd)
            try:
                tries = [await _try(client, port, n) for n in range(bench.scaled(TRIES, 20))]
            finally:
                await asyncio.gather(*(client.abort(run_id, wait=20) for run_id in others))
    if publisher is not None:
        await publisher.aclose()
    return [cancelled for cancelled, _ in tries], [ended for _, ended in tries]


async def _crowd(client: AsyncRuns, count: int) -> list[str]:
    """Have the worker execute so many other runs."""
    started: list[str] = []
    wanted = {"tokens": 100_000, "interval_ms": 50}
    for first in range(0, count, AT_ONCE):
        batch = (
            client.start(f"crowd-{time.monotonic_ns()}-{n}", "demo", wanted)
            for n in range(min(AT_ONCE, count - first))
        )
        started += [result.run_id for result in await asyncio.gather(*batch)]
    for run_id in started[-3:]:
        while (await client.get(run_id)).started_at is None:
            await asyncio.sleep(0.1)
    return started


async def _try(client: AsyncRuns, port: int, number: int) -> tuple[float, float]:
    """Abort one run that waits; returns when its engine was cancelled and when its reader had the end."""
    run_id = (await client.start(f"abort-{time.monotonic_ns()}-{number}", "bench.patient")).run_id
    async with sse(port, run_id) as stream:
        while b"waiting" not in await stream.readline():
            pass
        cancelled_ns, begun = 0, time.time_ns()
        aborting = asyncio.create_task(client.abort(run_id))
        while not (line := await stream.readline()).startswith(b"event: run.finished"):
            if b'"cancelled"' in line:
                cancelled_ns = data_of(line)["data"]
        ended_ns = time.time_ns()
        await aborting
    return (cancelled_ns - begun) / 1e6, (ended_ns - begun) / 1e6
