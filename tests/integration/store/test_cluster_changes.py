"""A Cluster that changes under load: slots move, a primary is killed; logs and readers stay exact.

`make fleet` makes many rounds; by default one of each.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator

import pytest

from mainstem_shared.eventlog.reading.tailer import Tailer
from mainstem_shared.model.cursors import START
from mainstem_shared.model.events import Type
from mainstem_shared.store import keys, topologies
from mainstem_shared.store.client import Store
from mainstem_shared.store.primary_watch import PrimaryWatch
from support.models import verb_calls as v
from support.models.hostile_writing import Engine, Reader, log_of, stored, through, writing
from support.processes import fleets
from support.processes.fleets import Fleet
from support.processes.servers import ValkeyProcess

ROUNDS = int(os.environ.get("MAINSTEM_FLEET_ROUNDS", "1"))
RUNS = 12
FAULTS = list(enumerate(["kill", "freeze"] * ROUNDS if ROUNDS > 1 else ["kill"]))


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Three primaries, each with a replica."""
    with fleets.cluster(tmp_path_factory.mktemp("cluster"), with_replicas=True) as made:
        yield made


async def test_slots_move_under_load(fleet: Fleet) -> None:
    """No event is lost, doubled or read twice while the slots of runs that write go to other nodes and back."""
    async with stored(fleet.url()) as store, writing(fleet.url()) as writer, Tailer(store) as tailer:
        await store.refresh()
        engines = [Engine(writer, await v.running(store), seed) for seed in range(RUNS)]
        readers = [Reader(engine.run_id) for engine in engines]
        reading = asyncio.gather(*(reader.read(tailer) for reader in readers))
        slots = sorted({topologies.slot_of(keys.run(engine.run_id).log) for engine in engines})
        trouble = asyncio.ensure_future(asyncio.to_thread(_move_about, fleet, slots, ROUNDS))
        carried = await through(store, engines, trouble)
        async with asyncio.timeout(30):
            await reading
        for engine, reader in zip(engines, readers, strict=True):
            entries = await log_of(store, engine.run_id)
            reader.check(list(entries))
            assert Type.RESYNC not in {entry.type for entry in entries}
            assert engine.losses == []
        # Where a run is in the end is chance after many moves; that writers went along is not.
        assert sum(len(servers) > 1 for servers in carried) >= RUNS // 2


def _move_about(fleet: Fleet, slots: list[int], rounds: int) -> None:
    dice = random.Random(1)
    for _ in range(rounds):
        for slot in slots:
            fleet.move_slot(
                slot, dice.choice([it for it in fleet.primaries if it is not fleet.owner_of(slot)])
            )


@pytest.mark.parametrize(("number", "fault"), FAULTS)
async def test_a_lost_primary_is_followed_by_its_replica(fleet: Fleet, number: int, fault: str) -> None:
    """What was acknowledged and did not reach the replica is written again, visibly; nothing else is lost."""
    async with stored(fleet.url()) as store, writing(fleet.url()) as writer, Tailer(store) as tailer:
        store.patience_s = 30
        await store.refresh()
        engines = [Engine(writer, await v.running(store), seed) for seed in range(RUNS)]
        readers = [Reader(engine.run_id) for engine in engines]
        reading = asyncio.gather(*(reader.read(tailer) for reader in readers))
        await asyncio.gather(*(engine.flush() for engine in engines))
        victim = fleet.owner_of(topologies.slot_of(keys.run(engines[0].run_id).log))
        heir = fleet.other_of(victim)
        watches = [asyncio.create_task(PrimaryWatch(it).run()) for it in (store, writer.store)]
        victim.freeze() if fault == "freeze" else victim.sigkill()
        trouble = asyncio.ensure_future(asyncio.to_thread(fleet.wait_for_primary, heir))
        try:
            await through(store, engines, trouble)
            async with asyncio.timeout(30):
                await reading
        finally:
            victim.thaw() if fault == "freeze" else victim.start()
            for watch in watches:
                watch.cancel()
            await asyncio.gather(*watches, return_exceptions=True)
        await asyncio.to_thread(fleet.wait_for_replica, victim)
        for engine, reader in zip(engines, readers, strict=True):
            await verify_end(store, engine)
            cursors = [frame.cursor for frame in reader.frames]
            assert cursors == sorted(set(cursors))
            assert reader.frames[-1].type == Type.FINISHED


async def test_a_primary_that_is_demoted_is_left_by_its_writers(fleet: Fleet) -> None:
    """A planned fail-over: who was written to is a replica in a moment, and says so; nothing is written twice."""
    async with stored(fleet.url()) as store, writing(fleet.url()) as writer, Tailer(store) as tailer:
        store.patience_s = 30
        await store.refresh()
        engines = [Engine(writer, await v.running(store), seed) for seed in range(RUNS)]
        readers = [Reader(engine.run_id) for engine in engines]
        reading = asyncio.gather(*(reader.read(tailer) for reader in readers))
        await asyncio.gather(*(engine.flush() for engine in engines))
        former = fleet.owner_of(topologies.slot_of(keys.run(engines[0].run_id).log))
        before = _refusals(former)
        carried = await through(
            store, engines, asyncio.ensure_future(asyncio.to_thread(fleet.fail_over, former))
        )
        async with asyncio.timeout(30):
            await reading
        assert _refusals(former) > before
        assert any(len(servers) > 1 for servers in carried)
        for engine, reader in zip(engines, readers, strict=True):
            entries = await log_of(store, engine.run_id)
            reader.check(list(entries))
            assert Type.RESYNC not in {entry.type for entry in entries}
            assert engine.losses == []


def _refusals(server: ValkeyProcess) -> int:
    """How often a server said that it has no slots (any more): as a replica it says MOVED, or READONLY in a script."""
    with server.client() as client:
        told = client.info("errorstats")
    return sum(
        int(told[f"errorstat_{code}"]["count"])
        for code in ("MOVED", "READONLY")
        if f"errorstat_{code}" in told
    )


async def verify_end(store: Store, engine: Engine) -> None:
    """The log ends with exactly what the engine said."""
    entries = await log_of(store, engine.run_id)
    assert entries[0].cursor > START
    assert engine.losses == []
    assert entries[-1].type == Type.FINISHED
    payload = entries[-1].payload()
    assert payload["content"] == engine.model.content
