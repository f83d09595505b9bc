"""Takes each guard out of the shipped scripts, one at a time, and asks the explorer whether it notices.

A guard is the condition of an `if` in a verb. Two mutants are made of each: one that never enters the branch, one
that always does. A mutant is *found* if an exploration breaks an invariant, or a script fails, that holds with the
scripts as they are. `make guards` tries all of them and prints which survive: what the world does not do yet (a
second run of the thread, an action that expires), or a guard that another one makes redundant.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from model.exploration import explore
from model.scripts import SHIPPED, Interpreter
from model.world import Budget, Machine

EXPLORED: Final = ("start", "claim", "seal", "finish", "pause", "resolve", "handover", "resync", "stop")
"""Verbs that the world's actors call."""
NEVER: Final = {
    "lost_replies": 0,
    "crashes": 0,
    "seals": 0,
    "stops": 0,
    "pauses": 0,
    "handovers": 0,
    "decisions": 0,
}
SCENARIOS: Final[Mapping[str, Budget]] = {
    "an owner is suspended": Budget(**{**NEVER, "seals": 2}, claims=3, emits=3),
    "replies are lost": Budget(crashes=0, decisions=1, handovers=0),
    "workers crash": Budget(lost_replies=0, emits=2),
    "the store loses its last writes": Budget(
        **{**NEVER, "seals": 1}, claims=3, emits=2, finishes=1, failovers=1
    ),
}
"""The explorations that a mutant has to survive, the quickest first."""
_IF: Final = re.compile(r"\bif (?P<condition>[^\n]+?) then\b")


@dataclass(frozen=True, slots=True)
class Mutant:
    """One guard of one script, with its condition replaced by a constant."""

    script: str
    number: int
    condition: str
    value: str

    @property
    def name(self) -> str:
        return f"{self.script} #{self.number}: `{self.condition}` is {self.value}"

    def sources(self) -> dict[str, str]:
        """All scripts, this one changed."""
        found = list(_guards(SHIPPED[self.script]))[self.number]
        source = SHIPPED[self.script]
        changed = source[: found.start("condition")] + self.value + source[found.end("condition") :]
        return {**SHIPPED, self.script: changed}


def _guards(source: str) -> Iterator[re.Match[str]]:
    """The conditions behind a script's header; those of the prelude are its functions', counted once per script."""
    begin = source.rindex("--]]")
    yield from (match for match in _IF.finditer(source) if match.start() > begin)


def mutants() -> list[Mutant]:
    """Two for each guard of the explored scripts."""
    return [
        Mutant(script, number, match["condition"], value)
        for script in EXPLORED
        for number, match in enumerate(_guards(SHIPPED[script]))
        for value in ("false", "true")
    ]


def trial(mutant: Mutant, *, limit: int = 30_000) -> str:
    """Return what found the mutant, or nothing."""
    for name, budget in SCENARIOS.items():
        try:
            report = explore(Machine(Interpreter(mutant.sources())), budget, limit=limit)
        except Exception as error:  # whatever a broken script makes of its callers
            return f"{name}: {type(error).__name__}: {str(error)[:80]}"
        if report.violation:
            return f"{name}: {report.violation[:100]} ({len(report.history)} steps)"
    return ""


def main() -> int:
    """Try the mutants on all cores, and print a line for each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--script", help="only this verb's")
    given = parser.parse_args()
    chosen = [mutant for mutant in mutants() if given.script in {None, mutant.script}]
    with multiprocessing.Pool() as pool:
        survivors = 0
        for mutant, found in zip(chosen, pool.imap(trial, chosen), strict=True):
            survivors += not found
            sys.stdout.write(f"{'found   ' if found else 'SURVIVES'} {mutant.name}  {found}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{len(chosen) - survivors} of {len(chosen)} mutants found\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
