"""The writer on bad days: cut, stalled, starved, killed and rewound. Each log is whole and says what was said."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from mainstem_shared import errors, transitions
from mainstem_shared.eventlog.writing.writer import RETRY_S, Writer
from mainstem_shared.model import contents, events, jsontext
from mainstem_shared.model.events import Type
from mainstem_shared.model.runs import Reason
from mainstem_shared.operations import ending
from mainstem_shared.operations.performing import Operations
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.models import verb_calls as v
from support.models.hostile_writing import SETTINGS, Engine, log_of, stored, verify, writing
from support.processes.proxy import Plan, Proxy, cutting
from support.processes.refusals import REFUSALS, refusing
from support.processes.servers import ValkeyProcess
from support.waiting import wait_until_async


@pytest.fixture
def port(empty_server: ValkeyProcess) -> int:
    assert empty_server.port is not None
    return empty_server.port


async def disturb(engines: list[Engine], steps: int, trouble: Callable[[], Awaitable[None]]) -> None:
    """Let engines write while trouble comes again and again; it ends when they are through."""

    async def troubles() -> None:
        while True:
            await trouble()

    task = asyncio.create_task(troubles())
    try:
        await asyncio.gather(*(engine.write(steps) for engine in engines))
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("seed", range(3))
async def test_a_connection_cut_at_any_byte_loses_nothing_and_repeats_nothing(
    store: Store, port: int, seed: int
):
    """Hundreds of cuts, in both directions: in a command, before and in a reply, in the handshake."""
    plan = cutting(typical=800)
    async with Proxy(port, seed=seed, plan=plan) as proxy, writing(proxy.url) as writer:
        engines = [Engine(writer, await v.running(store), 100 * seed + n) for n in range(5)]
        while proxy.cuts < 150:
            await asyncio.gather(*(engine.write(100, flushes=0.2) for engine in engines))
        for engine in engines:
            await engine.finish(store)
            await verify(store, engine)


async def test_snapshots_and_trims_over_a_bad_connection_lose_nothing(store: Store, port: int):
    """The verbs are cut as well: what a cold reader folds in the end is exactly what was said."""
    plan = cutting(typical=6000)
    async with Proxy(port, seed=4, plan=plan) as proxy, writing(proxy.url, Writer) as writer:
        engines = [Engine(writer, await v.running(store), n) for n in range(4)]
        while proxy.cuts < 20:
            await asyncio.gather(*(engine.write(300) for engine in engines))
        for engine in engines:
            top = await engine.channel.close()
            state = await transitions.read(store, engine.run_id)
            assert isinstance(state, transitions.State)
            assert state.snapshot_cursor is not None
            assert state.top == top
            cold = contents.fold(state.entries, jsontext.loads(state.snapshot_state))
            assert cold.dump()["content"] == engine.model.content
            assert engine.losses == []


async def test_delays_and_stalls_change_nothing(store: Store, port: int):
    """A network that is late by random times, and stops now and then for a quarter of a second."""
    async with (
        Proxy(port, seed=5, plan=lambda dice: Plan(delay_s=dice.uniform(0, 0.004))) as proxy,
        writing(proxy.url) as writer,
    ):
        engines = [Engine(writer, await v.running(store), n) for n in range(5)]
        dice = random.Random(5)

        async def stall() -> None:
            await asyncio.sleep(dice.uniform(0.02, 0.1))
            proxy.stall()
            await asyncio.sleep(dice.uniform(0.02, 0.25))
            if dice.random() < 0.5:
                proxy.cut_all()
            proxy.flow()

        try:
            await disturb(engines, 500, stall)
        finally:
            proxy.flow()
        for engine in engines:
            await engine.finish(store)
            await verify(store, engine)


async def test_killed_clients_come_back(store: Store, store_url: str):
    """CLIENT KILL of every connection, again and again."""
    kills = 0
    async with writing(store_url) as writer:
        engines = [Engine(writer, await v.running(store), n) for n in range(5)]

        async def kill() -> None:
            nonlocal kills
            await asyncio.sleep(0.01)
            kills += await store.client.client_kill_filter(_type="normal", skipme=True)

        while kills < 50:
            await disturb(engines, 500, kill)
        for engine in engines:
            await engine.finish(store)
            await verify(store, engine)


async def test_a_full_store_delays_and_never_tears_a_group(store: Store, store_url: str):
    """Memory runs out before and in the middle of what is written, and comes back: no hole, nothing twice."""
    refusals = 0
    async with writing(store_url) as writer:
        engines = [Engine(writer, await v.running(store), n) for n in range(6)]
        dice = random.Random(6)

        async def starve() -> None:
            nonlocal refusals
            await asyncio.sleep(dice.uniform(0.001, 0.05))
            used = (await store.client.info("memory"))["used_memory"]
            await store.client.config_set("maxmemory", used + dice.randint(0, 30_000))
            for engine in engines:
                for _ in range(20):
                    engine.say(("custom", "x" * 1000))
            await asyncio.sleep(dice.uniform(0.001, 0.1))
            refusals += sum(engine.channel.phase.name == "WAITING" for engine in engines)
            await store.client.config_set("maxmemory", 0)

        try:
            while refusals < 20:
                await disturb(engines, 300, starve)
        finally:
            await store.client.config_set("maxmemory", 0)
        for engine in engines:
            await engine.finish(store)
            await verify(store, engine)


async def test_a_killed_server_that_comes_back_has_everything_acknowledged(private_valkey: ValkeyProcess):
    """SIGKILL and restart, three times, under six writing engines."""
    async with stored(private_valkey.url()) as store, writing(private_valkey.url()) as writer:
        engines = [Engine(writer, await v.running(store), n) for n in range(6)]
        work = [asyncio.create_task(engine.write(2500)) for engine in engines]
        for _ in range(3):
            written = engines[0].channel.acknowledged.seq
            await wait_until_async(
                lambda at=written: engines[0].channel.acknowledged.seq > at + 50, description="progress"
            )
            private_valkey.sigkill()
            await asyncio.to_thread(private_valkey.start)
        await asyncio.gather(*work)
        for engine in engines:
            await engine.finish(store)
            await verify(store, engine)


# -- lost tails


async def lose_tail(store: Store, engine: Engine, count: int) -> None:
    """Set a log back by some acknowledged entries, and cut all connections, as a fail-over does."""
    log = keys.run(engine.run_id).log
    kept = (await store.client.xrange(log))[:-count]
    async with store.client.pipeline(transaction=True) as pipe:
        pipe.delete(log)
        for raw_id, fields in kept:
            pipe.xadd(log, fields, id=raw_id)
        pipe.pexpire(log, v.LIVE_MS)
        pipe.client_kill_filter(_type="normal", skipme=True)
        await pipe.execute()


@pytest.mark.parametrize("state", ["idle", "writing"])
async def test_a_lost_tail_is_repaired_visibly(store: Store, store_url: str, state: str):
    """The owner writes its whole fold as `resync`; what it says later follows; a reader ends up right."""
    async with writing(store_url) as writer:
        engine = Engine(writer, await v.running(store), 7)
        for _ in range(3):
            await engine.write(100)
            await engine.flush()
            epoch = engine.channel.control.epoch
            if state == "idle":
                await lose_tail(store, engine, 5)
                await wait_until_async(
                    lambda e=epoch: engine.channel.control.epoch > e, description="a resync"
                )
            else:
                work = asyncio.create_task(engine.write(500))
                await asyncio.sleep(0)
                await lose_tail(store, engine, 5)
                await work
        await engine.finish(store)
        entries = await verify(store, engine, was_lossless=False)
    assert [entry.type for entry in entries].count(Type.RESYNC) >= (3 if state == "idle" else 1)


async def test_a_repair_over_a_bad_connection_is_made_once(store: Store, port: int):
    """Tails are lost while connections are cut, also those of the repair: each log is whole and right."""
    async with Proxy(port, seed=12, plan=cutting(typical=3000)) as proxy, writing(proxy.url) as writer:
        engines = [Engine(writer, await v.running(store), n) for n in range(4)]
        for number in range(8):
            work = asyncio.gather(*(engine.write(60, flushes=0.1) for engine in engines))
            await asyncio.sleep(0)
            await lose_tail(store, engines[number % 4], 4)
            await work
        for engine in engines:
            await engine.finish(store)
        resyncs = 0
        for engine in engines:
            entries = await verify(store, engine, was_lossless=False)
            resyncs += sum(entry.type == Type.RESYNC for entry in entries)
        assert 4 <= resyncs <= 8
        assert proxy.cuts > 0


async def test_stopping_in_the_middle_of_connecting_leaves_nothing(port: int):
    """A server that accepts and says nothing: the stop is quick, and no connection is left open."""
    async with Proxy(port) as proxy:
        proxy.stall()
        async with writing(proxy.url) as writer:
            await wait_until_async(lambda: proxy.connections, description="the writer to connect")
            async with asyncio.timeout(1):
                await writer.stop()


async def test_a_lost_tail_is_repaired_before_the_run_is_closed(store: Store, store_url: str):
    """Closing while it is not yet known what the log has waits; then control and cursor are the new ones."""
    async with writing(store_url) as writer:
        engine = Engine(writer, await v.running(store), 8)
        await engine.write(100)
        await engine.flush()
        await lose_tail(store, engine, 3)
        await wait_until_async(
            lambda: engine.channel.phase.name != "OPEN", description="the loss to be noticed"
        )
        await engine.finish(store)
        entries = await verify(store, engine, was_lossless=False)
    assert [entry.type for entry in entries[-2:]] == [Type.RESYNC, Type.FINISHED]


class NoBroker:
    """Publishes nothing: no run waits here."""

    async def apublish(self, run_id: str, **about: Any) -> str:
        raise AssertionError(run_id)


async def test_a_tail_lost_after_the_last_event_does_not_keep_a_run_from_ending(store: Store, store_url: str):
    """No probe sees it any more: the end itself does, and the final event has everything."""
    async with writing(store_url) as writer:
        engine = Engine(writer, await v.running(store), 13)
        await engine.write(100)
        top = await engine.channel.close()
        await lose_tail(store, engine, 3)
        operations = Operations(store=store, settings=SETTINGS, publisher=NoBroker())
        outcome = await ending.finish(
            operations, engine.channel.control, fold=engine.channel.fold, top=top, reason=Reason.COMPLETED
        )
        assert isinstance(outcome, transitions.Finished)
        await verify(store, engine, was_lossless=False)


async def test_a_log_that_vanished_is_written_again_and_ends_by_itself(store: Store, store_url: str):
    """Only the log is gone, the run is still its owner's: the whole state stands in the new log, with a TTL."""
    async with writing(store_url) as writer:
        engine = Engine(writer, await v.running(store), 9)
        await engine.write(100)
        await engine.flush()
        await store.client.delete(keys.run(engine.run_id).log)
        await engine.write(100)
        await engine.flush()
        assert await store.client.pttl(keys.run(engine.run_id).log) > 0
        await engine.finish(store)
        await verify(store, engine, was_lossless=False)


async def test_a_store_set_back_in_time_is_repaired(private_valkey: ValkeyProcess):
    """A crash that tears the end off the append-only file, at any byte: each run is whole again, or was."""
    dice = random.Random(10)
    async with stored(private_valkey.url()) as store, writing(private_valkey.url()) as writer:
        engines = [Engine(writer, await v.running(store), n) for n in range(6)]
        for _ in range(3):
            await asyncio.gather(*(engine.write(100) for engine in engines))
            await asyncio.gather(*(engine.flush() for engine in engines))
            private_valkey.sigkill()
            _tear(private_valkey.directory, dice.randint(1, 6000))
            work = asyncio.gather(*(engine.write(100, flushes=0) for engine in engines))
            await asyncio.to_thread(private_valkey.start)
            await work
        for engine in engines:
            await engine.finish(store)
        resyncs = 0
        for engine in engines:
            entries = await verify(store, engine, was_lossless=False)
            resyncs += sum(entry.type == Type.RESYNC for entry in entries)
    assert resyncs >= 3


def _tear(directory: Path, count: int) -> None:
    (file,) = directory.glob("appendonlydir/*.incr.aof")
    data = file.read_bytes()
    file.write_bytes(data[:-count])


async def test_a_run_whose_claim_was_set_back_is_given_up(private_valkey: ValkeyProcess):
    """If even the claim is gone from the store, the run is somebody else's to claim: its former owner stops."""
    async with stored(private_valkey.url()) as store, writing(private_valkey.url()) as writer:
        run_id = v.new_run()
        await v.start(store, run_id)
        size = next(private_valkey.directory.glob("appendonlydir/*.incr.aof")).stat().st_size
        claimed = await v.claim(store, run_id)
        engine = Engine(writer, transitions.Control(run_id=run_id, epoch=claimed.epoch, owner="me"), 1)
        await engine.write(50)
        await engine.flush()
        private_valkey.sigkill()
        file = next(private_valkey.directory.glob("appendonlydir/*.incr.aof"))
        file.write_bytes(file.read_bytes()[:size])
        await asyncio.to_thread(private_valkey.start)
        await wait_until_async(lambda: engine.losses, description="the loss to be noticed")
        with pytest.raises(errors.Fenced):
            await engine.channel.flush()
        assert await v.log_types(store, run_id) == ["1-0 run.created"]
        again = await v.claim(store, run_id)
        assert isinstance(again, transitions.Claimed)
        assert (await log_of(store, run_id))[-1].type == events.Type.STARTED


@pytest.mark.parametrize("kind", REFUSALS)
async def test_a_store_that_answers_with_errors_delays_events_and_loses_none(
    private_valkey: ValkeyProcess, kind: str, caplog: pytest.LogCaptureFixture
):
    """Engines emit on while every write is refused; afterwards each log says all of it once, with no resync."""
    async with stored(private_valkey.url()) as store, writing(private_valkey.url()) as writer:
        engines = [Engine(writer, await v.running(store), n) for n in range(3)]
        await asyncio.gather(*(engine.write(50) for engine in engines))
        with refusing(private_valkey, kind):
            writes = [asyncio.create_task(engine.write(50)) for engine in engines]
            await asyncio.wait(writes, timeout=1.5)
        await asyncio.gather(*writes)
        for engine in engines:
            await engine.finish(store)
            await verify(store, engine)
    attempts = [record for record in caplog.records if getattr(record, "action", "") in REFUSED]
    assert len(attempts) < 3 * 1.5 / (0.5 * RETRY_S) + 10, "it tried without a pause"
    assert not [record for record in caplog.records if getattr(record, "action", "") == "resync"]


REFUSED = ("write_refused", "writer_connect_failed")
