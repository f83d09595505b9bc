"""Breaks each guard of the shipped scripts, one at a time, and asks the explorer whether it notices.

Each mutant is executed in every state of `states`, by everybody who may call it: it is *found* if it answers, or
leaves, anything else than `reference` says. What is not found is listed in `redundant` with the reason why the
guard may be broken without anybody noticing; a reason for a mutant that is found is stale, and refused. `make
guards` tries all mutants, and prints how many there are of each kind. With `--invariants`, mutants of the verbs that
two workers, a sweeper and users call are also explored in `world`: which of them break a sentence of `invariants`.
"""

from __future__ import annotations

import argparse
import collections
import multiprocessing
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from model import states
from model.mutants import Guard, Mutant, mutants
from model.redundant import REDUNDANT
from model.scripts import Interpreter
from model.states import Case, State

LIMIT: Final = 1_500
"""States that mutants are tried in: those of all lives first, then what one more step leads to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of a mutant."""

    mutant: Mutant
    found: str = ""
    """What gave it away; empty for one that survives."""
    redundant: str = ""
    """Why it is no fault to survive."""

    @property
    def kind(self) -> str:
        if self.found:
            return "stale" if self.redundant else "found"
        return "redundant" if self.redundant else "SURVIVES"

    def __str__(self) -> str:
        return f"{self.kind:9} {self.mutant.name}  {self.found or self.redundant}"


@cache
def pool_of(limit: int) -> list[State]:
    """Return so many states; those of the written-down lives at least."""
    along = states.along()
    return states.beyond(along, limit=limit) if limit > len(along) else along


class Cases:
    """All cases by the verb that is called."""

    def __init__(self, pool: Sequence[State]) -> None:
        self.by_script: dict[str, list[Case]] = collections.defaultdict(list)
        for case in states.cases(pool):
            self.by_script[case.call.script].append(case)

    @classmethod
    @cache
    def of(cls, limit: int) -> Cases:
        """Return those of so many states; those of the written-down lives at least."""
        return cls(pool_of(limit))

    def give_away(self, mutant: Mutant) -> str:
        """Return the first case in which a mutant does what it must not; nothing if there is none."""
        changed = mutant.sources()
        interpreter = Interpreter({name: changed[name] for name in mutant.scripts})
        for script in mutant.scripts:
            for case in self.by_script[script]:
                came = states.executed(interpreter, case.state.database, case.call)
                if came.fingerprint() != case.expected:
                    must = states.expected(case.state.database, case.call)
                    return f"{_history(case.state)}: {case.call.label}: {came.differs(must)}"
        return ""


def _history(state: State) -> str:
    return " → ".join(state.history) or "an empty store"


def reason_of(mutant: Mutant) -> str:
    """Why the mutant may survive, as `redundant` says."""
    guard = mutant.guard
    return REDUNDANT.get((guard.script, guard.key, mutant.value), "")


def judged(mutant: Mutant, *, limit: int = LIMIT) -> Verdict:
    """Try a mutant."""
    return Verdict(mutant=mutant, found=Cases.of(limit).give_away(mutant), redundant=reason_of(mutant))


def unknown_reasons() -> list[str]:
    """The lines of `redundant` that name no mutant."""
    known = {(mutant.guard.script, mutant.guard.key, mutant.value) for mutant in mutants()}
    return [" ".join(key) for key in REDUNDANT if key not in known]


def table(verdicts: Sequence[Verdict]) -> str:
    """The page of all guards."""
    by_guard: dict[Guard, dict[str, Verdict]] = collections.defaultdict(dict)
    for verdict in verdicts:
        by_guard[verdict.mutant.guard][verdict.mutant.value] = verdict
    counts = collections.Counter(verdict.kind for verdict in verdicts)
    lines = [
        HEAD.format(
            guards=len(by_guard), mutants=len(verdicts), found=counts["found"], redundant=counts["redundant"]
        )
    ]
    script = ""
    for guard, verdicts_of in by_guard.items():
        if guard.script != script:
            script = guard.script
            title = "What all verbs share (`_prelude.lua`)" if script == "_prelude" else f"`{script}`"
            lines.append(
                f"\n## {title}\n\n| guard | if it is always true | if it is never true |\n|---|---|---|"
            )
        cells = (_cell(verdicts_of.get(value)) for value in ("true", "false"))
        lines.append(f"| {guard.line}: `{_escaped(guard.text)}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(verdict: Verdict | None) -> str:
    if verdict is None:
        return "-"
    if not verdict.found:
        return f"*redundant*: {_escaped(verdict.redundant)}"
    steps, _, what = verdict.found.partition(": ")
    last = steps.split(" → ")[-1]
    call, _, difference = what.partition(": ")
    return f"after *{_escaped(last)}*, *{_escaped(call)}*: {_escaped(difference)}"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


HEAD: Final = """# Every guard of the protocol

For developers who change a script, or write their own: each condition of each script, and what goes wrong without it.

`make guards` wrote this page. It replaces each condition by `true` and by `false`, one at a time, and calls the changed
script in every state that the lives in `tests/model/lives.py` lead to, as everybody who may call it. The cell says in
which state which call gave the change away, and what it did then. Of {mutants} mutants of {guards} guards {found} are found
this way, and {redundant} are redundant, each for the reason that its cell gives.
"""


def main() -> int:
    """Try the mutants on all cores, and print a line for each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--script", help="only this file's")
    parser.add_argument("--slice", default="1/1", help="only the n-th of m parts: 2/4")
    parser.add_argument("--states", type=int, default=LIMIT, help="states that they are tried in")
    parser.add_argument("--processes", type=int, default=None)
    parser.add_argument("--table", type=Path, help="write the page of all guards")
    parser.add_argument(
        "--invariants", action="store_true", help="explore them in the world of actors as well"
    )
    given = parser.parse_args()
    part, parts = map(int, given.slice.split("/"))
    chosen = [mutant for mutant in mutants() if given.script in {None, mutant.guard.script}][
        part - 1 :: parts
    ]
    began = time.monotonic()
    cases = Cases.of(given.states)  # before the processes begin: they share it
    _say(f"{sum(map(len, cases.by_script.values())):,} cases in {time.monotonic() - began:.0f} s")
    counts: Mapping[str, int] = collections.Counter()
    verdicts: list[Verdict] = []
    with multiprocessing.get_context("fork").Pool(given.processes) as pool:
        for verdict in pool.imap(_Judge(given.states), chosen):
            verdicts.append(verdict)
            counts[verdict.kind] += 1  # type: ignore[index]
            _say(str(verdict))
        if given.invariants:
            _say_invariants(pool, chosen)
    for reason in (unknown := unknown_reasons()):
        _say(f"stale     {reason} (no such mutant)")
    _say(f"{len(chosen)} mutants: {dict(counts)}; {time.monotonic() - began:.0f} s")
    if given.table:
        given.table.write_text(table(verdicts), "utf-8")
    return int(bool(counts["SURVIVES"] or counts["stale"] or unknown))


@dataclass(frozen=True, slots=True)
class _Judge:
    limit: int

    def __call__(self, mutant: Mutant) -> Verdict:
        return judged(mutant, limit=self.limit)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _say_invariants(pool: multiprocessing.pool.Pool, chosen: Sequence[Mutant]) -> None:
    """Print which mutants of the actors' verbs break an invariant."""
    from model import violations

    concerned = [mutant for mutant in chosen if mutant.guard.script in violations.EXPLORED]
    broken = 0
    for mutant, violation in zip(concerned, pool.imap(violations.of, concerned), strict=True):
        broken += bool(violation)
        _say(f"{'breaks' if violation else 'keeps all'} {mutant.name}  {violation}")
    _say(f"{broken} of {len(concerned)} mutants of the actors' verbs break an invariant")


if __name__ == "__main__":
    sys.exit(main())
