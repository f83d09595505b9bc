"""Chaos: runs under load while everything they stand on is killed, frozen and cut; then all promises are checked.

`make test` runs the short form: each fault once. `make chaos` sets MAINSTEM_CHAOS_ROUNDS for the long one.
MAINSTEM_CHAOS_SEED repeats the choices of a run (not the machine's timing).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
import time
from pathlib import Path

import pytest

from chaos.faults import Faults
from chaos.load import LONG_TOKENS, Load
from chaos.properties import Properties
from chaos.system import System
from mainstem_api import AsyncRuns
from support.clients.reconnecting import Reader

ROUNDS = int(os.environ.get("MAINSTEM_CHAOS_ROUNDS", "1"))
SEED = int(os.environ.get("MAINSTEM_CHAOS_SEED") or random.SystemRandom().getrandbits(32))
SHORT = ROUNDS == 1
AT_ONCE = 12 if SHORT else 30
AT_LEAST = 40 if SHORT else 300
TOKENS_OF_LONG = (LONG_TOKENS[0], LONG_TOKENS[0] * 3 // 2) if SHORT else LONG_TOKENS
"""The short form waits for the last of them: long enough to be trimmed behind a snapshot will do."""
BROKER_FROZEN_S = 4.0 if SHORT else 10.0
SETTLE_S = 60.0


@pytest.mark.slow
@pytest.mark.timeout(130 if SHORT else 700)
async def test_chaos(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Whatever is killed, frozen, cut or repeated: no run is lost, none has two owners, no event is lost or doubled."""
    begun = time.monotonic()
    with contextlib.ExitStack() as stack:
        system = System(tmp_path, stack)
        await system.start()
        load = Load(
            system, random.Random(SEED), at_once=AT_ONCE, at_least=AT_LEAST, long_tokens=TOKENS_OF_LONG
        )
        properties = Properties(system, load.started)
        stack.callback(properties.close)
        async with AsyncRuns(system.settings()) as runs:
            faults = Faults(system, load, runs, random.Random(SEED + 1), broker_frozen_s=BROKER_FROZEN_S)
            try:
                await _bring_about(load, faults, properties)
                await properties.come_to_rest()
                await _read_again(system, load, properties)
                properties.check_all()
                properties.check_store()
                await system.end_workers()
                properties.check_stopped()
            finally:
                with capsys.disabled():
                    sys.stdout.write(_report(load, faults, properties, time.monotonic() - begun))


async def _bring_about(load: Load, faults: Faults, properties: Properties) -> None:
    """Inject all faults under load, and wait for the end of the last run."""
    loading = asyncio.create_task(load.run())
    try:
        injecting = asyncio.create_task(faults.inject(ROUNDS))
        await asyncio.wait({loading, injecting}, return_when=asyncio.FIRST_COMPLETED)
        if not injecting.done():
            injecting.cancel()
            await loading  # it failed
        await injecting
        load.stop()
        async with asyncio.timeout(SETTLE_S):
            await loading
    except TimeoutError:
        raise AssertionError(f"runs that do not end:\n{properties.explain()}") from None
    finally:
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)


async def _read_again(system: System, load: Load, properties: Properties) -> None:
    """Who comes late gets every run from its start, or from the snapshot that stands in for it."""
    for seed, run in enumerate(load.started):
        late = Reader(run.run_id, seed)
        await late.follow(system.ports)
        assert late.fold.text == run.readers[0].fold.text
        assert late.cursor == run.readers[0].cursor
        run.readers.append(late)
        properties.checked["a late reader gets the same"] += 1


def _report(load: Load, faults: Faults, properties: Properties, took_s: float) -> str:
    readers = [reader for run in load.started for reader in run.readers]
    counts = (
        f"connections {sum(r.connections for r in readers)}, refused {sum(r.refusals for r in readers)}",
        f"snapshots {sum(r.snapshots for r in readers)}, resyncs {sum(r.resyncs for r in readers)}",
    )
    lines = [
        "",
        f"chaos: seed {SEED}, {len(load.started)} runs, {took_s:.0f} s",
        f"requests: {load.retries} repeated, {load.approved} approvals",
        f"readers: {len(readers)}, {', '.join(counts)}",
        *(f"  fault     {count:8}  {name}" for name, count in sorted(faults.injected.items())),
        *(f"  property  {count:8}  {name}" for name, count in sorted(properties.checked.items())),
        "",
    ]
    return "\n".join(lines)
