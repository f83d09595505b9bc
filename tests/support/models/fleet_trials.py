"""A trial: runs are written and followed on a store while something happens to its servers; what went wrong is counted.

`note` prints a row of the table of faults; `make fleet` (MAINSTEM_FLEET_TABLE) has it written into docs/scaling.md.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from mainstem_shared.eventlog.reading.tailer import Tailer
from mainstem_shared.model.events import Type
from mainstem_shared.store import keys, topologies
from mainstem_shared.store.client import Store
from mainstem_shared.store.primary_watch import PrimaryWatch
from support.models import verb_calls as v
from support.models.hostile_writing import Engine, Reader, log_of, stored, through, writing

MARK, END = "<!-- faults -->\n", "<!-- /faults -->"


async def trial(url: str, trouble: Callable[[list[int]], None], *, runs: int) -> Counter[str]:
    """Write and follow runs while `trouble`, which gets their slots, does its worst; returns what went wrong."""
    async with stored(url) as store, writing(url) as writer, Tailer(store) as tailer:
        store.patience_s = 30
        await store.refresh()
        engines = [Engine(writer, await v.running(store), seed) for seed in range(runs)]
        readers = [Reader(engine.run_id) for engine in engines]
        reading = asyncio.gather(*(reader.read(tailer) for reader in readers))
        await asyncio.gather(*(engine.flush() for engine in engines))
        slots = sorted({topologies.slot_of(keys.run(engine.run_id).log) for engine in engines})
        watches = [asyncio.create_task(PrimaryWatch(it).run()) for it in (store, writer.store)]
        try:
            await through(store, engines, asyncio.ensure_future(asyncio.to_thread(trouble, slots)))
            async with asyncio.timeout(60):
                await reading
        finally:
            for task in (*watches, reading):
                task.cancel()
            await asyncio.gather(*watches, reading, return_exceptions=True)
        found = [await _wrong(store, *pair) for pair in zip(engines, readers, strict=True)]
    return sum(found, Counter[str]())


def note(fault: str, kind: str, trials: str, wrong: Counter[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Say what trials of a fault on a kind of store lost and doubled: a row of the table."""
    row = f"| {fault} | {kind} | {trials} | {wrong['lost']} | {wrong['doubled']} |"
    with capsys.disabled():
        sys.stdout.write(f"\n{row}\n")
    if page := os.environ.get("MAINSTEM_FLEET_TABLE"):
        path = Path(page)
        head, mark, rest = path.read_text().partition(MARK)
        table, end, tail = rest.partition(END)
        rows = [line for line in table.splitlines() if not line.startswith(f"| {fault} | {kind} |")]
        path.write_text(head + mark + "\n".join([*rows, row]) + "\n" + end + tail)


async def _wrong(store: Store, engine: Engine, reader: Reader) -> Counter[str]:
    """Count what is wrong with one run: events that nobody can find, and events that came twice."""
    entries = await log_of(store, engine.run_id)
    cursors = [frame.cursor for frame in reader.frames]
    lost = int(entries[-1].payload().get("content") != engine.model.content) + len(engine.losses)
    if Type.RESYNC not in {entry.type for entry in entries}:  # after a repair the log begins anew
        lost += len({entry.cursor for entry in entries} - set(cursors))
    doubled = len(cursors) - len(set(cursors)) + int(cursors != sorted(cursors))
    return +Counter({"lost": lost, "doubled": doubled})
