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
    token_bytes: float = 7
    """Of text, in a token."""


class Curve:
    """What a unit costs at so many units a second: with more at once they share writes and wake-ups.

    Straight between measured points if both axes are logarithms; level outside of them.
    """

    def __init__(self, points: Mapping[float, float]) -> None:
        self.points = sorted(points.items())

    def at(self, rate: float) -> float:
        """Return the cost of a unit."""
        below = max((point for point in self.points if point[0] <= rate), default=self.points[0])
        above = min((point for point in self.points if point[0] >= rate), default=self.points[-1])
        if above[0] <= below[0]:
            return below[1] if rate >= below[0] else above[1]
        share = math.log(rate / below[0]) / math.log(above[0] / below[0])
        return math.exp((1 - share) * math.log(below[1]) + share * math.log(above[1]))

    def filled(self, rate: float) -> float:
        """Return the cost of a unit if there are as many processes as are well filled."""
        return self.at(min(rate, self.where_full(BUSY)))

    def where_full(self, share: float) -> float:
        """Return the rate at which the units take that share of a core."""
        rate = 1.0
        for _ in range(100):  # converges: the cost falls more slowly than the rate grows
            rate = share * 1e6 / self.at(rate)
        return rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """CPU in microseconds, memory in bytes, of one unit."""

    token_worker: Curve
    token_store: Curve
    token_store_bytes: float
    start_worker: float
    start_servers: float
    """Store and broker together, as they are one process where this is measured."""
    noop_servers: float
    """The broker's part of it: what a Celery task that does nothing costs."""
    event_gateway: Curve
    run_worker_bytes: float
    run_store_bytes: float
    """Of a run of 500 tokens."""
    over_store_bytes: float
    """Of a finished run, beside its text."""
    monitor_event: float
    """Flower, per event of a worker; measured with celery.events' own state."""
    broadcast_worker: float
    """A worker, per control message: Celery's abort of one run reaches all workers."""


MEASURED_TEXT = 500 * 7
"""Bytes of text of a run whose memory was measured."""
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
    events = tokens * load.readers
    worker_us = tokens * cost.token_worker.filled(tokens) + starts * cost.start_worker
    broker_us = starts * cost.noop_servers
    store_us = tokens * cost.token_store.filled(tokens)
    store_us += starts * max(cost.start_servers - cost.noop_servers, 0)
    kept = starts * load.kept_h * 3600
    text = load.tokens_s * load.run_s * load.token_bytes
    store_bytes = runs * cost.run_store_bytes + kept * (text + cost.over_store_bytes)
    share = BUSY * 1e6
    workers = worker_us / share
    monitor_us = (starts * EVENTS_PER_RUN + workers * HEARTBEATS_S) * cost.monitor_event
    return Need(
        workers=workers,
        gateways=events * cost.event_gateway.filled(events) / share,
        store_cores=store_us / share,
        store_memories=store_bytes / STORE_BYTES,
        brokers=broker_us / share,
        monitors=monitor_us / share,
        broadcast_share=aborts * cost.broadcast_worker / 1e6,
    )


def walls(load: Load, cost: Costs) -> dict[str, float]:
    """Concurrent runs at which one of each kind has no room left, the first wall first."""
    many = 1e6  # of which each process has as much as it can take
    one = {field.name: getattr(need(many, load, cost), field.name) / many for field in fields(Need)}
    found = {
        "one store's core": 1 / one["store_cores"],
        "one store's 16 GB: finished runs, as long as they are kept": 1 / one["store_memories"],
        "one broker's core": 1 / one["brokers"],
        "one Flower": 1 / one["monitors"],
        "abort broadcasts fill a tenth of every worker": 0.1 / one["broadcast_share"],
        "one gateway": 1 / one["gateways"],
        "one worker process": 1 / one["workers"],
    }
    return dict(sorted(found.items(), key=lambda wall: wall[1]))


def costs(rows: Mapping[str, Mapping[str, Any]]) -> Costs:
    """Take the costs from a bench's rows, by the beginnings of their names."""
    many, starts = _row(rows, "1,000 runs ×"), _row(rows, "starts per second")
    memory, followed = _row(rows, "Valkey memory"), _row(rows, "growth: gateway CPU")
    latency, wide = _row(rows, "per token, 50 runs × 40/s, latency"), _row(rows, "4,000 runs ×")
    fleet, grown = _row(rows, "fleet:"), _row(rows, "growth: CPU per token")
    per_run = (wide["rss_mb"] - many["rss_mb"]) / (wide["runs"] - many["runs"])
    return Costs(
        token_worker=Curve({50 * int(n): us for n, us in grown["costs"].items()}),
        token_store=Curve({50 * 40: latency["store_cpu_us"], 1000 * 50: many["store_cpu_us"]}),
        token_store_bytes=latency["bytes"],
        start_worker=starts["ours_cpu_us"],
        start_servers=starts["ours_server_us"],
        noop_servers=starts["floor_server_us"],
        event_gateway=Curve({20 * int(n): us for n, us in followed["costs"].items()}),
        run_worker_bytes=per_run * 2**20,
        run_store_bytes=memory["running_kb"] * 1024,
        over_store_bytes=memory["over_kb"] * 1024 - MEASURED_TEXT,
        monitor_event=fleet["event_us"],
        broadcast_worker=fleet["control_us"],
    )


def _row(rows: Mapping[str, Mapping[str, Any]], beginning: str) -> Mapping[str, Any]:
    for name, data in rows.items():
        if name.startswith(beginning):
            return data
    raise KeyError(f"the results have no row {beginning!r}: run `make bench`")


def checks(rows: Mapping[str, Mapping[str, Any]], cost: Costs) -> list[tuple[str, float, float]]:
    """What the model says about sizes that were measured too: (what, predicted, measured).

    None of these measurements is one that the costs were taken from.
    """
    wide, many, fan_out = _row(rows, "4,000 runs ×"), _row(rows, "1,000 runs ×"), _row(rows, "gateway,")
    among, spread = _row(rows, "one gateway:"), _row(rows, "Cluster of")
    worker, store, gateway = cost.token_worker, cost.token_store, cost.event_gateway
    nodes, runs = len(spread["held"]), sum(spread["held"])
    found = [
        ("worker, 1,000 runs × 50/s (% of a core)", 5 * worker.at(50_000), 5 * many["cpu_us"]),
        ("worker, 4,000 runs × 5/s (% of a core)", 2 * worker.at(20_000), 2 * wide["cpu_us"]),
        ("store, 4,000 runs × 5/s (% of a core)", 2 * store.at(20_000), 2 * wide["store_cpu_us"]),
        (
            "gateway, 400 clients × 20/s (% of a core)",
            gateway.at(8_000) * 0.8,
            8e5 / fan_out["events_per_cpu_s"],
        ),
        ("the same beside 2,000 idle ones (% of a core)", gateway.at(8_000) * 0.8, among["live_cpu_percent"]),
        ("Cluster, runs on the fullest node", runs / nodes, max(spread["held"])),
        ("Cluster, KB of a run on its node", cost.run_store_bytes / 1024, max(spread["kb"])),
    ]
    for what in ("Valkey memory per run", "worker CPU per run"):
        grown = _row(rows, f"growth: {what}")
        _, middle, full = sorted(map(int, grown["costs"]))
        found.append(
            (
                f"{what}: {full:,} from {middle:,} ({grown['unit']})",
                grown["costs"][str(middle)],
                grown["costs"][str(full)],
            )
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


CPU_TIMES = frozenset(
    {"cpu_us", "store_cpu_us", "ours_cpu_us", "ours_server_us", "floor_server_us", "control_us", "event_us",
     "live_cpu_percent"}
)  # fmt: skip


def undisturbed() -> dict[str, Any]:
    """Return the same with CPU times as they are on a core that nobody else slows down (`pace.py`)."""
    return {
        row["name"]: {name: _undisturbed(name, value, row) for name, value in row["data"].items()}
        for document in documents()
        for row in document["rows"]
    }


def _undisturbed(name: str, value: Any, row: Mapping[str, Any]) -> Any:
    if name in CPU_TIMES:
        return value / row["slowed"]
    if name == "events_per_cpu_s":
        return value * row["slowed"]
    if name == "costs" and row["data"]["unit"] == "µs":
        return {load: cost / row["slowed"] for load, cost in value.items()}
    return value


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
        value = getattr(cost, field.name)
        said = (
            ", ".join(f"{us:,.1f} at {rate:,.0f}/s" for rate, us in value.points)
            if isinstance(value, Curve)
            else f"{value:,.1f}"
        )
        yield f"| {field.name.replace('_', ' ')} | {said} |"


def main() -> int:
    """Print the tables of docs/scaling.md for any load."""
    parser = argparse.ArgumentParser(description=__doc__)
    for option in fields(Load):
        parser.add_argument(f"--{option.name.replace('_', '-')}", type=float, default=option.default)
    print(*report(Load(**vars(parser.parse_args())), undisturbed()), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
