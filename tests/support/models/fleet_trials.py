"""A trial: runs are written and followed on a store while something happens to its servers; what went wrong is counted."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from mainstem_shared.eventlog.reading.tailer import Tailer
from mainstem_shared.model.events import Type
from mainstem_shared.store import keys, topologies
from mainstem_shared.store.client import Store
from mainstem_shared.store.primary_watch import PrimaryWatch
from support.models import verb_calls as v
from support.models.hostile_writing import Engine, Reader, log_of, stored, through, writing


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


async def _wrong(store: Store, engine: Engine, reader: Reader) -> Counter[str]:
    """Count what is wrong with one run: events that nobody can find, and events that came twice."""
    entries = await log_of(store, engine.run_id)
    cursors = [frame.cursor for frame in reader.frames]
    lost = int(entries[-1].payload().get("content") != engine.model.content) + len(engine.losses)
    if Type.RESYNC not in {entry.type for entry in entries}:  # after a repair the log begins anew
        lost += len({entry.cursor for entry in entries} - set(cursors))
    doubled = len(cursors) - len(set(cursors)) + int(cursors != sorted(cursors))
    return +Counter({"lost": lost, "doubled": doubled})
