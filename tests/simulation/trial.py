"""Runs one history: a seed decides about the fleet's load and faults; the result says what was violated."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, Final

from mainstem_shared import errors
from mainstem_shared.settings import Settings
from mainstem_shared.store import failures
from simulation import fleet, properties, seams, swarm
from simulation.broker import Broker, Publisher
from simulation.browsers import Browsers
from simulation.faults import Faults
from simulation.fleet import GatewayProcess, Member, WorkerProcess
from simulation.history import History
from simulation.network import Network
from simulation.store import Store
from simulation.timeline import SpinningError, Timeline

WORKERS: Final = 3
GATEWAYS: Final = 2
QUIET_S: Final = 1500.0
"""How long everything may take to come to its end once all is whole: messages are repeated ever less often."""
SETTLED_S: Final = 15.0
"""For how long the world goes on after that: indexes are tidied."""
LOOK_S: Final = 10.0
_cpu_clock = time.process_time


@dataclass(kw_only=True)
class World:
    """Everything of one history."""

    timeline: Timeline
    history: History
    network: Network
    store: Store
    broker: Broker
    browsers: Browsers
    settings: Settings
    plan: swarm.Plan
    workers: list[WorkerProcess] = field(default_factory=list[WorkerProcess])
    gateways: list[GatewayProcess] = field(default_factory=list[GatewayProcess])
    members: list[Member] = field(default_factory=list[Member])
    """All that ever were: nothing of a dead process may be collected before the end."""
    unforeseen: list[str] = field(default_factory=list[str])
    """Failures that the product logged as such."""
    made: int = 1

    def add_worker(self, name: str) -> WorkerProcess:
        self.made += 1
        worker = WorkerProcess(
            self.timeline,
            self.network,
            self.broker,
            f"{name}.{self.made}",
            number=self.made,
            configured=self.settings,
        )
        self.workers.append(worker)
        self.members.append(worker)
        return worker

    def add_gateway(self, name: str) -> GatewayProcess:
        self.made += 1
        gateway = GatewayProcess(
            self.timeline, self.network, f"{name}.{self.made}", number=self.made, configured=self.settings
        )
        self.gateways.append(gateway)
        self.members.append(gateway)
        self.browsers.gateways = self.gateways
        return gateway


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of a history."""

    plan: swarm.Plan
    hash: str
    violations: list[str]
    hours: float
    """Of the fleet's life."""
    cpu_s: float
    runs: int
    events: int
    commands: int
    trace: list[str] | None = None


def run(plan: swarm.Plan, *, trace: bool = False) -> Result:
    """Run a history to its end, and check it."""
    began = _cpu_clock()
    world = _world(plan, trace=trace)
    with _uncollected(), _watched(world), seams.sewn(world.timeline, world.network):
        _people(world, plan)
        try:
            world.timeline.run(plan.faulty_s)
            _live_on(world, plan)
            violations = properties.check(world)
        except SpinningError as error:
            violations = [f"1: somebody does the same over and over, {error}"]
        for key in sorted(world.store.primary.data.data):
            world.history.note("stored", key, world.store.primary.data.data[key])
    _bury(world)
    return Result(
        plan=plan,
        hash=world.history.hash,
        violations=violations,
        hours=world.timeline.now / 3600,
        cpu_s=_cpu_clock() - began,
        runs=len(world.browsers.lives),
        events=world.history.events,
        commands=world.store.commands,
        trace=world.history.trace,
    )


def _world(plan: swarm.Plan, *, trace: bool) -> World:
    """Make the world of a history, empty of processes."""
    timeline = Timeline(plan.seed)
    history = History(timeline, trace=trace)
    network = Network(timeline, history.note)
    broker = Broker(timeline, network)
    Publisher.broker = broker
    browsers = Browsers(timeline, network, number=1)
    return World(
        timeline=timeline,
        history=history,
        network=network,
        store=Store(timeline, network),
        broker=broker,
        browsers=browsers,
        settings=fleet.settings(compact_after_s=plan.compact_after_s),
        plan=plan,
        members=[browsers],
    )


def _people(world: World, plan: swarm.Plan) -> None:
    """Start the fleet, and have users and faults come when they are due."""
    for number in range(WORKERS):
        world.add_worker(f"w{number}")
    for number in range(GATEWAYS):
        world.add_gateway(f"g{number}")
    for at in plan.starts:
        world.timeline.at(at, world.browsers.start_one)
    faults = Faults(world)
    for fault in plan.faults:
        faults.schedule(fault)


def _live_on(world: World, plan: swarm.Plan) -> None:
    """Let everything come to its end."""
    timeline, until = world.timeline, world.timeline.now + QUIET_S
    timeline.run(max(timeline.now, *(fault.at + fault.seconds for fault in plan.faults), 0.0))
    while timeline.now < until and not properties.is_settled(world):
        timeline.run(timeline.now + LOOK_S)
    timeline.run(timeline.now + SETTLED_S)


# -- around it


@contextlib.contextmanager
def _uncollected() -> Generator[None]:
    """Keep the garbage collector out: what it finalises when depends on what else the interpreter did."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class _Unforeseen(logging.Handler):
    """Takes note of what the product logs with a traceback, or as critical: no answer of a server explains it."""

    def __init__(self, world: World) -> None:
        super().__init__(level=logging.ERROR)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not _is_answer(error):
            where = f"{record.name}: {record.getMessage()}: {error!r}"
            self._world.unforeseen.append(f"{self._world.timeline.now:.3f} {where}")


def _is_answer(error: BaseException) -> bool:
    return isinstance(error, (errors.MainstemError, failures.RedisError, OSError))


@contextlib.contextmanager
def _watched(world: World) -> Generator[None]:
    handler, log = _Unforeseen(world), logging.getLogger()
    log.addHandler(handler)
    quiet = logging.getLogger("asyncio")
    kept, quiet.disabled = quiet.disabled, True
    try:
        yield
    finally:
        log.removeHandler(handler)
        quiet.disabled = kept


def _bury(world: World) -> None:
    """End what still waits: none of it may be collected as if it were still at work."""
    world.timeline.current = None
    for member in world.members:
        _end_tasks(member)
        member.loop.close()


def _end_tasks(member: Member) -> None:
    for task in asyncio.all_tasks(member.loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # they end with their process


def of_seed(seed: int, *, trace: bool = False) -> Result:
    """Run the history of a seed."""
    return run(swarm.plan(seed), trace=trace)


def describe(result: Result) -> list[str]:
    """Return a failing history as lines."""
    lines: list[Any] = [
        f"seed {result.plan.seed}: {result.hash}",
        *map(str, result.plan.faults),
        *result.violations,
    ]
    return [str(line) for line in lines]
