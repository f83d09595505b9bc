"""Growth: what a unit costs at 1/16, 1/4 and 1 times the load. Near-linear means that it stays the same."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from harness import Bench, Row
from reading import deliveries
from starting import memory_of, start_rates
from writing import steady

from mainstem_api import AsyncRuns

SHARES = (1 / 16, 1 / 4, 1.0)
LINEAR = 1.5
"""The cost of a unit at full load, against the cheaper of the smaller loads, that still counts as linear."""


async def growth_of_memory(bench: Bench) -> Row:
    """Valkey memory of running runs."""
    return await _grown(bench, "Valkey memory per run, runs", 1000, _memory_cost, "KB")


async def growth_of_deliveries(bench: Bench) -> Row:
    """A gateway's CPU for each event to SSE clients."""
    return await _grown(bench, "gateway CPU per event, SSE clients", 400, _delivery_cost, "µs")


async def growth_of_tokens(bench: Bench) -> Row:
    """A worker's CPU for each token."""
    return await _grown(bench, "CPU per token, runs × 50/s", 1000, _token_cost, "µs")


async def growth_of_starts(bench: Bench) -> Row:
    """A worker's CPU for each run of a queue that is so long."""
    return await _grown(bench, "worker CPU per run, runs in the queue", 2000, _start_cost, "µs")


async def _grown(
    bench: Bench, what: str, full: int, cost: Callable[[Bench, int], Awaitable[float]], unit: str
) -> Row:
    got = {int(full * share): await cost(bench, int(full * share)) for share in SHARES}
    ratio = got[full] / min(got.values())
    return Row(
        name=f"growth: {what}",
        figure=", ".join(f"{load:,}: {value:.1f} {unit}" for load, value in got.items()),
        ratio=f"{ratio:.2f} × the cheapest",
        goal=f"≤ {LINEAR} ×: near-linear",
        met=ratio <= LINEAR,
        data={"unit": unit, "costs": {str(load): value for load, value in got.items()}},
    )


async def _token_cost(bench: Bench, runs: int) -> float:
    return (await steady(bench, runs=runs, per_s=50, seconds=12))["cpu_us"]


async def _delivery_cost(bench: Bench, clients: int) -> float:
    return 1e6 / (await deliveries(bench, clients // 2))["events_per_cpu_s"]


async def _start_cost(bench: Bench, runs: int) -> float:
    with bench.worker() as worker:
        async with AsyncRuns(bench.settings()) as client:
            return (await start_rates(bench, worker, client, runs, rounds=1))["ours_cpu_us"]


async def _memory_cost(bench: Bench, runs: int) -> float:
    return (await memory_of(bench, runs))["running_kb"]
