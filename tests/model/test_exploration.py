"""Every state that a run, two workers, a sweeper and its users can reach keeps the invariants: no sample, all of them.

`make prove` explores more: MAINSTEM_PROVE=1 lifts the budgets.
"""

from __future__ import annotations

import os

import pytest

from mainstem_shared import transitions
from mainstem_shared.transitions import inputs, lifecycle, log, pauses, threads
from model.exploration import Report, explore
from model.scripts import SHIPPED, Interpreter
from model.world import Budget, Machine

ALL_OF_IT = bool(os.environ.get("MAINSTEM_PROVE"))
NEVER = {"lost_replies": 0, "crashes": 0, "seals": 0, "stops": 0, "pauses": 0, "handovers": 0, "decisions": 0}
SCENARIOS = {
    "replies are lost": Budget(crashes=0, decisions=1, handovers=0),
    "workers crash": Budget(lost_replies=0, emits=2),
    "an owner is suspended": Budget(**{**NEVER, "seals": 2}, claims=3, emits=3),
    "engines remember": Budget(
        **{**NEVER, "seals": 1, "crashes": 1, "pauses": 1, "decisions": 1, "lost_replies": 1},
        claims=2,
        emits=1,
        checkpoints=1,
        finishes=1,
    ),
    "the store loses its last writes": Budget(
        **{**NEVER, "seals": 1}, claims=3, emits=2, finishes=1, failovers=1
    ),
}
LARGE = {
    "everything at once": Budget(claims=3, emits=2, lost_replies=2),
    "a long life": Budget(claims=4, pauses=2, handovers=2, decisions=4, crashes=0),
}


@pytest.fixture(autouse=True)
def _time_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (pauses, inputs, lifecycle, log, threads):
        if hasattr(module, "now_ms"):
            monkeypatch.setattr(module, "now_ms", lambda: 1_000)


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


def test_every_script_is_there():
    """What is explored is what is shipped."""
    assert set(SHIPPED) >= {
        "start",
        "claim",
        "finish",
        "seal",
        "pause",
        "resolve",
        "handover",
        "resync",
        "stop",
    }
    assert SHIPPED["claim"] == transitions.CLAIM.source
