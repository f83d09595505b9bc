"""Faults of servers while runs are written and followed: every fault on every kind of store, counted.

`make fleet` has them all, many times each, and prints the table of docs/scaling.md; by default static shards
lose one server, once.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from mainstem_shared import errors
from mainstem_shared.store import shard_moves
from mainstem_shared.store.shard_moves import Mover
from support.models import fleet_trials
from support.models.hostile_writing import stored
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


def failed_over(scene: Scene) -> None:
    """An operator has a replica take its primary's place: nothing is lost, and nothing is written anew."""
    scene.fleet.fail_over(scene.fleet.owner_of(scene.dice.choice(scene.slots)))


FAULTS = {
    "killed": killed,
    "frozen": frozen,
    "moved": moved,
    "added and removed": extended,
    "failed over": failed_over,
}
SINGLE, STATIC, CLUSTER = "one server", "static 3", "Cluster 3+3"
OF_KIND = {
    SINGLE: ["killed", "frozen"],
    STATIC: ["killed", "frozen", "moved", "added and removed"],
    CLUSTER: list(FAULTS),
}
CASES = [(kind, fault) for kind in OF_KIND for fault in OF_KIND[kind]] if ROUNDS > 1 else [(STATIC, "killed")]


@pytest.fixture(scope="module")
def kind(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, valkey_binary: Path
) -> Iterator[tuple[str, Fleet, ValkeyProcess]]:
    """A store of this kind, and a server beside it."""
    del valkey_binary
    directory, name = tmp_path_factory.mktemp("fleet"), request.param
    with contextlib.ExitStack() as stack:
        if name == CLUSTER:
            spare = stack.enter_context(fleets.lone_node(directory / "spare"))
            made = stack.enter_context(fleets.cluster(directory, with_replicas=True))
            fleet = replace(made, guests=(spare,))
        else:
            fleet = stack.enter_context(fleets.shards(directory, count=1 if name == SINGLE else 3))
            spare = stack.enter_context(ValkeyProcess(directory / "spare"))
        yield name, fleet, spare


@pytest.mark.parametrize(("kind", "fault"), CASES, indirect=["kind"], scope="module")
async def test_no_fault_loses_or_doubles_an_event(
    kind: tuple[str, Fleet, ValkeyProcess], fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What engines said is what the log ends with; each follower had each event once, in order."""
    name, fleet, spare = kind
    wrong: Counter[str] = Counter()
    for trial in range(ROUNDS):
        wrong += await _trial(fleet, spare if name != SINGLE else None, fault, trial)
    fleet_trials.note(fault, name, f"{ROUNDS} × {RUNS} runs", wrong, capsys)
    assert not wrong


async def _trial(fleet: Fleet, spare: ValkeyProcess | None, fault: str, trial: int) -> Counter[str]:
    if not fleet.is_cluster and spare is not None:
        async with stored(fleet.url()) as first:
            with contextlib.suppress(errors.Misconfigured):  # the spare one is a shard since a former trial
                await first.refresh()
    scene = Scene(fleet=fleet, spare=spare, slots=[], dice=random.Random(trial))
    return await fleet_trials.trial(
        scene.url, lambda slots: FAULTS[fault](replace(scene, slots=slots)), runs=RUNS
    )
