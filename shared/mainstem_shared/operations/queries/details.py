"""Builds a run's timeline from its record, and from the control entries of its log while it has them.

A finished run's log keeps only its last entry once its deltas are dropped; its record still says when it was
created, claimed and ended, how often it changed hands, and what was decided.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from mainstem_shared import errors, transitions
from mainstem_shared.eventlog.reading import run_states
from mainstem_shared.model import contents, cursors, events, jsontext
from mainstem_shared.model.events import Entry, Type
from mainstem_shared.model.record import Record
from mainstem_shared.model.runs import Run, Timestamp, at_ms
from mainstem_shared.operations.queries import families
from mainstem_shared.operations.queries.families import ChildRun
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store

_FIELDS: Final = (
    Record.spec, Record.run_input, Record.segment, Record.losses, Record.restart_count, Record.publish_count,
    Record.published_ms, Record.queued_ms, Record.started_ms, Record.finished_ms, Record.paused_ms,
    Record.idle_ms, Record.stop_reason, Record.stop_ms, Record.reason, Record.task_id, Record.first_task_id,
    Record.last_task_id, Record.owner, Record.decisions, Record.waiting_for,
)  # fmt: skip
_CONTENT: Final = frozenset({"content", "steps", "usage", "title", "prev", "at", "text"})
"""What a control entry repeats of the run's content: it makes no timeline entry."""
MOST_CHANGES: Final = 200
"""Changes of control that are told of: a run that has more of them shows its latest."""


class TimelineEntry(BaseModel):
    """One entry of a run's timeline."""

    at: Timestamp | None
    what: Annotated[str, Field(description="The event's type, or `run.stop_asked`.")]
    cursor: str | None = None
    about: dict[str, Any] = Field(default_factory=dict)


class RunDetails(BaseModel):
    """What happened to a run."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    run: Run
    input: dict[str, Any]
    timeline: list[TimelineEntry]
    timeline_complete: Annotated[
        bool, Field(description="False once the log keeps only its end: the rest is from the record.")
    ]
    segments: Annotated[int, Field(description="How often a worker took it.")]
    losses: Annotated[int, Field(description="How often it went on elsewhere because its worker was lost.")]
    restarts: Annotated[int, Field(description="How often readers had to replace their content.")]
    messages: Annotated[int, Field(description="How often its message was given to the broker.")]
    queue_wait_ms: Annotated[int | None, Field(description="From its creation until a worker began it.")] = (
        None
    )
    duration_ms: Annotated[int | None, Field(description="From its creation to its end.")] = None
    paused_ms: Annotated[int, Field(description="How long it waited for people, and then for workers.")] = 0
    decisions: list[dict[str, Any]]
    tasks: Annotated[list[str], Field(description="Its Celery tasks: the first one, and the last one.")]
    children: Annotated[
        list[ChildRun],
        Field(description="The runs that it started, each with its own; left out if none."),
    ] = Field(default_factory=list[ChildRun], exclude_if=lambda children: not children)
    archived: bool = Field(
        default=False,
        exclude_if=lambda archived: not archived,
        description="It is read from the archive: the store has let go of it. Else left out.",
    )


async def read(store: Store, run_id: str, *, tenant: str, user_id: str | None) -> RunDetails:
    """Return what happened to a run of this tenant, and of this user if one is named.

    Raises:
        NotFound: it is not, or there is no such run.
    """
    await run_states.check_owner(store, run_id, tenant=tenant, user_id=user_id)
    run = await run_states.get_run(store, run_id)
    record = await transitions.find_fields(store, run_id, *_FIELDS)
    if isinstance(record, transitions.Gone):
        raise errors.NotFound
    created, entries = record.spec.created_ms, await _changes_of_control(store, run_id, run.epoch)
    complete = bool(entries) and entries[0].type == Type.CREATED
    timeline = _from_log(entries) if complete else _from_record(record, entries)
    return RunDetails(
        run=run,
        input=_input(record),
        timeline=_with_stop(record, timeline),
        timeline_complete=complete,
        segments=record.segment,
        losses=record.losses,
        restarts=record.restart_count,
        messages=record.publish_count,
        queue_wait_ms=_since(created, record.started_ms),
        duration_ms=_since(created, record.finished_ms),
        paused_ms=record.idle_ms,
        decisions=record.decisions or [],
        children=await families.below(store, run_id),
        archived=not await store.command("EXISTS", keys.run(run_id).record),
        tasks=list(dict.fromkeys(filter(None, (record.first_task_id, record.last_task_id, record.task_id)))),
    )


def _input(record: Record) -> dict[str, Any]:
    try:
        return record.run_input
    except contents.UNREADABLE:
        return {}


def _since(begin_ms: int, end_ms: int | None) -> int | None:
    return None if end_ms is None else max(0, end_ms - begin_ms)


async def _changes_of_control(store: Store, run_id: str, top_epoch: int) -> list[Entry]:
    """Return the log's control entries, the first one first: each names the entry before it."""
    log, found, epoch = keys.run(run_id).log, list[Entry](), top_epoch
    while epoch and len(found) < MOST_CHANGES:
        read: Any = await store.command("XRANGE", log, f"{epoch}-0", f"{epoch}-0", large=True)
        if not read:
            break
        found.append(events.entry(*read[0]))
        epoch = cursors.parse(str(jsontext.loads(found[-1].data).get("prev") or "0-0")).epoch
    return found[::-1]


def _from_log(entries: list[Entry]) -> list[TimelineEntry]:
    """Return every change of control."""
    found: list[TimelineEntry] = []
    for entry in entries:
        payload: dict[str, Any] = jsontext.loads(entry.data)
        at = payload.get("at")
        about = {name: value for name, value in payload.items() if name not in _CONTENT and value is not None}
        when = at_ms(at) if isinstance(at, int) else None
        found.append(TimelineEntry(at=when, what=entry.type, cursor=str(entry.cursor), about=about))
    return found


def _from_record(record: Record, entries: list[Entry]) -> list[TimelineEntry]:
    spec = record.spec
    found = [TimelineEntry(at=at_ms(spec.created_ms), what=Type.CREATED, about={"engine": spec.engine})]
    if record.started_ms is not None:
        found.append(
            TimelineEntry(
                at=at_ms(record.started_ms), what=Type.STARTED, about={"task_id": record.first_task_id}
            )
        )
    if record.finished_ms is not None:
        about = {"reason": record.reason.value if record.reason else None, "worker": record.owner or None}
        cursor = str(entries[-1].cursor) if entries else None
        found.append(
            TimelineEntry(at=at_ms(record.finished_ms), what=Type.FINISHED, cursor=cursor, about=about)
        )
    return found


def _with_stop(record: Record, timeline: list[TimelineEntry]) -> list[TimelineEntry]:
    """Add when somebody asked the run to stop, where that belongs."""
    if record.stop_ms is None or record.stop_reason is None:
        return timeline
    at = at_ms(record.stop_ms)
    asked = TimelineEntry(at=at, what="run.stop_asked", about={"reason": record.stop_reason.value})
    before = [one for one in timeline if one.at is None or one.at <= at]
    return [*before, asked, *timeline[len(before) :]]
