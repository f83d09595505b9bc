"""Reads where a run stands when a client attaches: one atomic read, from which a translator begins.

Protocols whose clients keep no cursor of ours begin with the content as of now, and follow the log from
there. For adapters that attach in the middle; `translator` tells what changes afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mainstem_shared import errors, transitions
from mainstem_shared.eventlog.reading import run_states
from mainstem_shared.model import cursors
from mainstem_shared.model.contents import Content
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.principals import Principal
from mainstem_shared.model.record import Record
from mainstem_shared.model.runs import Spec, Status
from mainstem_shared.store.client import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachPoint:
    """A run as of one moment.

    Attributes:
        spec: what never changes about it.
        status: as of now.
        started: whether a worker has ever had it.
        fold: its content as of `cursor`. For the reader alone: changed by whoever follows from here.
        cursor: what follows it is still to come; of a finished run, `run.finished` does.
        outcome: the payload of `run.finished`, or None.
        pauses: what was decided in each pause so far, in order: `action_id`, `kind`, `decisions`, and with
            them what was `asked` and the content's `mark` at the pause (`transitions.mark`).
        restarts: how often its content was replaced by something that is no continuation.
        finished_ms: when it ended, or None.
    """

    spec: Spec
    status: Status
    started: bool
    fold: Content
    cursor: Cursor
    outcome: Mapping[str, Any] | None
    pauses: Sequence[Mapping[str, Any]]
    restarts: int
    finished_ms: int | None


async def read(store: Store, run_id: str, caller: Principal) -> AttachPoint:
    """Read where a run stands that the caller may read.

    Raises:
        NotFound: there is no such run, or it is not for them to read.
        StoreUnavailable: the store does not answer.
    """
    state = await transitions.find(store, run_id)
    if isinstance(state, transitions.Gone) or not caller.may_read(state.spec):
        raise errors.NotFound
    if run_states.size(state) > run_states.LARGE:
        return await asyncio.to_thread(of_state, state)
    return of_state(state)


def of_state(state: transitions.State) -> AttachPoint:
    """Return where a run stands that was just read."""
    record = state.record
    outcome = None
    if state.status.is_terminal:
        last = run_states.final_entry(state)
        fold, _, _, outcome = run_states.final_content(last, state)
        cursor = last.prev or cursors.START
    else:
        fold, cursor, _ = run_states.content(state)
    return AttachPoint(
        spec=state.spec,
        status=state.status,
        started=record.segment > 0,
        fold=fold,
        cursor=cursor,
        outcome=outcome,
        pauses=record.decisions or (),
        restarts=record.restart_count,
        finished_ms=record.finished_ms,
    )


def at_start(attach_point: AttachPoint) -> AttachPoint:
    """Return the same run before its first event: for who started it, and is to see all of them.

    Events that leave no trace in the content, as custom ones, are told to nobody who attaches after them.
    """
    return replace(attach_point, fold=Content(), cursor=cursors.START, outcome=None)


async def input_of(store: Store, run_id: str) -> dict[str, Any]:
    """Return what a run was started with; ownership is for the caller to check.

    Raises:
        NotFound: there is no such run.
    """
    record = await transitions.find_fields(store, run_id, Record.run_input)
    if isinstance(record, transitions.Gone) or not record.has(Record.run_input):
        raise errors.NotFound
    return record.run_input
