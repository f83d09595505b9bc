"""All mutations by row, the rows that have none, and the few that every build tries."""

from __future__ import annotations

from typing import Final

from mutations import (
    aborts,
    approvals,
    callbacks,
    durable_engines,
    lives_and_streams,
    readers,
    usage_and_sweeps,
)
from mutations.mutation import Mutation

ALL: Final[tuple[Mutation, ...]] = (
    *lives_and_streams.MUTATIONS,
    *readers.MUTATIONS,
    *aborts.MUTATIONS,
    *approvals.MUTATIONS,
    *usage_and_sweeps.MUTATIONS,
    *callbacks.MUTATIONS,
    *durable_engines.MUTATIONS,
)

NOT_MUTABLE: Final[dict[int, str]] = {
    27: "open: there is no hook of a host's that runs at an end",
    29: "not applicable: every run is kept for the same retention; nothing treats scheduled ones differently",
    63: "impossible: there is no counter beside the log that could not be read",
    72: "not applicable: there are no sign-in prompts",
    77: "not applicable: readers have no state that a process could know",
    90: "not applicable: content has no sign-in prompts",
    171: "not applicable: nothing cancels input that was accepted",
    175: "not applicable: no turn takes over another one's input",
    181: "not applicable: nothing is armed",
    194: "not applicable: a run's content is its own, nothing is merged with it",
    202: "open: runs are not counted by result, streams not by kind",
}
"""Rows whose promise no code keeps: their text in the contract says the same."""

SAMPLE: Final = (24, 32, 35, 44, 73, 118, 121, 177, 206, 211)
"""What every build tries: one promise of each chapter whose tests take a second or two."""


def by_row() -> dict[int, Mutation]:
    """Return each row's mutation, in the order of the rows.

    Raises:
        ValueError: a row has two.
    """
    found: dict[int, Mutation] = {}
    for mutation in ALL:
        for row in mutation.rows:
            if found.setdefault(row, mutation) is not mutation:
                raise ValueError(f"row {row} has two mutations")
    return dict(sorted(found.items()))
