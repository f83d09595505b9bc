"""Summarises runs without their content, for lists that are refreshed every second.

Read from records and from the tops of logs, in two round trips for a hundred runs, however large they are.
Whole runs are in `run_states`, their pages in `listings`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from mainstem_shared import transitions
from mainstem_shared.model import contents, cursors, runs
from mainstem_shared.model.record import Record
from mainstem_shared.model.runs import ErrorInfo, Reason, Status, Timestamp, WaitingFor
from mainstem_shared.operations.queries import listings
from mainstem_shared.operations.queries.listings import Query
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store

SHOWN: Final = 500
"""Unfinished runs in one answer: more than anybody reads."""
SCAN_LIMIT: Final = 20_000
"""Unfinished runs read for one answer."""
_BATCH: Final = 500
_FIELDS: Final = (
    Record.spec, Record.reason, Record.waiting_for, Record.epoch, Record.owner, Record.task_id,
    Record.last_task_id, Record.started_ms, Record.finished_ms, Record.action, Record.error,
    Record.stop_reason,
)  # fmt: skip


class RunSummary(BaseModel):
    """A run without its content, for lists: what its record says."""

    model_config = ConfigDict(frozen=True, json_schema_serialization_defaults_required=True)

    run_id: str
    thread_id: str
    user_id: str
    status: Status
    reason: Reason | None = None
    waiting_for: WaitingFor | None = None
    engine: str
    created_at: Timestamp
    started_at: Timestamp | None = None
    finished_at: Timestamp | None = None
    worker: str | None = None
    task_id: Annotated[str | None, Field(description="The Celery task that runs it, or ran it last.")] = None
    epoch: int
    events: Annotated[
        int | None,
        Field(
            description="Events that a running run has written in this epoch: its growth is the run's speed."
        ),
    ] = None
    stopping: Annotated[bool, Field(description="Somebody asked it to stop, and it has not yet.")] = False
    action: dict[str, Any] | None = None
    error: ErrorInfo | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    priority: Annotated[
        runs.Priority | None, Field(description="Its class, if its start or its engine named one.")
    ] = Field(default=None, exclude_if=lambda priority: priority is None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """Some runs, newest first, and how many there are by status (of unfinished ones only)."""

    runs: list[RunSummary]
    next: str | None
    counts: dict[Status, int]
    complete: bool = True
    """Whether all servers of the store were there: runs of those that were not are missing."""


async def recent(store: Store, query: Query, *, limit: int, cursor: str | None = None) -> Overview:
    """Return the next runs after `cursor`, newest first.

    Raises:
        InvalidCursor: it is not the `next` of a page.
        InvalidRequest: the limit is out of range.
    """
    missed: set[str] = set()
    entries, following = await listings.positions(store, query, limit=limit, cursor=cursor, missed=missed)
    runs = await of(store, [entry.run_id for entry in entries])
    return Overview(runs=runs, next=following, counts={}, complete=not missed)


async def active(store: Store, query: Query, *, limit: int = SHOWN) -> Overview:
    """Return all unfinished runs that the query asks for; the newest ones, where they are too many."""
    missed: set[str] = set()
    lists = [bucket.active for bucket in keys.every_index()]
    there = await store.there(lists, missed=missed)
    commands = (
        ("ZRANGE", index, 0, SCAN_LIMIT - 1) for index, is_there in zip(lists, there, strict=True) if is_there
    )
    members: list[bytes] = [m for found in await store.commands(*commands) for m in found][:SCAN_LIMIT]
    found: list[tuple[int, str, Status]] = []
    for first in range(0, len(members), _BATCH):
        found += await _wanted(store, query, [member.decode() for member in members[first : first + _BATCH]])
    found.sort(reverse=True)
    runs = await of(store, [run_id for _, run_id, _ in found[:limit]])
    counts = dict(Counter(status for *_, status in found))
    return Overview(runs=runs, next=None, counts=counts, complete=not missed)


async def _wanted(store: Store, query: Query, run_ids: Sequence[str]) -> list[tuple[int, str, Status]]:
    records = await transitions.read_many(store, run_ids, Record.spec)
    found: list[tuple[int, str, Status]] = []
    for run_id, record in zip(run_ids, records, strict=True):
        if isinstance(record, transitions.Gone):
            continue  # a start that is under way, or never happened
        if (known := listings.spec_and_status(run_id, record)) is None:
            continue
        parsed, reached = known
        if not reached.is_terminal and query.matches(parsed, reached):
            found.append((parsed.created_ms, run_id, reached))
    return found


async def of(store: Store, run_ids: Sequence[str]) -> list[RunSummary]:
    """Return these runs' summaries, in their order, without those that are gone."""
    records = await transitions.find_many(store, run_ids, *_FIELDS)
    found: list[RunSummary] = []
    for run_id, record in zip(run_ids, records, strict=True):
        if (summary := _readable_summary(run_id, record)) is not None:
            found.append(summary)
    return await _with_progress(store, found)


def _readable_summary(run_id: str, record: Record | transitions.Gone) -> RunSummary | None:
    """Return a run's summary; None if it is gone, or cannot be read."""
    if isinstance(record, transitions.Gone):
        return None  # its retention ended this very moment
    try:
        return _summary(record)
    except contents.UNREADABLE as error:
        listings.cannot_read(run_id, error)
        return None


async def _with_progress(store: Store, runs: list[RunSummary]) -> list[RunSummary]:
    """Add how far running runs are: their logs' tops. Finished logs end with the whole content: not read."""
    running = [run.run_id for run in runs if run.status is Status.RUNNING]

    commands = (("XREVRANGE", keys.run(run_id).log, "+", "-", "COUNT", 1) for run_id in running)
    found: dict[str, cursors.Cursor] = {}
    for run_id, entries in zip(running, await store.commands(*commands, large=True), strict=True):
        if entries:
            found[run_id] = cursors.parse(entries[0][0].decode())
    return [
        run.model_copy(update={"epoch": top.epoch, "events": top.seq})
        if (top := found.get(run.run_id))
        else run
        for run in runs
    ]


def _summary(record: Record) -> RunSummary:
    spec, status = record.spec, record.status
    action = record.action if status is Status.REQUIRES_ACTION else None
    return RunSummary(
        run_id=spec.run_id,
        thread_id=spec.thread_id,
        user_id=spec.user_id,
        status=status,
        reason=record.reason,
        waiting_for=record.waiting_for,
        engine=spec.engine,
        created_at=runs.at_ms(spec.created_ms),
        started_at=_time(record.started_ms),
        finished_at=_time(record.finished_ms),
        worker=record.owner or None,
        task_id=record.task_id or record.last_task_id or None,
        epoch=record.epoch,
        stopping=record.stop_reason is not None and not status.is_terminal,
        action=action.public() if action else None,
        error=record.error,
        metadata=spec.metadata,
        priority=spec.priority,
    )


def _time(ms: int | None) -> datetime | None:
    return None if ms is None else runs.at_ms(ms)
