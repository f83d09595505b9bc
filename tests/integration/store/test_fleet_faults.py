"""Faults of servers while runs are written and followed: every fault on every kind of store, counted.

`make fleet` has them all, many times each, and prints the table of docs/scaling.md; by default static shards
lose one server, once each way.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from mainstem_shared.eventlog.reading.tailer import Tailer
from mainstem_shared.model.events import Type
from mainstem_shared.store import keys, shard_moves, topologies
from mainstem_shared.store.client import Store
from mainstem_shared.store.primary_watch import PrimaryWatch
from mainstem_shared.store.shard_moves import Mover
from support.models import verb_calls as v
from support.models.hostile_writing import Engine, Reader, log_of, stored, through, writing
from support.processes import fleets
from support.processes.fleets import Fleet
from support.processes.servers import ValkeyProcess

ROUNDS = int(os.environ.get("MAINSTEM_FLEET_ROUNDS", "1"))
RUNS = 8
AWAY_S = 1.5
"""For how long a server without a replica is away."""
_ELAPSED = threading.Event()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A store under load: its servers, and one that it does not use yet."""

    fleet: Fleet
    spare: ValkeyProcess | None
    slots: list[int]
    """Those of the runs that are written."""
    dice: random.Random

    @property
    def url(self) -> str:
        spare = () if self.spare is None or self.fleet.is_cluster else (self.spare.url(),)
        return ",".join((self.fleet.url(), *spare))


def killed(scene: Scene) -> None:
    """The kernel ends a server; it comes back with its data, or its replica takes its place."""
    _lose(scene, ValkeyProcess.sigkill, ValkeyProcess.start)


def frozen(scene: Scene) -> None:
    """A server stands still, and goes on."""
    _lose(scene, ValkeyProcess.freeze, ValkeyProcess.thaw)


def _lose(
    scene: Scene, leave: Callable[[ValkeyProcess], None], back: Callable[[ValkeyProcess], None]
) -> None:
    fleet = scene.fleet
    if not fleet.replicas:
        victim = scene.dice.choice(fleet.primaries)
        leave(victim)
        _ELAPSED.wait(AWAY_S)
        back(victim)
        return
    victim = fleet.owner_of(scene.dice.choice(scene.slots))
    leave(victim)
    fleet.wait_for_primary(fleet.other_of(victim))
    back(victim)
    fleet.wait_for_replica(victim)


def moved(scene: Scene) -> None:
    """What runs are written to goes to another server."""
    if scene.fleet.is_cluster:
        for slot in scene.slots:
            others = [it for it in _primaries(scene.fleet) if it is not scene.fleet.owner_of(slot)]
            scene.fleet.move_slot(slot, scene.dice.choice(others))
        return
    with Mover(url=scene.url) as mover:
        target = scene.dice.choice(mover.map.places)
        mover.run(shard_moves.chosen(mover.map, {slot // 16 for slot in scene.slots}, target))


def _primaries(fleet: Fleet) -> list[ValkeyProcess]:
    found = []
    for server in fleet.servers:
        with server.client() as client:
            if client.info("replication")["role"] == "master":
                found.append(server)
    return found


def extended(scene: Scene) -> None:
    """A server is added, gets its share of what runs are written to, and is removed."""
    assert scene.spare is not None
    if not scene.fleet.is_cluster:
        for off in ([], [max(_places(scene.url))]):
            with Mover(url=scene.url) as mover:
                mover.run(shard_moves.spread(mover.map, [it for it in mover.shards if it not in off]))
        return
    with fleets.joined(scene.fleet, scene.spare):
        former = {slot: scene.fleet.owner_of(slot) for slot in scene.slots}
        for slot in scene.slots:
            scene.fleet.move_slot(slot, scene.spare)
        for slot, owner in former.items():
            fleets.move_between(slot, scene.spare, owner)


def _places(url: str) -> list[int]:
    with Mover(url=url) as mover:
        return list(mover.shards)


KINDS = ("single", "static 3", "Cluster 3+3") if ROUNDS > 1 else ("static 3",)
FAULTS = {
    "killed": killed, "frozen": frozen, **({"moved": moved, "added and removed": extended} if ROUNDS > 1 else {}),
}  # fmt: skip
CASES = [
    (kind, fault) for kind in KINDS for fault in FAULTS if kind != "single" or fault in ("killed", "frozen")
]


@pytest.fixture(scope="module", params=KINDS)
def kind(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, valkey_binary: Path
) -> Iterator[tuple[str, Fleet, ValkeyProcess]]:
    """A store of this kind, and a server beside it."""
    del valkey_binary
    directory, name = tmp_path_factory.mktemp("fleet"), request.param
    with contextlib.ExitStack() as stack:
        if name == "Cluster 3+3":
            spare = stack.enter_context(fleets.lone_node(directory / "spare"))
            made = stack.enter_context(fleets.cluster(directory, with_replicas=True))
            fleet = replace(made, guests=(spare,))
        else:
            fleet = stack.enter_context(fleets.shards(directory, count=1 if name == "single" else 3))
            spare = stack.enter_context(ValkeyProcess(directory / "spare"))
        yield name, fleet, spare


@pytest.mark.parametrize("fault", FAULTS)
async def test_no_fault_loses_or_doubles_an_event(
    kind: tuple[str, Fleet, ValkeyProcess], fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What engines said is what the log ends with; each follower had each event once, in order."""
    name, fleet, spare = kind
    if (name, fault) not in CASES:
        return  # one server has nowhere to move anything
    wrong: Counter[str] = Counter()
    for trial in range(ROUNDS):
        wrong += await _trial(fleet, spare if name == "static 3" or fleet.is_cluster else None, fault, trial)
    with capsys.disabled():
        sys.stdout.write(
            f"\n| {fault} | {name} | {ROUNDS} × {RUNS} runs | {wrong['lost']} | {wrong['doubled']} |\n"
        )
    assert not wrong


async def _trial(fleet: Fleet, spare: ValkeyProcess | None, fault: str, trial: int) -> Counter[str]:
    if not fleet.is_cluster and spare is not None:
        async with stored(fleet.url()) as first:
            with contextlib.suppress(Exception):  # it may know the spare one already
                await first.refresh()
    url = Scene(fleet=fleet, spare=spare, slots=[], dice=random.Random(trial)).url
    async with stored(url) as store, writing(url) as writer, Tailer(store) as tailer:
        store.patience_s = 30
        await store.refresh()
        engines = [Engine(writer, await v.running(store), seed) for seed in range(RUNS)]
        readers = [Reader(engine.run_id) for engine in engines]
        reading = asyncio.gather(*(reader.read(tailer) for reader in readers))
        await asyncio.gather(*(engine.flush() for engine in engines))
        slots = sorted({topologies.slot_of(keys.run(engine.run_id).log) for engine in engines})
        scene = Scene(fleet=fleet, spare=spare, slots=slots, dice=random.Random(trial))
        watches = [asyncio.create_task(PrimaryWatch(it).run()) for it in (store, writer.store)]
        trouble = asyncio.ensure_future(asyncio.to_thread(FAULTS[fault], scene))
        try:
            await through(store, engines, trouble)
            async with asyncio.timeout(60):
                await reading
        finally:
            for watch in watches:
                watch.cancel()
            await asyncio.gather(*watches, return_exceptions=True)
        return sum([await _wrong(store, *pair) for pair in zip(engines, readers, strict=True)], Counter())


async def _wrong(store: Store, engine: Engine, reader: Reader) -> Counter[str]:
    """Count what is wrong with one run: events that nobody can find, and events that came twice."""
    entries = await log_of(store, engine.run_id)
    cursors = [frame.cursor for frame in reader.frames]
    lost = int(entries[-1].payload().get("content") != engine.model.content) + len(engine.losses)
    if Type.RESYNC not in {entry.type for entry in entries}:  # after a repair the log begins anew
        lost += len({entry.cursor for entry in entries} - set(cursors))
    doubled = len(cursors) - len(set(cursors)) + int(cursors != sorted(cursors))
    return +Counter({"lost": lost, "doubled": doubled})
