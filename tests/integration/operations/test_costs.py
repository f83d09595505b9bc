"""What things cost the store, in exact counts: a change that makes one of them dearer must say so here.

Counts and ratios, no times: they are the same on every machine. `make bench` measures the times.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from mainstem_api import AsyncRuns
from mainstem_shared import transitions
from mainstem_shared.eventlog.reading.tailer import Tailer
from mainstem_shared.eventlog.writing.writer import Writer
from mainstem_shared.model import ids
from mainstem_shared.model.actions import Action, Question
from mainstem_shared.model.contents import Content
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.events import Type
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations import census
from mainstem_shared.operations.indexes import Indexes
from mainstem_shared.settings import Settings, WriteProfile
from mainstem_shared.store.client import Store
from mainstem_tasks import RunContext, engine
from mainstem_tasks.execution import segments
from support.models import verb_calls as v
from support.models.specs import spec
from support.processes.in_process_worker import working
from support.processes.servers import ValkeyProcess
from support.waiting import wait_until_async

MESSAGE = Type.MESSAGE_DELTA
WORD = " word12"  # seven characters, as a token has
pytestmark = pytest.mark.one_server("counts what the only server is sent")

RUNS, TICKS = 20, 150


@engine("costs.asks")
async def asks(run: RunContext[dict[str, Any]]) -> None:
    """Say something and ask a human about it; then be done."""
    if not run.decisions:
        await run.text("may I?")
        await run.request_approval([{"call_id": "c", "name": "f", "arguments": {}}])


@engine("costs.waits")
async def waits(run: RunContext[dict[str, Any]]) -> None:
    """Say something, and then nothing for ever."""
    await run.text("hello")
    await asyncio.Event().wait()


# -- a token


class Meter:
    """What the server was sent, and asked to do, since the meter was made."""

    COUNTED = ("xadd", "multi", "exec", "evalsha", "eval", "hset", "pexpire", "xtrim")

    def __init__(self, server: ValkeyProcess) -> None:
        self._server = server
        with server.client() as client:
            client.config_resetstat()

    def read(self) -> tuple[dict[str, int], int]:
        with self._server.client() as client:
            size: int = client.info("stats")["total_net_input_bytes"]
            stats: dict[str, Any] = client.info("commandstats")
        return {name: stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in self.COUNTED}, size


@contextlib.asynccontextmanager
async def channels(store: Store, profile: WriteProfile) -> AsyncIterator[list[Any]]:
    writer = Writer(store, Settings(write_profile=profile))
    await writer.start()
    try:
        opened = [writer.open(await v.running(store)) for _ in range(RUNS)]
        await store.client.script_load(
            transitions.SNAPSHOT.source
        )  # sent once in a server's life, not by tokens
        await writer.connected.wait()
        await asyncio.gather(*(channel.flush() for channel in opened))
        yield opened
    finally:
        await writer.stop()


async def test_a_token_that_comes_alone(store: Store, empty_server: ValkeyProcess):
    """`latency`: one XADD for each, 156 bytes with everything; snapshots come to under 5 commands in 100."""
    async with channels(store, WriteProfile.LATENCY) as opened:
        meter = Meter(empty_server)
        for _ in range(TICKS):
            for channel in opened:
                channel.text(MESSAGE, WORD)
            await asyncio.gather(*(channel.flush() for channel in opened))
        counted, size = meter.read()
    tokens = RUNS * TICKS
    assert counted["xadd"] == tokens
    assert counted["multi"] == counted["exec"] == 0
    assert 0 < counted["evalsha"] + counted["eval"] <= 0.05 * tokens
    assert size <= 156 * tokens


async def test_tokens_that_wait_for_each_other(store: Store, empty_server: ValkeyProcess):
    """`economy`: what comes within a window is one command; 40 tokens/s pay a third, and 80 bytes a token."""
    async with channels(store, WriteProfile.ECONOMY) as opened:
        meter = Meter(empty_server)
        for _ in range(TICKS // 6):
            for _ in range(3):
                for channel in opened:
                    channel.text(MESSAGE, WORD)
                for _ in range(3):  # other work of the loop: what goes out at once has gone
                    await asyncio.sleep(0)
            await asyncio.gather(*(channel.flush() for channel in opened))
        counted, size = meter.read()
    tokens = RUNS * (TICKS // 6) * 3
    assert counted["xadd"] == tokens / 3
    assert counted["evalsha"] + counted["eval"] <= 0.05 * tokens
    assert size <= 80 * tokens


# -- a census


async def test_a_census_reads_each_unfinished_run_once(
    settings: Settings, store: Store, empty_server: ValkeyProcess
):
    """One HMGET of four fields a run: since when those wait that never ran, their ids tell."""
    await v.running(store)
    begun = now_ms()
    for n in range(10):
        await v.start(store, ids.run_id("default", f"waits-{n}", ids.uuid7()))
    indexes = Indexes(store=store, settings=settings)
    due = await indexes.due()
    with empty_server.client() as client:
        client.config_resetstat()
        taken = await census.take(store, indexes, due)
        stats: dict[str, Any] = client.info("commandstats")
    assert stats["cmdstat_hmget"]["calls"] == 11
    assert stats["cmdstat_zrange"]["calls"] <= 11 + 1  # the buckets that have runs, and the processes
    assert "cmdstat_zcard" not in stats  # no callback is due
    assert (taken.runs["running"], taken.runs["queued"]) == (1, 10)
    assert taken.queued_since_ms is not None
    assert begun - 1 <= taken.queued_since_ms <= now_ms()


# -- a call


class Trips:
    """How often a store's user waited for it: a pipeline is one trip, as are commands of one line call.

    Looks at what another process has done by now are not counted: how many there are depends on its pace.
    """

    LOOKS = ("GET",)

    def __init__(self, store: Store) -> None:
        self.count = 0
        line, client = store.shared, store.client
        line.call = self._counting(line.call)  # type: ignore[method-assign]
        execute, pipeline = client.execute_command, client.pipeline

        def counting_pipeline(**options: Any) -> Any:
            pipe = pipeline(**options)
            pipe.execute = self._counting(pipe.execute)
            return pipe

        client.execute_command, client.pipeline = self._counting(execute), counting_pipeline

    def _counting(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def counted(*args: Any, **options: Any) -> Any:
            first = args[0] if args else None  # of a pipeline there is none
            is_look = first in self.LOOKS or (isinstance(first, tuple) and first[0] in self.LOOKS)
            self.count += not is_look
            return await call(*args, **options)

        return counted

    async def of(self, work: Awaitable[Any]) -> int:
        before = self.count
        await work
        return self.count - before


async def test_round_trips_of_a_runs_life(settings: Settings):
    """From the web tier's start to the worker's end, and a pause in between; scripts are known already."""
    async with working(settings) as runtime, AsyncRuns(settings) as client:

        async def execute(run_id: str) -> None:
            await segments.execute(runtime, run_id, task_id="t")

        async def resume(run_id: str) -> None:
            run = await client.get(run_id)
            decisions = [{"call_id": "c", "type": "approve"}]
            await client.resume(run_id, action_id=run.action["action_id"], decisions=decisions)

        async def life(thread: str) -> dict[str, int]:
            web, worker = Trips(client._store), Trips(runtime.store)
            run_id = f"{thread}"

            async def start() -> None:
                nonlocal run_id
                run_id = (await client.start(thread, "costs.asks")).run_id

            return {
                "start": await web.of(start()),
                "claim, text, pause": await worker.of(execute(run_id)),
                "look, resume": await web.of(resume(run_id)),
                "claim, finish": await worker.of(execute(run_id)),
                "look": await web.of(client.get(run_id)),
            }

        await life("warm")
        assert await life("measured") == {
            "start": 5,
            "claim, text, pause": 4,
            "look, resume": 7,
            "claim, finish": 6,
            "look": 1,
        }


async def test_round_trips_of_an_abort(settings: Settings):
    """The caller's: whose it is, the wish (with a look soon), the letter, the outcome. The worker's: the end, the indexes."""
    async with working(settings) as runtime, AsyncRuns(settings) as client:
        for thread in ("warm", "measured"):
            run_id = (await client.start(thread, "costs.waits")).run_id
            worker = Trips(runtime.store)
            task = asyncio.create_task(segments.execute(runtime, run_id, task_id="t"))
            await wait_until_async(lambda r=run_id: r in runtime.segments, description="the run to begin")
            before = worker.count
            web = Trips(client._store)
            trips = await web.of(client.abort(run_id))
            await task
            ended = worker.count - before
        assert (trips, ended) == (5, 2)


# -- a reader's return


async def test_a_return_costs_the_content_not_the_number_of_deltas(store: Store):
    """Eight times the deltas for the same content: the same round trips, and no more than a tenth more bytes."""
    content = 48_000
    costs: dict[int, tuple[int, int]] = {}
    writer = Writer(store, Settings())
    await writer.start()
    for deltas in (300, 2400):
        channel = writer.open(await v.running(store))
        for _ in range(deltas):
            channel.text(MESSAGE, "x" * (content // deltas))
            await channel.flush()
        await wait_until_async(lambda c=channel: not c.snapshot_pending, description="the last snapshot")
        trips, reader = Trips(store), Tailer(store)

        async def come_back(channel: Any = channel, reader: Tailer = reader) -> int:
            size = 0
            async with reader.subscribe(channel.control.run_id) as subscription:
                async for frames in subscription:
                    size += sum(len(frame.wire) for frame in frames)
                    if frames[-1].cursor == channel.acknowledged:
                        return size
            raise AssertionError("the feed ended")

        await come_back()
        before = trips.count
        size = await come_back()
        costs[deltas] = trips.count - before, size
        await reader.close()
        await channel.close()
    await writer.stop()
    assert costs[300][0] == costs[2400][0]
    assert content <= costs[300][1]
    assert costs[2400][1] <= 1.1 * costs[300][1]


# -- what is there while runs are at work


async def test_a_process_needs_few_connections_however_many_runs(
    settings: Settings, store: Store, empty_server: ValkeyProcess
):
    """A worker, a web tier and a reader's process: a dozen in all, and no more for 30 runs than for one."""

    def all_connections() -> int:
        with empty_server.client() as looker:
            return len(looker.client_list()) - 1

    before = all_connections()  # what other tests left to the garbage collector
    allowed = 14

    def connections() -> int:
        return all_connections() - before

    for runs in (1, 30):
        async with working(settings) as runtime, AsyncRuns(settings) as client, Tailer(store) as tailer:
            started = [await client.start(f"c{runs}-{n}", "costs.waits") for n in range(runs)]
            tasks = [asyncio.create_task(segments.execute(runtime, s.run_id, task_id="t")) for s in started]
            async with contextlib.AsyncExitStack() as readers:
                for start in started:
                    await readers.enter_async_context(tailer.subscribe(start.run_id))
                await wait_until_async(lambda n=runs: len(runtime.segments) == n, description="all runs")
                # Waited for: connections that were closed may linger.
                await wait_until_async(lambda a=allowed: connections() <= a, description="few connections")
                allowed = min(allowed, connections() + 2)  # redis-py's pool keeps what two at once needed
            await asyncio.gather(*(client.abort(start.run_id) for start in started))
            await asyncio.gather(*tasks)


async def test_memory_of_a_run(store: Store):
    """Running with 500 deltas: 18 kB with all its keys. Over and compacted: its content, its input, and 2 KB."""
    writer = Writer(store, Settings())
    await writer.start()
    control = await v.running(store)
    channel = writer.open(control)
    for _ in range(500):
        channel.text(MESSAGE, WORD)
        await channel.flush()
    await wait_until_async(lambda: not channel.snapshot_pending, description="the last snapshot")

    async def used() -> int:
        mine = f"*:{ids.split(control.run_id)[1]}:*"
        return sum(
            [await store.client.memory_usage(key, samples=0) async for key in store.client.scan_iter(mine)]
        )

    running = await used()
    top = await channel.close()
    await v.finish(store, channel.control, top=top, state=channel.fold.dump())
    await transitions.compact(store, control.run_id)
    over = await used()
    await writer.stop()
    assert running <= 18_000
    assert over <= 500 * len(WORD) + len(b'{"a":1}') + 2048


async def test_a_short_run_takes_no_room_for_a_longer_one(store: Store):
    """Over and compacted, or waiting for a human: the 4 KB that a log's first entries take are given back."""
    runs, words = 200, 20

    async def used() -> int:
        return (await store.client.info("memory"))["used_memory_dataset"]

    async def end(control: transitions.Control) -> None:
        state = {**v.STATE, "content": [{"type": "text", "text": WORD * words}]}
        await v.finish(store, control, top=Cursor(control.epoch, words), state=state)
        await transitions.compact(store, control.run_id)

    async def wait(control: transitions.Control) -> None:
        top, fold = Cursor(control.epoch, words), Content()
        fold.append_text("text", 0, WORD * words)
        asked = Action(
            action_id="a", kind="question", questions=(Question(question_id="q", text="?"),), expires_ms=1
        )
        await transitions.pause(
            store, control, nonce=ids.nonce(), top=top, spec=spec(control.run_id), action=asked, fold=fold,
            checkpoint=b"state", settings=Settings(),
        )  # fmt: skip

    async def each(stops: Callable[[transitions.Control], Awaitable[None]]) -> float:
        before = await used()
        for _ in range(runs):
            control = await v.running(store)
            await v.append(store, control, *[WORD] * words)
            await stops(control)
        return (await used() - before) / runs

    for stops in (end, wait):  # what a server keeps of scripts and of its tables comes once
        await each(stops)
    assert await each(end) <= len(WORD) * words + len(b'{"a":1}') + 2048
    assert await each(wait) <= 5_000
