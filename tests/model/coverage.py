"""Counts which outcomes of which branches of the shipped scripts were reached, in any exploration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from model.mutants import PRELUDE, Guard, guards, watched
from model.scripts import SHIPPED, Interpreter

UNREACHED: Final[Mapping[tuple[str, str, bool], str]] = {}
"""(script, condition, outcome) → why nobody gets there."""


@dataclass(kw_only=True)
class Coverage:
    """The outcomes that were seen, by place."""

    reached: set[tuple[str, bool]] = field(default_factory=set[tuple[str, bool]])

    def interpreter(self) -> Interpreter:
        """Return one whose scripts are watched."""
        return Interpreter(watched(), seen=self._note)

    def _note(self, place: str, outcome: bool) -> None:  # noqa: FBT001 - called by Lua
        self.reached.add((place, outcome))

    def missing(self) -> list[tuple[Guard, bool]]:
        """Return the branches' outcomes that were not seen."""
        return [
            (guard, outcome)
            for guard in branches()
            for outcome in (True, False)
            if (f"{guard.script}:{guard.start}", outcome) not in self.reached
        ]

    def __str__(self) -> str:
        total = 2 * len(list(branches()))
        return f"{total - len(self.missing())} of {total} outcomes of branches in {len(SHIPPED)} scripts"


def branches() -> Iterable[Guard]:
    """All conditions of `if`, `elseif` and `while`; `while true` has but one outcome."""
    return [
        guard
        for script in (PRELUDE, *SHIPPED)
        for guard in guards(script)
        if guard.is_branch and guard.text != "true"
    ]
