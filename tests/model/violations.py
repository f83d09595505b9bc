"""Explores a mutant in the world of two workers, a sweeper and users: which sentence of `invariants` breaks?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from model import clock
from model.exploration import explore
from model.mutants import Mutant
from model.scripts import Interpreter
from model.world import Budget, Machine

EXPLORED: Final = frozenset(
    {
        "start",
        "claim",
        "seal",
        "finish",
        "pause",
        "resolve",
        "handover",
        "resync",
        "stop",
        "checkpoint",
        "_prelude",
    }
)
"""Files whose verbs the world's actors call."""
NEVER: Final = {
    "lost_replies": 0, "crashes": 0, "seals": 0, "stops": 0, "pauses": 0, "handovers": 0, "decisions": 0,
}  # fmt: skip
SCENARIOS: Final[Mapping[str, Budget]] = {
    "an owner is suspended": Budget(**{**NEVER, "seals": 2}, claims=3, emits=3),
    "replies are lost": Budget(crashes=0, decisions=1, handovers=0),
    "workers crash": Budget(lost_replies=0, emits=2),
    "engines remember": Budget(
        **{**NEVER, "seals": 1, "crashes": 1, "pauses": 1, "decisions": 1, "lost_replies": 1},
        claims=2, emits=1, checkpoints=1, finishes=1,
    ),
    "the store loses its last writes": Budget(
        **{**NEVER, "seals": 1}, claims=3, emits=2, finishes=1, failovers=1
    ),
}  # fmt: skip
"""Explorations that end, the quickest first."""
STILL_MS: Final = 1_000
"""When all of it happens: time stands still."""


def of(mutant: Mutant, *, limit: int = 6_000) -> str:
    """Return the sentence that a mutant breaks, and in how many steps; nothing if all hold."""
    clock.stand_at(STILL_MS)
    for name, budget in SCENARIOS.items():
        try:
            report = explore(Machine(Interpreter(mutant.sources())), budget, limit=limit)
        except Exception as error:  # whatever a broken script makes of its callers
            return f"{name}: {type(error).__name__}: {str(error)[:80]}"
        if report.violation:
            return f"{name}: {report.violation[:100]} ({len(report.history)} steps)"
    return ""
