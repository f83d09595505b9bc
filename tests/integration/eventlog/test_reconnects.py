"""Reconnecting, at random, over runs in every state: each reader ends with exactly the run's events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mainstem_shared.eventlog.reading import subscriptions
from mainstem_shared.eventlog.reading.tailer import Tailer
from mainstem_shared.model.events import Type
from mainstem_shared.store.client import Store
from support.clients.checking_reader import Reader
from support.models.logs import RunLog

READERS = 3
GATEWAYS = 2

writing = st.one_of(
    st.tuples(st.just("say"), st.integers(1, 12)),
    st.sampled_from([("snapshot",), ("snapshot",), ("handover",), ("tool",), ("resync",)]),
)
reading = st.one_of(
    st.tuples(st.just("connect"), st.integers(0, READERS - 1), st.integers(0, GATEWAYS - 1), st.booleans()),
    st.tuples(st.just("drop"), st.integers(0, READERS - 1)),
    st.tuples(st.just("pause"), st.integers(0, 5)),
)
# Reading stands twice: most of what happens to a run is people coming and going.
scripts = st.lists(st.one_of(writing, reading, reading), max_size=40)
endings = st.lists(reading, max_size=10)


class Scene:
    """One run, its readers, and the tailers of two gateways."""

    def __init__(self, store: Store, log: RunLog, tailers: list[Tailer]) -> None:
        self.store, self.log, self.tailers = store, log, tailers
        self.readers = [Reader(log) for _ in range(READERS)]
        self.connections: dict[int, asyncio.Task[None]] = {}
        self.running = False
        self.connects = 0

    async def play(self, name: str, *args: Any) -> None:
        action: Callable[..., Any] = getattr(self, name)
        await action(*args)

    # -- the run

    async def own(self) -> None:
        if not self.running:
            await self.log.claim()
            self.running = True

    async def say(self, count: int) -> None:
        await self.own()
        await self.log.say(count)

    async def snapshot(self) -> None:
        await self.own()
        await self.log.snapshot()

    async def resync(self) -> None:
        """A resync that nobody needed replaces the content by itself."""
        await self.own()
        await self.log.resync()

    async def handover(self) -> None:
        await self.own()
        await self.log.handover()
        self.running = False

    async def tool(self) -> None:
        await self.own()
        call = f"c{len(self.log.entries)}"
        await self.log.append(
            (
                Type.STEP_STARTED,
                {"step_id": call, "kind": "tool_call", "name": "f", "arguments": {"x": 1}, "at": 1},
            ),
            (Type.STEP_COMPLETED, {"step_id": call, "state": "completed", "result": "r", "at": 2}),
        )

    # -- its readers

    async def connect(self, who: int, gateway: int, from_snapshot: bool) -> None:  # noqa: FBT001
        await self.drop(who)
        self.connections[who] = asyncio.create_task(
            self._follow(self.readers[who], self.tailers[gateway], from_snapshot=from_snapshot)
        )
        self.connects += 1

    async def _follow(self, reader: Reader, tailer: Tailer, *, from_snapshot: bool) -> None:
        async with tailer.subscribe(
            self.log.run_id, after=reader.cursor, from_snapshot=from_snapshot
        ) as subscription:
            async for batch in subscription:
                for frame in batch:
                    reader.take(frame.cursor, frame.type, frame.data)

    async def drop(self, who: int) -> None:
        if task := self.connections.pop(who, None):
            task.cancel()
            for result in await asyncio.gather(task, return_exceptions=True):
                if isinstance(result, Exception):
                    raise result

    async def pause(self, turns: int) -> None:
        """Let the readers run, for a few turns of the loop or for a little while."""
        for _ in range(turns):
            await asyncio.sleep(0)
        if turns == 5:
            await asyncio.sleep(0.005)

    async def end(self) -> None:
        """Everybody reads to the end."""
        for who, reader in enumerate(self.readers):
            if not reader.finished and (who not in self.connections or self.connections[who].done()):
                await self.connect(who, who % GATEWAYS, from_snapshot=False)
        async with asyncio.timeout(20):
            await asyncio.gather(*self.connections.values())
        for reader in self.readers:
            reader.check_end()
        assert sum(tailer.followed_runs for tailer in self.tailers) == 0


async def perform(
    url: str, script: list[tuple[Any, ...]], ending: list[tuple[Any, ...]], *, compact: bool
) -> None:
    store = Store(url)
    try:
        async with Tailer(store) as one, Tailer(store) as two:
            scene = Scene(store, await RunLog.start(store), [one, two])
            for step in script:
                await scene.play(*step)
            await scene.own()
            await scene.log.finish()
            if compact:
                await scene.log.compact()
            for step in ending:
                await scene.play(*step)
            await scene.end()
    finally:
        await store.close()


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=scripts, ending=endings, compact=st.booleans())
def test_every_reader_gets_every_event_once_in_order(
    store_url: str, script: list[tuple[Any, ...]], ending: list[tuple[Any, ...]], *, compact: bool
) -> None:
    """Whoever comes, goes, lags and returns: the events with their bytes, or a snapshot for what is gone."""
    with patch.object(subscriptions, "QUEUE_FRAMES", 8):
        asyncio.run(perform(store_url, script, ending, compact=compact))
