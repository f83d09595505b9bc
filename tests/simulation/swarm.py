"""Swarms of faults: a seed chooses which kinds are on, when each happens, to whom, for how long.

A plan is data, so that a failing one can be made smaller: a fault taken out leaves the others as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Final

KINDS: Final = {
    "partition": 0.35,
    "isolation": 0.25,
    "delay": 0.3,
    "lost requests": 0.3,
    "lost replies": 0.4,
    "clock": 0.25,
    "pause": 0.4,
    "kill": 0.45,
    "shutdown": 0.3,
    "fail-over": 0.4,
    "demotion": 0.3,
    "restart": 0.2,
    "slow store": 0.25,
    "broker loses": 0.3,
    "broker doubles": 0.3,
    "broker away": 0.25,
}
"""Each kind of fault, and in which share of the histories it is on."""
FAULTY_S: Final = 120.0
"""For how long faults happen; then everything is whole, and what was begun must come to its end."""
EVERY_S: Final = 7.0
"""Mean pause between two starts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault: what happens at a time to whom (the n-th worker or gateway), for how long, how much."""

    kind: str
    at: float
    who: int
    seconds: float
    amount: float

    def __str__(self) -> str:
        return f"{self.at:7.2f} s  {self.kind}, process {self.who}, {self.seconds:.2f} s, {self.amount:.3f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a seed decides before a history begins."""

    seed: int
    faults: tuple[Fault, ...]
    starts: tuple[float, ...]
    compact_after_s: float
    faulty_s: float = FAULTY_S


def plan(seed: int) -> Plan:
    """Draw a plan."""
    draw = Random(f"{seed}/plan")
    on = [kind for kind, share in KINDS.items() if draw.random() < share]
    faults = [_fault(draw, kind) for kind in on for _ in range(draw.randint(1, 3))]
    starts: list[float] = []
    now = draw.uniform(1.0, 5.0)
    while now < FAULTY_S:
        starts.append(now)
        now += draw.expovariate(1 / EVERY_S)
    return Plan(
        seed=seed,
        faults=tuple(sorted(faults, key=lambda fault: fault.at)),
        starts=tuple(starts),
        compact_after_s=draw.choice([5.0, 3600.0]),
    )


def _fault(draw: Random, kind: str) -> Fault:
    longest = {
        "pause": 40.0, "fail-over": 6.0, "demotion": 3.0, "restart": 6.0, "kill": 25.0, "shutdown": 25.0,
        "isolation": 40.0,
    }.get(kind, 25.0)  # fmt: skip
    return Fault(
        kind=kind,
        at=draw.uniform(3.0, FAULTY_S),
        who=draw.randrange(5),
        seconds=draw.uniform(0.1, longest),
        amount=draw.random(),
    )


def steady(seed: int, *, hours: float) -> Plan:
    """Return a plan of light load without faults: what a fleet does most of the time."""
    draw = Random(f"{seed}/steady")
    starts: list[float] = []
    now = 2.0
    while now < hours * 3600:
        starts.append(now)
        now += draw.expovariate(1 / 60.0)
    return Plan(seed=seed, faults=(), starts=tuple(starts), compact_after_s=60.0, faulty_s=hours * 3600)


def shortened(plan: Plan, seconds: float) -> Plan:
    """Return a plan's beginning, its faults closer together."""
    scale = seconds / plan.faulty_s
    return replace(
        plan,
        faults=tuple(replace(one, at=one.at * scale, seconds=one.seconds * 0.3) for one in plan.faults),
        starts=tuple(at * scale for at in plan.starts)[: int(seconds / 4)],
        faulty_s=seconds,
    )
