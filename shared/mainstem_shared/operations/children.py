"""Starts child runs for a run, and hands their outcomes to the waiting parent.

A child is listed first, then started under an id that follows from its parent and its key: begun again, the
start is answered the same. An abort of the parent goes down to its children (`aborting`).
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from mainstem_shared import errors, transitions
from mainstem_shared.eventlog.reading import run_states
from mainstem_shared.model import digests, ids, jsontext
from mainstem_shared.model.principals import Principal
from mainstem_shared.model.record import Record
from mainstem_shared.model.runs import Reason, Spec, Status
from mainstem_shared.operations import starting
from mainstem_shared.operations.performing import STOP, Operations, nobody
from mainstem_shared.store import keys

TRIGGER: Final = "run"
"""What started a child."""
SHOWN_TEXT: Final = 4000
SHOWN_OUTPUT: Final = 16 * 1024
"""Characters of a child's text, and bytes of its output, that its parent is told."""


async def start(operations: Operations, parent: Spec, *, key: str, fields: dict[str, Any]) -> str:
    """Start a child of a run, on a thread of its own unless one is named; returns its id. Repeatable.

    Raises:
        InvalidRequest, TooManyRuns, ThreadBusy, StoreUnavailable: as `starting.start_run`.
    """
    fields = dict(fields)
    if parent.priority is not None:  # who waits for the parent waits for the child, or nobody does
        fields.setdefault("priority", parent.priority)
    thread_id = fields.pop("thread_id", None) or f"child:{digests.of_json([parent.run_id, key])}"
    unique = uuid.UUID(bytes=digests.digest(jsontext.dumps([parent.run_id, key]), size=16))
    child = ids.run_id(parent.tenant, thread_id, unique)
    await transitions.enlist(
        operations.store,
        keys.run_children(parent.run_id),
        run_id=child,
        ttl_ms=operations.settings.thread_ttl_ms,
    )
    try:
        await starting.start_run(
            operations,
            starting.parse_request(fields),
            principal=Principal(user_id=parent.user_id, tenant=parent.tenant),
            thread_id=thread_id,
            run_id=child,
            trigger=TRIGGER,
            parent_run=parent.run_id,
        )
    except errors.Conflict:
        started = await transitions.find_fields(operations.store, child, Record.spec)
        if isinstance(started, transitions.Gone) or started.spec.parent_run != parent.run_id:
            raise
    await _stop_if_late(operations, parent.run_id, child)
    return child


async def _stop_if_late(operations: Operations, parent: str, child: str) -> None:
    """Stop a child whose parent is to stop: an abort that went down before the start did not find it."""
    found = await transitions.find_fields(operations.store, parent, Record.stop_reason, Record.status)
    if isinstance(found, transitions.Gone):
        reason = Reason.THREAD_DELETED
    elif found.stop_reason is not None or found.status is Status.ABORTED:
        reason = found.stop_reason or Reason.USER_ABORT
    else:
        return
    await operations.perform(STOP.of(child, reason=reason), notify=nobody)  # a sweeper ends it


def starter(operations: Operations, parent: Spec) -> Callable[[str, dict[str, Any]], Awaitable[str]]:
    """Return what starts children of one run, by key and fields."""

    async def begin(key: str, fields: dict[str, Any]) -> str:
        return await start(operations, parent, key=key, fields=fields)

    return begin


async def are_over(operations: Operations, run_ids: Sequence[str]) -> bool:
    """Tell whether all of these runs are over; one that is gone is."""
    found = await transitions.read_many(operations.store, run_ids, Record.status)
    return all(isinstance(one, transitions.Gone) or one.status.is_terminal for one in found)


async def outcomes(operations: Operations, run_ids: Sequence[str]) -> list[dict[str, Any]]:
    """Return what became of runs: `run_id`, `status`, `reason`, `text`, `output`, `error`."""
    return [await _outcome(operations, run_id) for run_id in run_ids]


async def _outcome(operations: Operations, run_id: str) -> dict[str, Any]:
    try:
        run = await run_states.get_run(operations.store, run_id)
    except errors.NotFound:
        return {"run_id": run_id, "status": "gone", "reason": None, "text": "", "output": None, "error": None}
    output = run.output if len(jsontext.dumps(run.output)) <= SHOWN_OUTPUT else None
    return {
        "run_id": run_id,
        "status": run.status.value,
        "reason": None if run.reason is None else run.reason.value,
        "text": run.text[:SHOWN_TEXT],
        "output": output,
        "error": None if run.error is None else run.error.model_dump(),
    }
