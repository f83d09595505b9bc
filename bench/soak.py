"""`make soak`: what is too long for `make test`. Prints what it watched and a verdict; 1 if anything failed.

First many more examples of the model test; then a steady load (starts, readers that reconnect, approvals,
aborts, replaced and queued runs) on workers and gateways that nobody disturbs, while memory, open files,
connections and keys are watched. Every run is checked as chaos checks it. At the end nothing may be left.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import psutil
from rich.console import Console
from rich.table import Table

from chaos.faults import Faults
from chaos.load import Load, Started
from chaos.properties import Properties
from chaos.system import System
from mainstem_api import AsyncRuns
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from support.processes.servers import ValkeyProcess
from support.waiting import NotInTimeError, wait_until_async

ROOT = Path(__file__).resolve().parents[1]
MINUTES = 11.0
MODEL_SHARE = 0.2
"""Of the time, for the model test; one of its examples takes about a tenth of a second."""
EXAMPLES_PER_S = 5
WARM_UP = 0.25
"""Of the load's time: allocators and connection pools have grown to their size by then."""
SAMPLE_S = 3.0
AT_ONCE = 16
RETENTION_S = 60
CLEAN_S = 60.0
SETTLE_S = 120.0
WIND_UP_S = 100.0
"""What the start, the last runs and their retention take of the time."""
INDEXES = (*(index for bucket in keys.INDEXES for index in (bucket.active, bucket.compact)), keys.WORKERS)
ENVIRONMENT = {
    "MAINSTEM_RETENTION_S": str(RETENTION_S),
    "MAINSTEM_COMPACT_AFTER_S": "5",
    "MAINSTEM_DRAIN_S": "5",
    "MAINSTEM_MAX_RUN_S": "120",
    "MAINSTEM_MAX_QUEUE_S": "120",
    "MAINSTEM_APPROVAL_WINDOW_S": "120",
}
LONG_LIVED = frozenset({"idem", "runs", "log", "recent"})
"""Idempotency keys, a day; a thread's and a bucket's list of runs, their live TTL; logs are as records."""
LONGEST_S = 60
"""No run takes longer: what was started before that, and before the retention, must be gone."""
GROWTH_MB = 24.0
"""From the first quarter after the warm-up to the last a process may grow so much: fragmentation, no leak."""
GROWTH_SHARE = 0.25
"""And counts by so much of themselves: their load is random."""
GROWTH_COUNT = 12

console = Console(width=110)


@dataclass(kw_only=True)
class Series:
    """One thing that was watched."""

    name: str
    unit: str
    allowed: Callable[[float], float]
    """How much it may grow from what it was."""
    values: list[float] = field(default_factory=list[float])

    @property
    def first(self) -> float:
        return statistics.median(self.values[: max(1, len(self.values) // 4)])

    @property
    def last(self) -> float:
        return statistics.median(self.values[-max(1, len(self.values) // 4) :])

    @property
    def held(self) -> bool:
        return self.last - self.first <= self.allowed(self.first)


class Watch:
    """Samples of everything that could grow."""

    def __init__(self, system: System) -> None:
        self.series: dict[str, Series] = {}
        self._started: list[tuple[float, int]] = [(time.monotonic(), 0)]
        self._system = system
        self._processes = {
            child.name: psutil.Process(child.pid) for child in (*system.workers, *system.gateways)
        }
        self._servers: dict[str, Any] = {"store": system.store, "broker": system.broker}

    def sample(self, started: int) -> None:
        """Take a sample; `started`: how many runs there were so far."""
        self._started.append((time.monotonic(), started))
        for name, value, unit in self._values():
            series = self.series.setdefault(name, Series(name=name, unit=unit, allowed=_ALLOWED[unit]))
            series.values.append(value)

    def _values(self) -> Iterator[tuple[str, float, str]]:
        for name, process in self._processes.items():
            yield f"{name}: memory", process.memory_info().rss / 2**20, "MB"
            yield f"{name}: open files", process.num_fds(), ""
            yield f"{name}: threads", process.num_threads(), ""
        for name, server in self._servers.items():
            with server.client() as client:
                info: dict[str, Any] = client.info("everything")  # pyright: ignore[reportAssignmentType]
                yield f"{name}: memory", info["used_memory"] / 2**20, "MB"
                yield f"{name}: connections", info["connected_clients"], ""
            yield from self._kept(name, server)

    def _recent(self) -> int:
        """How many runs may still be there."""
        since = time.monotonic() - RETENTION_S - LONGEST_S
        before = max((count for at, count in self._started if at < since), default=0)
        return self._started[-1][1] - before

    def _kept(self, name: str, server: ValkeyProcess) -> Iterator[tuple[str, float, str]]:
        """Count keys by kind, without those that stay for hours by design."""
        with server.client() as client:
            kinds = collections.Counter(_kind(str(key)) for key in client.scan_iter(count=5000))
            for kind in sorted(kinds.keys() - LONG_LIVED - {"record"}):
                yield f"{name}: {kind} keys", kinds[kind], ""
            if name == "store":
                yield "store: runs beyond their retention", max(0, kinds["record"] - self._recent()), ""
                yield "store: entries of indexes", _entries(client), ""


def _entries(client: Any) -> int:
    pipe = client.pipeline(transaction=False)
    for index in INDEXES:
        pipe.zcard(index)
    return sum(pipe.execute())


def _kind(key: str) -> str:
    """`record` of `ms:{bucket}:tag:unique:record`, `idem` of an idempotency key, `other` without a bucket."""
    if ":idem:" in key:
        return "idem"
    return key.rsplit(":", 1)[1] if key.startswith("ms:{") else "other"


_ALLOWED: dict[str, Callable[[float], float]] = {
    "MB": lambda _: GROWTH_MB,
    "": lambda before: max(GROWTH_COUNT, GROWTH_SHARE * before),
}


def main() -> int:
    """Run both parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for everything (default: 11)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    parser.add_argument("--only-load", action="store_true", help="without the model test")
    options = parser.parse_args()
    begun = time.monotonic()
    seconds = options.minutes * 60
    failures = [] if options.only_load else model(int(seconds * MODEL_SHARE * EXAMPLES_PER_S))
    left_s = seconds - (time.monotonic() - begun)
    failures += asyncio.run(soak(max(30.0, left_s - WIND_UP_S), options.seed))
    for failure in failures:
        console.print(f"[red]✗[/red] {failure}", markup=True, highlight=False)
    took = time.monotonic() - begun
    print(
        f"soak: {'held' if not failures else f'{len(failures)} things did not hold'}, {took / 60:.1f} minutes"
    )
    return 1 if failures else 0


def model(examples: int) -> list[str]:
    """Compare the verbs with their model over that many examples."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--timeout=900",
        "tests/integration/transitions/test_model.py",
    ]
    env = {**os.environ, "MAINSTEM_MODEL_EXAMPLES": str(examples)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    console.print(f"model: {examples} examples, {done.stdout.strip().splitlines()[-1]}")
    return [] if done.returncode == 0 else [f"the model test failed:\n{done.stdout[-4000:]}"]


async def soak(seconds: float, seed: int) -> list[str]:
    """Load a system for so long; returns what did not hold."""
    with contextlib.ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="soak-"))
        system = System(directory, stack, workers=2)
        system.env.update(ENVIRONMENT)
        await system.start()
        load = Load(system, random.Random(seed), at_once=AT_ONCE, at_least=1)
        properties = Properties(system, load.started)
        stack.callback(properties.close)
        watch = Watch(system)
        async with AsyncRuns(_settings(system)) as runs:
            faults = Faults(system, load, runs, random.Random(seed + 1), broker_frozen_s=0)
            checked = await _keep_going(load, faults, properties, watch, seconds)
        failures = [
            f"{name} grew from {s.first:.0f} to {s.last:.0f} {s.unit}"
            for name, s in watch.series.items()
            if not s.held
        ]
        failures += await _nothing_is_left(system)
        await system.end_workers()
        failures += (
            [f"mistakes in the program: {len(found)} tracebacks"] if (found := system.complaints()) else []
        )
        _print(watch, properties, checked, seed, seconds)
        if failures:
            console.print(f"logs and data are kept in {directory}")
        else:
            stack.callback(shutil.rmtree, directory)
        return failures


def _settings(system: System) -> Settings:
    """Whoever ends a run decides how long it is kept: clients have the settings of the others."""
    given = {name.removeprefix("MAINSTEM_").lower(): value for name, value in system.env.items()}
    return Settings.model_validate(
        {name: value for name, value in given.items() if name in Settings.model_fields}
    )


async def _keep_going(
    load: Load, faults: Faults, properties: Properties, watch: Watch, seconds: float
) -> int:
    """Keep the load up, check what is over and forget it; returns how many runs there were."""
    begun, checked = time.monotonic(), 0
    loading = asyncio.create_task(load.run())
    try:
        while (spent := time.monotonic() - begun) < seconds and not loading.done():
            await asyncio.sleep(SAMPLE_S)
            await faults.run_aborted()
            await faults.run_joined("replace")
            await faults.run_joined("enqueue")
            checked += _check_and_forget(load, properties)
            if spent > max(seconds * WARM_UP, min(2 * RETENTION_S, seconds / 2)):
                watch.sample(checked + len(load.started))
        load.stop()
        async with asyncio.timeout(SETTLE_S):
            while not loading.done():
                await asyncio.wait({loading}, timeout=SAMPLE_S)
                checked += _check_and_forget(load, properties)
        await loading
    finally:
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
    return checked


def _check_and_forget(load: Load, properties: Properties) -> int:
    over: list[Started] = [run for run in load.started if run.over]
    for run in over:
        properties.check_run(run)
    load.started[:] = [run for run in load.started if run not in over]
    return len(over)


async def _nothing_is_left(system: System) -> list[str]:
    """Once the retention is over, nothing names a run but the index that sweeps trim by age."""

    def left() -> list[str]:
        with system.store.client() as client:
            found = [str(key) for key in client.scan_iter("ms:*:record", count=1000)]
            found = [f"{key}: {client.hgetall(key)}, {client.ttl(key)} s" for key in found]
            found += [str(key) for key in client.scan_iter("ms:*:log", count=1000)]
            found += [key for key in INDEXES[:-1] if client.exists(key)]
        with system.broker.client() as client:
            found += [str(key) for key in client.scan_iter() if not str(key).startswith("_kombu.binding")]
        return found

    try:
        await wait_until_async(
            lambda: not left(), description="nothing to be left", timeout_s=RETENTION_S + CLEAN_S
        )
    except NotInTimeError:
        return [f"left behind: {', '.join(left()[:20])}"]
    return []


def _print(watch: Watch, properties: Properties, checked: int, seed: int, seconds: float) -> None:
    console.print(
        f"load: seed {seed}, {checked} runs in {seconds:.0f} s, {sum(properties.checked.values()):,} checks"
    )
    table = Table("watched", "after the warm-up", "at the end", "most", "")
    for name, series in watch.series.items():
        figures = (f"{value:,.0f} {series.unit}" for value in (series.first, series.last, max(series.values)))
        table.add_row(name, *figures, "✓" if series.held else "✗")
    console.print(table)


if __name__ == "__main__":
    raise SystemExit(main())
