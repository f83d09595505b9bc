"""Ends runs that are this process's by their record, but that no segment here executes.

A claim whose caller gave up waiting can still land, when a store that stood still goes on; somebody who ended
a run may have given up between sealing and finishing it. Nobody else settles such a run: its owner is alive.
"""

from __future__ import annotations

import logging
from typing import Final

from mainstem_shared import errors, transitions
from mainstem_shared.model.runs import Status
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations import recovery
from mainstem_shared.operations.sweeping import UNREADABLE
from mainstem_tasks.execution.runtime import Runtime

logger = logging.getLogger(__name__)

NEVER_EXECUTED: Final = "The run was claimed, but never executed."


async def end_all(runtime: Runtime) -> None:
    """End this process's orphaned runs, and forget those that are over.

    Raises:
        StoreUnavailable: try again later.
    """
    owner = runtime.lease.owner
    for run_id in await runtime.operations.indexes.owned_by(owner):
        if not _is_held(runtime, run_id):
            try:
                await _end_if_orphaned(runtime, owner, run_id)
            except (errors.NewerVersion, *UNREADABLE):  # one record must not keep the others waiting
                noted = {"action": "run_unreadable", "run_id": run_id}
                logger.exception("a record is damaged, or of a later version", extra=noted)


async def _end_if_orphaned(runtime: Runtime, owner: str, run_id: str) -> None:
    state = await transitions.read(runtime.store, run_id)
    if _is_held(runtime, run_id):
        return  # claimed while we looked
    if isinstance(state, transitions.Gone) or state.status.is_terminal:
        await runtime.operations.indexes.disown(owner, run_id)
    elif runtime.operations.recent_changes.is_repairing(run_id):
        return  # it is over, but the store has forgotten
    elif state.status is Status.RUNNING and state.owner == owner and not _is_being_ended(runtime, state):
        await _end(runtime, run_id, state)


def _is_held(runtime: Runtime, run_id: str) -> bool:
    return run_id in runtime.segments or run_id in runtime.claiming


def _is_being_ended(runtime: Runtime, state: transitions.State) -> bool:
    """Whether somebody here sealed it so recently that they may still be at it."""
    sealed_ms = state.record.sealed_ms or 0
    return now_ms() - sealed_ms < 2 * runtime.settings.lease_s * 1000


async def _end(runtime: Runtime, run_id: str, state: transitions.State) -> None:
    logger.error("a run was orphaned here", extra={"action": "run_orphaned", "run_id": run_id})
    await recovery.recover(
        runtime.operations, run_id, state, sealer=runtime.lease.owner, message=NEVER_EXECUTED
    )
