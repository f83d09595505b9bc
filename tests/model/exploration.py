"""Explores all states of a scenario, breadth first: the first violation found has a shortest history."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

from model import invariants
from model.world import Budget, Machine, Violation, World


@dataclass(kw_only=True)
class Report:
    """What an exploration came to. `history`: the steps to the violation, if there is one."""

    states: int = 0
    steps: int = 0
    calls: int = 0
    depth: int = 0
    seconds: float = 0.0
    complete: bool = False
    violation: str = ""
    history: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        end = self.violation or ("complete" if self.complete else "bounded")
        return (
            f"{self.states:,} states, {self.steps:,} steps, {self.calls:,} calls, depth {self.depth}, "
            f"{self.seconds:.1f} s: {end}"
        )


def explore(machine: Machine, budget: Budget, *, limit: int, workers: str = "AB") -> Report:
    """Visit every state that can be reached, or the first `limit` of them."""
    report, began = Report(), time.monotonic()
    first = machine.begin(budget, workers=workers)
    came: dict[int, tuple[int, str]] = {first.fingerprint(): (0, "the run is started")}
    queue: deque[tuple[World, int, int]] = deque([(first, first.fingerprint(), 0)])
    while queue and report.states < limit:
        world, name, depth = queue.popleft()
        report.states += 1
        report.depth = depth
        try:
            invariants.check(world)
            for move in machine.moves(world):
                report.steps += 1
                invariants.check_step(world.database, move.world.database, move.label)
                following = move.world.fingerprint()
                if following not in came:
                    came[following] = (name, move.label)
                    queue.append((move.world, following, depth + 1))
        except Violation as violation:
            report.violation = str(violation)
            report.history = _history(came, name)
            break
    report.complete = not queue and not report.violation
    report.calls, report.seconds = machine.calls, time.monotonic() - began
    return report


def _history(came: dict[int, tuple[int, str]], name: int) -> list[str]:
    steps: list[str] = []
    while name:
        name, label = came[name]
        steps.append(label)
    return steps[::-1]
