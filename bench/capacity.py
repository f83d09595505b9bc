"""Workers, gateways, stores and brokers for so many concurrent runs, by the costs that `make bench` measured.

A model of a few lines, on purpose: a process has a cost per unit of work, a load so many units a second. It
prints the tables of docs/scaling.md, and says how far its predictions were from what was measured.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
BUSY = 0.6
"""The share of a core that a process may use on average: bursts, sweeps and redeliveries want the rest."""
STORE_BYTES = 16e9
"""Memory of one store; what is over it is another shard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a typical deployment of LLM chats does. Change them with options."""

    tokens_s: float = 40
    """Tokens a second of one run."""
    run_s: float = 30
    """How long a run streams."""
    readers: float = 1.2
    """Event streams per run: most have one reader, some a second tab."""
    aborts: float = 0.03
    """The share of runs that somebody stops."""
    kept_h: float = 168
    """How long a finished run stays readable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """CPU in microseconds, memory in bytes, of one unit."""

    token_worker: float
    token_store: float
    token_store_bytes: float
    start_worker: float
    start_servers: float
    """Store and broker together, as they are one process where this is measured."""
    noop_servers: float
    """The broker's part of it: what a Celery task that does nothing costs."""
    event_gateway: float
    run_worker_bytes: float
    run_store_bytes: float
    over_store_bytes: float
    monitor_event: float
    """Flower, per event of a worker; measured with celery.events' own state."""
    broadcast_worker: float
    """A worker, per control message: Celery's abort of one run reaches all workers."""


EVENTS_PER_RUN = 4
"""Celery's sent, received, started and its end."""
HEARTBEATS_S = 0.5
"""Events a second of a worker that does nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a load needs, in processes that are busy to the share BUSY."""

    workers: float
    gateways: float
    store_cores: float
    store_memories: float
    brokers: float
    monitors: float
    broadcast_share: float
    """Of each worker's core, for control messages about runs that mostly are not its own."""


def need(runs: float, load: Load, cost: Costs) -> Need:
    """Return what so many concurrent runs need."""
    tokens, starts = runs * load.tokens_s, runs / load.run_s
    aborts = starts * load.aborts
    worker_us = tokens * cost.token_worker + starts * cost.start_worker
    broker_us = starts * cost.noop_servers
    store_us = tokens * cost.token_store + starts * max(cost.start_servers - cost.noop_servers, 0)
    kept = starts * load.kept_h * 3600
    store_bytes = runs * cost.run_store_bytes + kept * cost.over_store_bytes
    share = BUSY * 1e6
    workers = worker_us / share
    monitor_us = (starts * EVENTS_PER_RUN + workers * HEARTBEATS_S) * cost.monitor_event
    return Need(
        workers=workers,
        gateways=tokens * load.readers * cost.event_gateway / share,
        store_cores=store_us / share,
        store_memories=store_bytes / STORE_BYTES,
        brokers=broker_us / share,
        monitors=monitor_us / share,
        broadcast_share=aborts * cost.broadcast_worker / 1e6,
    )


def walls(load: Load, cost: Costs) -> dict[str, float]:
    """Concurrent runs at which one of each kind has no room left, the first wall first."""
    one = need(1, load, cost)
    found = {
        "one store's core": 1 / one.store_cores,
        "one store's 16 GB: finished runs, as long as they are kept": 1 / one.store_memories,
        "one broker's core": 1 / one.brokers,
        "one Flower": 1 / one.monitors,
        "abort broadcasts fill a tenth of every worker": 0.1 / one.broadcast_share,
        "one gateway": 1 / one.gateways,
        "one worker process": 1 / one.workers,
    }
    return dict(sorted(found.items(), key=lambda wall: wall[1]))


def costs(rows: Mapping[str, Mapping[str, Any]]) -> Costs:
    """Take the costs from a bench's rows, by the beginnings of their names."""
    many, starts = _row(rows, "1,000 runs ×"), _row(rows, "starts per second")
    memory, fan_out = _row(rows, "Valkey memory"), _row(rows, "gateway,")
    latency, wide = _row(rows, "per token, 50 runs × 40/s, latency"), _row(rows, "4,000 runs ×")
    fleet = _row(rows, "fleet:")
    per_run = (wide["rss_mb"] - many["rss_mb"]) / (wide["runs"] - many["runs"])
    return Costs(
        token_worker=many["cpu_us"],
        token_store=many["store_cpu_us"],
        token_store_bytes=latency["bytes"],
        start_worker=starts["ours_cpu_us"],
        start_servers=starts["ours_server_us"],
        noop_servers=starts["floor_server_us"],
        event_gateway=1e6 / fan_out["events_per_cpu_s"],
        run_worker_bytes=per_run * 2**20,
        run_store_bytes=memory["running_kb"] * 1024,
        over_store_bytes=memory["over_kb"] * 1024,
        monitor_event=fleet["event_us"],
        broadcast_worker=fleet["control_us"],
    )


def _row(rows: Mapping[str, Mapping[str, Any]], beginning: str) -> Mapping[str, Any]:
    for name, data in rows.items():
        if name.startswith(beginning):
            return data
    raise KeyError(f"the results have no row {beginning!r}: run `make bench`")


def checks(rows: Mapping[str, Mapping[str, Any]], cost: Costs) -> list[tuple[str, float, float]]:
    """What the model says about sizes that were measured too: (what, predicted, measured)."""
    wide, latency = _row(rows, "4,000 runs ×"), _row(rows, "per token, 50 runs × 40/s, latency")
    found = [
        (
            "worker CPU, 4,000 runs × 5/s (% of a core)",
            4000 * 5 * cost.token_worker / 1e4,
            wide["cpu_us"] * 2,
        ),
        (
            "store CPU, 4,000 runs × 5/s (% of a core)",
            4000 * 5 * cost.token_store / 1e4,
            wide["store_cpu_us"] * 2,
        ),
        (
            "store CPU, 50 runs × 40/s (% of a core)",
            2000 * cost.token_store / 1e4,
            latency["store_cpu_us"] / 5,
        ),
    ]
    for name, data in rows.items():
        if name.startswith("growth: "):
            _, middle, full = sorted(int(load) for load in data["costs"])
            line = data["costs"][str(middle)]
            found.append(
                (f"{name}: {full:,} from {middle:,} ({data['unit']})", line, data["costs"][str(full)])
            )
    return found


def documents() -> list[dict[str, Any]]:
    """Return the results of the newest whole bench, and of the newest full one (growth), if there are."""
    found: list[dict[str, Any]] = []
    for kind in ("", "-full"):
        names = [p for p in sorted(RESULTS.glob("*.json")) if p.stem[10:] == kind]
        found += [json.loads(name.read_text()) for name in names[-1:]]
    return found


def newest() -> dict[str, Any]:
    """Return the data of all their rows by name."""
    return {row["name"]: row["data"] for document in documents() for row in document["rows"]}


def report(load: Load, rows: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Say what is needed, which wall comes first, and how far the model is from what was measured."""
    cost = costs(rows)
    kinds = (
        "concurrent runs",
        "workers",
        "gateways",
        "stores by core",
        "stores by memory",
        "brokers",
        "Flowers",
        "broadcasts",
    )
    yield f"| {' | '.join(kinds)} |\n|{'---|' * len(kinds)}"
    for runs in (1e3, 1e5, 1e7):
        n = need(runs, load, cost)
        whole = [
            math.ceil(x)
            for x in (n.workers, n.gateways, n.store_cores, n.store_memories, n.brokers, n.monitors)
        ]
        shown = " | ".join(f"{x:,}" for x in whole)
        yield f"| {runs:,.0f} | {shown} | {n.broadcast_share:.1%} of each worker's core |"
    yield "\n| where one of each is full | concurrent runs |\n|---|---|"
    for wall, runs in walls(load, cost).items():
        yield f"| {wall} | {runs:,.0f} |"
    yield "\n| checked where it was measured too | predicted | measured |\n|---|---|---|"
    for what, predicted, measured in checks(rows, cost):
        yield f"| {what} | {predicted:.1f} | {measured:.1f} |"
    yield "\n| a unit costs (µs of CPU, or bytes) | |\n|---|---|"
    for field in fields(Costs):
        yield f"| {field.name.replace('_', ' ')} | {getattr(cost, field.name):,.1f} |"


def main() -> int:
    """Print the tables of docs/scaling.md for any load."""
    parser = argparse.ArgumentParser(description=__doc__)
    for option in fields(Load):
        parser.add_argument(f"--{option.name.replace('_', '-')}", type=float, default=option.default)
    print(*report(Load(**vars(parser.parse_args())), newest()), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
