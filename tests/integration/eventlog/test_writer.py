"""The writer on a healthy store: order, counts, closing, snapshots, back-pressure."""

from __future__ import annotations

import asyncio

import pytest

from mainstem_shared import errors, transitions
from mainstem_shared.eventlog.writing.channels import BUFFER_LIMIT, Phase
from mainstem_shared.eventlog.writing.writer import Writer
from mainstem_shared.model import contents, events, jsontext
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.events import CONTENT_LIMIT, MERGE_LIMIT, Type
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.models import verb_calls as v
from support.models.hostile_writing import Engine, log_of, stored, verify, writing
from support.processes.proxy import Proxy
from support.processes.servers import ValkeyProcess
from support.waiting import wait_until_async

MESSAGE = Type.MESSAGE_DELTA


async def test_many_runs_write_at_once_and_each_log_is_its_own(store: Store, store_url: str):
    """Forty engines over one connection: every log whole, every word where it belongs, every flush true."""
    async with writing(store_url) as writer:
        engines = [Engine(writer, await v.running(store), seed) for seed in range(40)]
        await asyncio.gather(*(engine.write(200) for engine in engines))
        await asyncio.gather(*(engine.finish(store) for engine in engines))
        for engine in engines:
            await verify(store, engine)


async def test_a_flush_is_a_barrier_for_others_too(store: Store, store_url: str):
    """When it returns, anybody's read has all that was emitted before it, at the returned cursor."""
    async with writing(store_url) as writer:
        channel = writer.open(await v.running(store))
        for number in range(20):
            channel.text(MESSAGE, f"{number} ")
            top = await channel.flush()
            assert (await log_of(store, channel.control.run_id))[-1].cursor == top
        assert top == Cursor(2, 20)
        assert await channel.flush() == top


# -- counts


async def commands(store: Store) -> dict[str, int]:
    stats = await store.client.info("commandstats")
    return {name.removeprefix("cmdstat_"): n["calls"] for name, n in stats.items()}


async def test_a_token_alone_costs_one_command(store: Store, store_url: str):
    """A hundred tokens, each awaited: a hundred XADDs and nothing else."""
    async with writing(store_url) as writer:
        channel = writer.open(await v.running(store))
        await writer.connected.wait()
        await channel.flush()
        await store.client.config_resetstat()
        for _ in range(100):
            channel.text(MESSAGE, "x")
            await channel.flush()
        counted = await commands(store)
    assert counted["xadd"] == 100
    assert set(counted) <= {"xadd", "config|resetstat", "info"}


async def test_tokens_that_come_together_cost_one_command(store: Store, store_url: str):
    """A thousand tokens of one tick are one XADD; with tool calls in between, one transaction."""
    async with writing(store_url) as writer:
        channel = writer.open(await v.running(store))
        await writer.connected.wait()
        await channel.flush()
        await store.client.config_resetstat()
        for _ in range(1000):
            channel.text(MESSAGE, "x")
        await channel.flush()
        assert (await commands(store))["xadd"] == 1
        for number in range(5):
            channel.emit(Type.TITLE, {"title": str(number)})
            channel.text(MESSAGE, "x")
        await channel.flush()
        counted = await commands(store)
    assert (counted["multi"], counted["exec"], counted["xadd"]) == (1, 1, 11)
    assert not {"evalsha", "eval", "xrevrange"} & set(counted)


async def test_many_runs_share_round_trips(store: Store, store_url: str):
    """Fifty runs that emit in one tick go out in one write, one XADD each."""
    async with writing(store_url) as writer:
        channels = [writer.open(await v.running(store)) for _ in range(50)]
        await writer.connected.wait()
        await asyncio.gather(*(channel.flush() for channel in channels))
        await store.client.config_resetstat()
        for channel in channels:
            channel.text(MESSAGE, "x")
        await asyncio.gather(*(channel.flush() for channel in channels))
        stats = await store.client.info("stats")
        assert (await commands(store))["xadd"] == 50
        assert stats["total_reads_processed"] <= 5


# -- ends


@pytest.mark.parametrize("end", ["close", "finish", "discard"])
async def test_nothing_is_written_after_the_end(store: Store, store_url: str, end: str):
    """A stray subtask that emits after its engine returned is refused, and its words do not land."""
    async with writing(store_url) as writer:
        engine = Engine(writer, await v.running(store), 1)
        await engine.write(20)
        if end == "discard":
            await engine.flush()
            engine.channel.discard()
        elif end == "finish":
            await engine.finish(store)
        else:
            await engine.channel.close()
        before = await log_of(store, engine.run_id)
        with pytest.raises(errors.Fenced if end == "discard" else errors.ChannelClosed):
            engine.channel.text(MESSAGE, "stray")
        with pytest.raises(errors.Fenced if end == "discard" else errors.ChannelClosed):
            engine.channel.emit(Type.TITLE, {"title": "stray"})
        other = writer.open(await v.running(store))
        other.text(MESSAGE, "x")
        await other.flush()
        assert await log_of(store, engine.run_id) == before
        assert engine.losses == []


async def test_a_run_over_the_content_limit_can_still_end(store: Store, store_url: str):
    """It fails honestly: all it said up to the limit is in the final event."""
    async with writing(store_url) as writer:
        channel = writer.open(await v.running(store))
        for _ in range(CONTENT_LIMIT // MERGE_LIMIT):
            channel.text(MESSAGE, "x" * MERGE_LIMIT)
            if channel.congested:
                await channel.drained()
        with pytest.raises(errors.ContentTooLarge):
            channel.text(MESSAGE, "x")
        top = await channel.close()
        finished = await v.finish(store, channel.control, top=top, state=channel.fold.dump())
        assert isinstance(finished, transitions.Finished)
    (last,) = (await transitions.read(store, channel.control.run_id)).entries  # type: ignore[union-attr]
    assert len(contents.fold([last]).text) == CONTENT_LIMIT


# -- snapshots


async def test_a_cold_reader_gets_snapshot_and_tail_at_any_time(store: Store, store_url: str):
    """While an engine writes and the log is trimmed behind it: what a reader folds is a beginning of what was said.

    And a reader that follows, at its own pace, never misses an entry or finds its place trimmed away before
    the next snapshot.
    """
    async with writing(store_url, Writer) as writer:
        engine = Engine(writer, await v.running(store), 5)
        work = asyncio.create_task(engine.write(4000))
        seen: set[Cursor | None] = set()
        while not work.done():
            state = await transitions.read(store, engine.run_id)
            assert isinstance(state, transitions.State)
            at = state.snapshot_cursor
            for entry in state.entries:
                assert at is None or entry.follows(at)
                at = entry.cursor
            base = jsontext.loads(state.snapshot_state) if state.snapshot_state else None
            assert engine.channel.fold.text.startswith(contents.fold(state.entries, base).text)
            seen.add(state.snapshot_cursor)
        await work
        top = await engine.channel.close()
        state = await transitions.read(store, engine.run_id)
        assert isinstance(state, transitions.State)
        assert state.top == top
        cold = contents.fold(state.entries, jsontext.loads(state.snapshot_state))
        assert jsontext.dumps(cold.dump()) == jsontext.dumps(engine.channel.fold.dump())
        assert cold.dump()["content"] == engine.model.content
    assert len(seen) > 3
    assert len(await log_of(store, engine.run_id)) < engine.channel.acknowledged.seq


async def test_snapshots_are_few_and_the_log_stays_short(store: Store, store_url: str):
    """A long answer takes snapshots by the logarithm of its length, and the log keeps the tail of two of them."""
    async with writing(store_url, Writer) as writer:
        channel = writer.open(await v.running(store))
        await channel.flush()
        await store.client.config_resetstat()
        for _ in range(1000):
            channel.text(MESSAGE, "x" * 300)
            await channel.flush()
        await wait_until_async(lambda: not channel.snapshot_pending, description="the last snapshot")
        stats = await store.client.info("commandstats")
        verbs_run = stats["cmdstat_evalsha"]["calls"] + stats.get("cmdstat_eval", {"calls": 0})["calls"]
        assert 20 <= verbs_run <= 45  # each an eighth longer than the one before
        assert await store.client.xlen(keys.run(channel.control.run_id).log) < 1000


# -- back-pressure and absence


async def test_an_engine_is_slowed_while_the_store_does_not_answer(private_valkey: ValkeyProcess):
    """Frozen for three seconds: memory stays bounded, the engine waits, then everything goes on; nothing is lost."""
    async with stored(private_valkey.url()) as store, writing(private_valkey.url()) as writer:
        engine = Engine(writer, await v.running(store), 1)
        await engine.write(50)
        await engine.flush()
        private_valkey.freeze()
        work = asyncio.create_task(engine.write(20_000, flushes=0))
        await wait_until_async(lambda: engine.channel.congested, description="the engine to be slowed down")
        emitted = engine.channel._enqueued
        await asyncio.sleep(3)  # a pause of the server is what this test is about
        assert engine.channel._enqueued == emitted
        assert not work.done()
        private_valkey.thaw()
        await work
        await engine.finish(store)
        await verify(store, engine)
        assert engine.peak < BUFFER_LIMIT + MERGE_LIMIT
        assert engine.channel.control.epoch == 2


async def test_events_wait_for_the_first_connection(private_valkey: ValkeyProcess):
    """A channel opened while the store is unavailable takes events and flushes when it comes."""
    async with stored(private_valkey.url()) as store:
        control = await v.running(store)
        await store.close()
        private_valkey.sigkill()
        async with writing(private_valkey.url()) as writer:
            engine = Engine(writer, control, 1)
            work = asyncio.create_task(engine.write(100))
            await wait_until_async(lambda: engine.channel._enqueued > 5, description="events to wait")
            private_valkey.start()
            await work
            await engine.finish(store)
            await verify(store, engine)


async def test_stopping_while_the_store_is_unavailable_leaves_nobody_waiting(private_valkey: ValkeyProcess):
    """Who flushes, drains or closes is told; the stop itself is quick; nothing runs on."""
    async with stored(private_valkey.url()) as store:
        control = await v.running(store)
        await store.close()
        async with writing(private_valkey.url()) as writer:
            channel = writer.open(control)
            channel.text(MESSAGE, "x")
            await channel.flush()
            private_valkey.sigkill()
            await wait_until_async(
                lambda: not writer.connected.is_set(), description="the loss to be noticed"
            )
            while not channel.congested:
                channel.text(MESSAGE, "x" * 1000)
            waits = [asyncio.ensure_future(w) for w in (channel.flush(), channel.drained(), channel.close())]
            await wait_until_async(lambda: len(channel._flushes) == 2, description="all to wait")
            async with asyncio.timeout(2):
                await writer.stop()
                for wait in waits:
                    with pytest.raises(errors.Fenced):
                        await wait
    assert channel.phase is Phase.LOST


async def test_a_suspended_process_writes_nothing(store: Store, store_url: str):
    """While `may_write` is false nothing goes out, and the owner of the runs is told."""
    told: list[str] = []
    suspended = False
    async with writing(
        store_url, may_write=lambda: not suspended, on_suspended=lambda: told.append("suspended")
    ) as writer:
        channel = writer.open(await v.running(store))
        channel.text(MESSAGE, "before")
        top = await channel.flush()
        suspended = True
        channel.text(MESSAGE, "after")
        await wait_until_async(lambda: told, description="the suspension to be told")
        assert (await log_of(store, channel.control.run_id))[-1].cursor == top
        writer.lose_all()
        with pytest.raises(errors.Fenced):
            await channel.flush()


async def test_the_end_of_a_run_is_no_loss(store: Store, store_url: str, empty_server: ValkeyProcess):
    """A probe under way while the run is closed and finished does not report it as taken away."""
    assert empty_server.port is not None
    async with Proxy(empty_server.port) as proxy, writing(proxy.url) as writer:
        engine = Engine(writer, await v.running(store), 1)
        await engine.write(10)
        await engine.flush()
        proxy.cut_all()
        await engine.finish(store)
        other = writer.open(await v.running(store))
        other.text(MESSAGE, "x")
        await other.flush()
        await verify(store, engine)
        assert engine.channel.phase is not Phase.LOST


async def test_a_run_that_cannot_be_encoded_does_not_harm_the_others(store: Store, store_url: str):
    """Replies are matched by order alone: a failing run must not shift them."""
    async with writing(store_url) as writer:
        engines = [Engine(writer, await v.running(store), seed) for seed in range(3)]
        await writer.connected.wait()
        await asyncio.gather(*(engine.flush() for engine in engines))
        sick = engines[1].channel
        for engine in engines:
            engine.say(("text", "x"))
        sick._pending.append(events.Entry)  # type: ignore[arg-type]  # no item that can be encoded
        await engines[0].flush()
        await engines[2].flush()
        with pytest.raises(errors.Fenced):
            await sick.flush()
        for engine in (engines[0], engines[2]):
            await engine.write(50)
            await engine.finish(store)
            await verify(store, engine)
