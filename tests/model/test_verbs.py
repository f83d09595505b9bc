"""Every shipped verb does what the protocol says, in every state of the written-down lives, whoever calls it.

`make guards` also breaks each guard, and tries more states; MAINSTEM_PROVE=1 explores more of them here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from model import clock, guards, liveness, states
from model.coverage import UNREACHED, Coverage
from model.mutants import PRELUDE, mutants
from model.redundant import REDUNDANT
from model.reference_beside import VERBS
from model.scripts import SHIPPED
from model.states import State

LIMIT = guards.LIMIT if os.environ.get("MAINSTEM_PROVE") else 0


@pytest.fixture(autouse=True, scope="module")
def _clock() -> Iterator[None]:
    """Callers set this process's clock; afterwards it is the store's again."""
    yield
    clock.go_on()


@pytest.fixture(scope="module")
def pool() -> list[State]:
    """The states of all lives."""
    return guards.pool_of(LIMIT)


@pytest.fixture(scope="module")
def coverage(pool: list[State]) -> Coverage:
    """What all calls in all states reach; each must do what the reference does."""
    seen = Coverage()
    interpreter = seen.interpreter()
    for case in states.cases(pool):
        came = states.executed(interpreter, case.state.database, case.call)
        if came.fingerprint() != case.expected:
            difference = came.differs(states.expected(case.state.database, case.call))
            pytest.fail(f"after {' → '.join(case.state.history)}: {case.call.label}: {difference}")
    return seen


def test_every_call_in_every_state_does_what_the_reference_says(coverage: Coverage):
    """Answers, what is written and how long it lives: all of it, and nothing else."""
    assert coverage.reached


def test_every_branch_of_every_script_is_reached(coverage: Coverage, capsys: pytest.CaptureFixture[str]):
    """Each condition was true once and false once, but where a line says why that cannot be."""
    with capsys.disabled():
        print(f"\nverbs: {coverage}")  # noqa: T201 - what the run is for
    missing = {(guard.script, guard.text, outcome) for guard, outcome in coverage.missing()}
    assert missing == set(UNREACHED)


def test_every_script_is_modelled_and_called(pool: list[State]):
    """A script without a reference, or that nobody calls, is not proved: add it to `reference` and to `callers`."""
    assert set(VERBS) == set(SHIPPED)
    assert {call.script for call in pool[0].calls} == set(SHIPPED)


def test_no_run_is_left_alone(pool: list[State]):
    """In every state somebody will look at each unfinished run, and threads, queues, deliveries, accounts add up."""
    for state in pool:
        try:
            liveness.check(state.database, lost=lost_in(state))
        except liveness.Violation as violation:
            pytest.fail(f"after {' → '.join(state.history)}: {violation}")


def lost_in(state: State) -> frozenset[str]:
    """What the store lost on the way to a state; what version 1 kept was left without its thread's indexes."""
    lost = {step.split()[1] for step in state.history if step.startswith("lose ")}
    return frozenset(lost | ({"thread"} if "be of version 1" in state.history else set()))


def test_sweeps_alone_end_every_run(pool: list[State], capsys: pytest.CaptureFixture[str]):
    """Bounded progress: if all workers are dead from here on, real sweeps end each run within so many looks."""
    fate, most, runs = liveness.Fate(), 0, 0
    for state in pool:
        if "be of version 1" in state.history:
            continue  # its threads are moved before they are looked at
        try:
            looks = fate.looks(state.database)
        except liveness.Violation as violation:
            pytest.fail(f"after {' → '.join(state.history)}: {violation}")
        most, runs = max(most, looks), runs + bool(looks)
    found = f"{len(pool)} states, {runs} with an unfinished run: all are over after at most {most} looks"
    with capsys.disabled():
        print(f"\nsweeps: {found}")  # noqa: T201 - what the run is for
    assert most <= liveness.LOOKS


SAMPLE = [mutant for mutant in mutants() if mutant.guard.script != PRELUDE][7::47]


@pytest.mark.parametrize("number", range(len(SAMPLE)))
def test_a_broken_guard_is_found(number: int):
    """A sample of `make guards`, in the states of the lives: the reference and the lives are not vacuous."""
    verdict = guards.judged(SAMPLE[number], limit=0)
    assert verdict.kind in {"found", "redundant"}, verdict


def test_every_reason_names_a_mutant():
    """A guard that is there no more needs no reason."""
    assert not guards.unknown_reasons()
    assert all(len(reason) > 20 for reason in REDUNDANT.values())
