"""Draining: is the backlog of due work flat while runs end at a steady rate? `make draining`.

One run is recorded as it ends; its keys are then replayed under new ids, so many a second, for minutes. Each
is due for compaction at once; one in ten is also left among the unfinished runs, as if whoever ended it had
died before it tidied up. Real workers sweep, with their default interval; the backlog is sampled each second.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from harness import Bench, bench
from matplotlib import pyplot as plt  # pyright: ignore[reportMissingImports] - of make bench alone

from mainstem_shared import transitions
from mainstem_shared.model import ids
from mainstem_shared.model.events import Type
from mainstem_shared.model.events import field as field_of
from mainstem_shared.model.runs import Reason, Spec
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations.indexes import Indexes
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store

TICK_S = 0.05
DELTAS = 100
LEFT_BEHIND = 10
"""One in so many ends is one that nobody tidied up after."""
RETENTION_MS = 3_600_000
SETTLE_S = 15.0
IMAGE = Path(__file__).resolve().parent.parent / "docs" / "images" / "draining.svg"


@dataclass(kw_only=True)
class Samples:
    """What was seen, second by second; `load_s` seconds of it under load."""

    load_s: float
    seconds: list[float] = field(default_factory=list[float])
    replayed: list[int] = field(default_factory=list[int])
    backlog: dict[str, list[int]] = field(default_factory=lambda: {"checks": [], "compactions": []})
    lateness_s: dict[str, list[float]] = field(default_factory=lambda: {"checks": [], "compactions": []})

    def half(self, kind: str, *, last: bool) -> float:
        """Return the mean backlog of the last or of the second quarter of the time."""
        series = [n for at, n in zip(self.seconds, self.backlog[kind], strict=True) if at <= self.load_s]
        quarter = max(1, len(series) // 4)
        chosen = series[-quarter:] if last else series[quarter : 2 * quarter]
        return sum(chosen) / len(chosen)


async def recorded(store: Store) -> tuple[bytes, bytes]:
    """Return a run's record and log as they are when it ends, in the server's own form."""
    run_id = ids.run_id("default", "recorded", ids.uuid7())
    spec = Spec(
        run_id=run_id, thread_id="recorded", user_id="u", tenant="default", engine="demo", metadata={},
        created_ms=now_ms(), max_duration_s=60,
    )  # fmt: skip
    live_ms = RETENTION_MS
    await transitions.start(
        store, spec, b"{}", nonce="n", if_active="reject", live_ttl_ms=live_ms, thread_ttl_ms=live_ms
    )
    claimed = await transitions.claim(store, run_id, nonce="n", owner="w", task_id="t", live_ttl_ms=live_ms)
    assert isinstance(claimed, transitions.Claimed)
    k, kind = keys.run(run_id), field_of(Type.MESSAGE_DELTA)
    for n in range(DELTAS):
        payload = b'{"part":0,"text":"word %d "}' % n
        await store.client.xadd(k.log, {kind: payload}, id=f"{claimed.epoch}-{n + 1}")
    state = await transitions.read(store, run_id)
    assert isinstance(state, transitions.State)
    await transitions.finish(
        store, transitions.Control(run_id=run_id, epoch=claimed.epoch, owner="w"), nonce="f", top=state.top,
        reason=Reason.COMPLETED, state={"content": [{"type": "text", "text": "word " * DELTAS}]}, error=None,
        retention_ms=RETENTION_MS, compact_after_ms=RETENTION_MS,
    )  # fmt: skip
    return await store.client.dump(k.record), await store.client.dump(k.log)


async def replay(store: Store, rate: int, seconds: float, samples: Samples, made: list[str]) -> None:
    """Let `rate` recorded runs end every second, as evenly as the server takes them."""
    record, log = await recorded(store)
    begun, count = time.monotonic(), 0
    while (spent := time.monotonic() - begun) < seconds:
        due = int(spent * rate) - count
        async with store.client.pipeline(transaction=False) as pipe:
            for n in range(count, count + min(due, rate)):
                run_id = ids.run_id("default", f"t{n}", ids.uuid7())
                k = keys.run(run_id)
                pipe.restore(k.record, RETENTION_MS, record)
                pipe.restore(k.log, RETENTION_MS, log)
                pipe.zadd(keys.run(run_id).compact, {run_id: now_ms()})
                if n % LEFT_BEHIND == 0:
                    pipe.zadd(keys.run(run_id).active, {run_id: now_ms()})
                    made.append(run_id)
            await pipe.execute()
        count += min(due, rate)
        samples.replayed.append(count)
        await asyncio.sleep(TICK_S)


async def sample(store: Store, place: Bench, samples: Samples, ended: asyncio.Event) -> None:
    """Look at the backlog every second until the replay is over, and a little longer."""
    indexes, begun = Indexes(store=store, settings=place.settings()), time.monotonic()
    until = None
    while until is None or time.monotonic() < until:
        if ended.is_set() and until is None:
            until = time.monotonic() + SETTLE_S
        found = await indexes.due()
        for kind in samples.backlog:
            samples.backlog[kind].append(found[kind].count)
            samples.lateness_s[kind].append(found[kind].since_s)
        samples.seconds.append(time.monotonic() - begun)
        await asyncio.sleep(1)


async def draining(place: Bench, rate: int, seconds: float, workers: int) -> dict[str, Any]:
    """Run the load; returns the figures."""
    samples, made, ended = Samples(load_s=seconds), list[str](), asyncio.Event()
    store = Store(place.server.url(0), patience_s=30)
    settings = {"MAINSTEM_COMPACT_AFTER_S": "0"}
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(place.worker(**settings)) for _ in range(workers)]
        begun = sum(map(_cpu, processes))
        watching = asyncio.create_task(sample(store, place, samples, ended))
        await replay(store, rate, seconds, samples, made)
        ended.set()
        await watching
        cpu_s = sum(map(_cpu, processes)) - begun
    left = await Indexes(store=store, settings=place.settings()).due()
    uncompacted = 0
    for run_id in made[:: max(1, len(made) // 500)]:
        uncompacted += await store.client.xlen(keys.run(run_id).log) != 1
    await store.close()
    return {
        "rate": samples.replayed[-1] / seconds, "seconds": seconds, "workers": workers,
        "ended": samples.replayed[-1], "cpu_us": 1e6 * cpu_s / samples.replayed[-1],
        "lateness_s": {kind: max(series) for kind, series in samples.lateness_s.items()},
        "second_quarter": {kind: samples.half(kind, last=False) for kind in samples.backlog},
        "last_quarter": {kind: samples.half(kind, last=True) for kind in samples.backlog},
        "left": {kind: due.count for kind, due in left.items()}, "uncompacted": uncompacted,
        "samples": {"seconds": samples.seconds, "backlog": samples.backlog, "lateness_s": samples.lateness_s},
    }  # fmt: skip


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def plot(got: dict[str, Any], path: Path) -> None:
    """Draw the backlog over time."""
    figure, axes = plt.subplots(figsize=(8, 3.2))
    for kind, series in got["samples"]["backlog"].items():
        axes.plot(got["samples"]["seconds"], series, label=f"due {kind}")
    axes.axvline(got["seconds"], color="#a0aec0", linestyle="--", label="the last run ended")
    axes.set(xlabel="seconds", ylabel="due", title=f"{got['rate']:,.0f} runs end every second")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> int:
    """Measure, draw, and judge: the backlog must not grow, and nothing may be left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=2000, help="runs that end every second")
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--plot", type=Path, default=IMAGE)
    options = parser.parse_args()
    with bench(1.0) as place:
        got = asyncio.run(draining(place, options.rate, options.seconds, options.workers))
    plot(got, options.plot)
    print(json.dumps({name: value for name, value in got.items() if name != "samples"}, indent=1))
    flat = all(
        got["last_quarter"][kind] <= 2 * got["second_quarter"][kind] + options.rate
        for kind in got["last_quarter"]
    )
    print("flat" if flat else "GROWING")
    return 0 if flat and not any(got["left"].values()) and not got["uncompacted"] else 1


if __name__ == "__main__":
    sys.exit(main())
