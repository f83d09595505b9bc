"""Every state that a run, two workers, a sweeper and its users can reach keeps the invariants: no sample, all of them.

`make prove` explores more: MAINSTEM_PROVE=1 lifts the budgets.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from model import clock
from model.exploration import Report, explore
from model.scripts import SHIPPED, Interpreter
from model.violations import SCENARIOS, STILL_MS
from model.world import Budget, Machine

ALL_OF_IT = bool(os.environ.get("MAINSTEM_PROVE"))
LARGE = {
    "everything at once": Budget(claims=3, emits=2, lost_replies=2),
    "a long life": Budget(claims=4, pauses=2, handovers=2, decisions=4, crashes=0),
}


@pytest.fixture(autouse=True)
def _time_stands_still() -> Iterator[None]:
    clock.stand_at(STILL_MS)
    yield
    clock.go_on()


def explored(budget: Budget, *, limit: int = 10**7) -> Report:
    return explore(Machine(), budget, limit=limit)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", [*SCENARIOS, *(LARGE if ALL_OF_IT else ())])
def test_no_state_breaks_an_invariant(name: str, capsys: pytest.CaptureFixture[str]):
    """All states of the scenario are visited, and none breaks a sentence of `invariants`."""
    report = explored({**SCENARIOS, **LARGE}[name])
    with capsys.disabled():
        print(f"\n{name}: {report}")  # noqa: T201 - states and depth are what the run is for
    assert not report.violation, "\n".join([report.violation, *report.history])
    assert report.complete


MUTANTS = {
    "a claim ignores the status": ("claim", "if status ~= 'queued' or waiting ~= 'worker' then", "if false then"),
    "an end keeps the thread": (
        "finish", "if redis.call('HGET', thread, 'active') == run_id then", "if false then"
    ),
    "a claim forgets who asked": ("claim", "if r[4] == nonce then", "if false then"),
    "a pause commits no memory": ("pause", "remember(memory, thread, ARGV, 19, record)", ""),
    "an end commits no memory": ("finish", "remember(memory, thread, ARGV, 17, record)", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_the_exploration_finds_a_broken_guard(name: str):
    """A guard taken out of a shipped script shows as a violation: the invariants are not vacuous."""
    script, old, new = MUTANTS[name]
    assert old in SHIPPED[script]
    sources = {**SHIPPED, script: SHIPPED[script].replace(old, new, 1)}
    report = explore(
        Machine(Interpreter(sources)),
        Budget(handovers=0, pauses=int("pause" in name), stops=0, seals=2),
        limit=9_000,
    )
    assert report.violation, f"{name}: {report}"
