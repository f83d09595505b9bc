"""Engines that write through a real writer while the test does its worst, and what must hold afterwards.

Each engine follows a seeded script; a model that knows nothing of events says what must come out.
"""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from mainstem_shared import transitions
from mainstem_shared.eventlog.reading.frames import Frame
from mainstem_shared.eventlog.reading.tailer import Tailer
from mainstem_shared.eventlog.writing.channels import Channel
from mainstem_shared.eventlog.writing.node_writers import NodeWriter
from mainstem_shared.eventlog.writing.writer import Writer
from mainstem_shared.model import contents, events, jsontext
from mainstem_shared.model.cursors import START, Cursor
from mainstem_shared.model.events import Entry, Type
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.models import verb_calls as v
from support.models.emitting import Model, perform

SETTINGS = Settings()
STUCK_S = 40.0
"""Longer than any fault of a test; a writer that lost its way would wait for ever."""


class UntrimmedNode(NodeWriter):
    """Takes no snapshots."""

    def snapshot(self, channel: Channel, cursor: Cursor, state: bytes) -> None:
        channel.snapshot_pending = False


class Untrimmed(Writer):
    """A writer that takes no snapshots, so that a test finds the whole log afterwards."""

    kind = UntrimmedNode


@asynccontextmanager
async def writing(url: str, kind: type[Writer] = Untrimmed, **options: Any) -> AsyncIterator[Writer]:
    """A started writer, connected to `url`; stopped in the end, with no task of it left behind."""
    store = Store(url)
    writer = kind(store, SETTINGS, **options)
    before = asyncio.all_tasks()
    await writer.start()
    try:
        yield writer
    finally:
        await writer.stop()
        await store.close()
    left = [task for task in asyncio.all_tasks() - before if "mainstem" in repr(task.get_coro())]
    assert left == []


@asynccontextmanager
async def stored(url: str) -> AsyncIterator[Store]:
    """A store of the test's own, that the bad network is not between."""
    store = Store(url)
    yield store
    await store.close()


class Engine:
    """Writes one run by a script, and remembers what it said and what was acknowledged."""

    def __init__(self, writer: Writer, control: transitions.Control, seed: int) -> None:
        self.channel = writer.open(control)
        self.channel.on_lost = lambda: self.losses.append(self.channel.phase)
        self.model = Model()
        self.losses: list[object] = []
        self.flushed: list[tuple[Cursor, list[dict[str, Any]]]] = []
        self.peak = 0
        self._dice = random.Random(seed)

    @property
    def run_id(self) -> str:
        return self.channel.control.run_id

    async def write(self, steps: int, *, flushes: float = 0.02, pause: float = 0.2) -> None:
        """Perform so many steps, waiting where an engine must, with barriers in between."""
        for _ in range(steps):
            self.say(self._step())
            if self.channel.congested:
                await self.channel.drained()
            draw = self._dice.random()
            if draw < flushes:
                await self.flush()
            elif draw < flushes + pause:
                await asyncio.sleep(0)

    def say(self, step: tuple[Any, ...]) -> None:
        perform(step, self.channel)
        self.model.follow(step)
        self.peak = max(self.peak, self.channel.buffered)

    async def flush(self) -> Cursor:
        said = copy.deepcopy(self.model.content)
        cursor = await self.channel.flush()
        self.flushed.append((cursor, said))
        return cursor

    async def finish(self, store: Store) -> None:
        """Close, and end the run with the fold, as a segment does."""
        top = await self.channel.close()
        finished = await v.finish(store, self.channel.control, top=top, state=self.channel.fold.dump())
        assert isinstance(finished, transitions.Finished), finished

    def _step(self) -> tuple[Any, ...]:
        dice, call = self._dice, f"c{self._dice.randint(1, 4)}"
        number = dice.randint(0, 999)
        return dice.choices(
            [
                ("text", f" w{number}" * dice.choice([1, 1, 1, 30])),
                ("reasoning", f" ü{number}"),
                ("call", call, {"n": number}),
                ("stream", call),
                ("arguments", call, f"{number}"),
                ("result", call, ["é", number]),
                ("usage", number),
                ("title", f"t{number}"),
                ("custom", number),
            ],
            weights=[60, 8, 2, 2, 10, 4, 4, 2, 4],
        )[0]


class Reader:
    """Follows one run to its end, and keeps what it was given."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.frames: list[Frame] = []

    async def read(self, tailer: Tailer) -> None:
        async with tailer.subscribe(self.run_id) as subscription:
            async for batch in subscription:
                self.frames += batch

    def check(self, entries: list[object]) -> None:
        """Every event of the log, once, in order."""
        assert [(frame.cursor, frame.type) for frame in self.frames] == [
            (entry.cursor, entry.type)  # type: ignore[attr-defined]
            for entry in entries
        ]


async def through(store: Store, engines: list[Engine], trouble: asyncio.Future[None]) -> list[set[str]]:
    """Write until the trouble is over, and then to the end; returns which servers each run was written to."""
    carried: list[set[str]] = [{engine.channel.writer.url} for engine in engines]
    while not trouble.done():
        await _together(engines, lambda engine: engine.write(15, flushes=0.1))
        for engine, servers in zip(engines, carried, strict=True):
            servers.add(engine.channel.writer.url)
        await asyncio.sleep(0.005)
    trouble.result()
    await _together(engines, lambda engine: engine.finish(store))
    return carried


async def _together(engines: list[Engine], work: Callable[[Engine], Awaitable[None]]) -> None:
    """Have all engines do something; a run whose events nobody carries any more is named."""
    tasks = {asyncio.ensure_future(work(engine)): engine for engine in engines}
    done, stuck = await asyncio.wait(tasks, timeout=STUCK_S)
    for task in stuck:
        task.cancel()
    await asyncio.gather(*stuck, return_exceptions=True)
    named = [
        (tasks[task].run_id, tasks[task].channel.phase, tasks[task].channel.writer.url) for task in stuck
    ]
    assert not named, f"these runs were not written on for {STUCK_S} s: {named}"
    for task in done:
        task.result()


async def log_of(store: Store, run_id: str) -> list[Entry]:
    """All entries of a run's log, as they are."""
    log = keys.run(run_id).log
    found: Any = await store.patiently(lambda: _entries(store, log))
    return [events.entry(*entry) for entry in found]


async def _entries(store: Store, log: str) -> Any:
    return await (await store.node_of(log)).client.xrange(log)


async def verify(store: Store, engine: Engine, *, was_lossless: bool = True) -> list[Entry]:
    """The log is whole, says exactly what the engine said, and had everything that a flush acknowledged."""
    entries = await log_of(store, engine.run_id)
    cursor = START
    for entry in entries:
        assert entry.follows(cursor), f"{entry.cursor} after {cursor}"
        cursor = entry.cursor
    if was_lossless:
        assert Type.RESYNC not in {entry.type for entry in entries}
        _verify_flushes(entries, engine)
    final = contents.fold(entries)
    assert final.dump()["content"] == engine.model.content
    assert (final.title, final.usage) == (engine.model.title, engine.model.usage)
    assert jsontext.dumps(engine.channel.fold.dump()) == jsontext.dumps(final.dump())
    assert engine.losses == []
    return entries


def _verify_flushes(entries: list[Entry], engine: Engine) -> None:
    deltas = contents.Content()
    position = 0
    for cursor, said in engine.flushed:
        while position < len(entries) and entries[position].cursor <= cursor:
            deltas.apply_entry(entries[position])
            position += 1
        assert deltas.dump()["content"] == said, f"what was flushed at {cursor} is not there"
