"""Reads the runs that a run started, and those that they started, as a tree.

For a run's page and for `mainstem show`. An archived run's are known as long as the store lists them.
"""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, Field

from mainstem_shared.model.runs import Reason, Status, Timestamp
from mainstem_shared.operations.queries import summaries
from mainstem_shared.operations.queries.summaries import RunSummary
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store

DEEPEST: Final = 5
MOST: Final = 200
"""Runs that one tree shows: a page is to be read, and a run may start thousands."""


class ChildRun(BaseModel):
    """A run that another one started, without its content."""

    run_id: str
    engine: str
    status: Status
    reason: Reason | None = None
    created_at: Timestamp
    finished_at: Timestamp | None = None
    children: list[ChildRun] = Field(default_factory=list["ChildRun"])


async def below(store: Store, run_id: str) -> list[ChildRun]:
    """Return the runs that a run started, by creation, each with its own; `MOST` in all, `DEEPEST` levels."""
    root: list[ChildRun] = []
    level, left = {run_id: root}, MOST
    for _ in range(DEEPEST):
        asked = [("SMEMBERS", keys.run_children(parent)) for parent in level]
        listed = await store.commands(*asked, large=True) if asked else []
        of_parent = {
            name.decode(): into for into, names in zip(level.values(), listed, strict=True) for name in names
        }
        wanted = sorted(of_parent)[:left]
        found = sorted(await summaries.of(store, wanted), key=lambda one: one.created_at)
        level, left = {}, left - len(wanted)
        for one in found:
            child = _child(one)
            of_parent[one.run_id].append(child)
            level[one.run_id] = child.children
        if not level:
            break
    return root


def _child(one: RunSummary) -> ChildRun:
    return ChildRun(
        run_id=one.run_id, engine=one.engine, status=one.status, reason=one.reason,
        created_at=one.created_at, finished_at=one.finished_at,
    )  # fmt: skip
