"""Builds what readers see of a run: the whole run as of now, its snapshots, its final event.

Built from what `transitions.read` returns. The gateway's and the client's `get` end here, and so do
subscriptions that need a state instead of events (`subscriptions`).
"""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime
from typing import Any, Final

from mainstem_shared import errors, transitions
from mainstem_shared.model import contents, cursors, jsontext, runs, salvage
from mainstem_shared.model.contents import Content
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.events import Entry, Type
from mainstem_shared.model.principals import Principal
from mainstem_shared.model.record import Record
from mainstem_shared.model.runs import ErrorInfo, Run
from mainstem_shared.model.usage import Usage
from mainstem_shared.store.client import Store
from mainstem_shared.transitions import State

logger = logging.getLogger(__name__)

LARGE: Final = 256 * 1024
"""Bytes of state and events beyond which folding leaves the event loop: milliseconds from here on."""
LOG_LOST: Final = ErrorInfo(
    code="log_lost",
    message="The store lost this run's events: its outcome is known, its content is not.",
)


async def get_run(store: Store, run_id: str, *, principal: Principal | None = None) -> Run:
    """Read a run, folded to the log's top as of now; with a principal, only if it is theirs.

    Raises:
        NotFound: there is no such run (any more).
        StoreUnavailable: the store does not answer.
    """
    state = await transitions.find(store, run_id)
    if isinstance(state, transitions.Gone):
        raise errors.NotFound
    try:
        if principal is not None and not principal.owns(state.spec):
            raise errors.NotFound
        return await asyncio.to_thread(run, state) if size(state) > LARGE else run(state)
    except contents.UNREADABLE as error:
        raise _unreadable(run_id, error) from error


def _unreadable(run_id: str, error: Exception) -> errors.NotFound:
    """Return the answer about a record that is damaged: nobody can tell any more whose it is."""
    noted = {"action": "run_unreadable", "run_id": run_id}
    logger.error("a record is damaged, or of a later version", extra=noted, exc_info=error)
    return errors.NotFound()


async def check_owner(store: Store, run_id: str, *, tenant: str, user_id: str | None) -> runs.Spec:
    """Return the spec of a run of this tenant, and of this user if one is named, without reading its content.

    Raises:
        NotFound: it is not, or there is no such run.
    """
    record = await transitions.find_fields(store, run_id, Record.spec)
    if isinstance(record, transitions.Gone):
        raise errors.NotFound
    try:
        found = record.spec
    except contents.UNREADABLE as error:
        raise _unreadable(run_id, error) from error
    if found.tenant != tenant or (user_id is not None and found.user_id != user_id):
        raise errors.NotFound
    return found


def size(state: State) -> int:
    """Return the bytes that folding a state has to look at."""
    return len(state.snapshot_state) + sum(len(entry.data) for entry in state.entries)


def run(state: State) -> Run:
    """Build the run that readers see; content that cannot be read is missing, and the error says so."""
    folded, cursor, failure = content(state)
    if folded.damaged and failure is None:
        failure = salvage.CONTENT_DAMAGED
    try:
        return _run(state, folded, cursor, failure)
    except contents.UNREADABLE:
        noted = {"action": "content_damaged", "run_id": state.spec.run_id}
        logger.exception("a run's content cannot be read", extra=noted)
        return _run(state, Content(), cursor, salvage.CONTENT_DAMAGED)


def _run(state: State, folded: Content, cursor: Cursor, failure: ErrorInfo | None) -> Run:
    spec, record = state.spec, state.record
    return Run(
        run_id=spec.run_id,
        thread_id=spec.thread_id,
        user_id=spec.user_id,
        tenant=spec.tenant,
        status=state.status,
        reason=record.reason,
        waiting_for=record.waiting_for,
        engine=spec.engine,
        created_at=runs.at_ms(spec.created_ms),
        started_at=_time(record.started_ms),
        finished_at=_time(record.finished_ms),
        text=folded.text,
        content=folded.dump()["content"],
        steps=folded.steps,
        usage=Usage.model_validate(folded.usage) if folded.usage else None,
        title=folded.title if record.title is None else record.title,
        action=folded.action,
        inputs=_inputs(state, folded),
        cursor=str(cursor),
        epoch=state.epoch,
        worker=state.owner or None,
        error=failure,
        metadata=spec.metadata if record.metadata is None else record.metadata,
        labels=record.labels,
        output=folded.extra.get("output"),
        finish_reason=folded.extra.get("finish_reason"),
        parent_run=spec.parent_run,
        priority=spec.priority,
    )


def _inputs(state: State, folded: Content) -> list[dict[str, Any]]:
    """Return what users said to the run: what its engine has read, and what it has not (yet)."""
    read = [{**said, "state": "read"} for said in folded.inputs]
    if state.status.is_terminal:
        return read + [{**said, "state": "unread", "part": None} for said in folded.unread]
    waiting = map(jsontext.loads, state.inputs[len(read) :])
    return read + [{**said, "state": "queued", "part": None} for said in waiting]


def _time(ms: int | None) -> datetime | None:
    return None if ms is None else runs.at_ms(ms)


def content(state: State) -> tuple[Content, Cursor, ErrorInfo | None]:
    """Fold a state to its top: the content, the cursor it covers, and why the run failed (if it did)."""
    if not state.status.is_terminal:
        stored = state.snapshot_state if state.snapshot_cursor else None
        return contents.fold(state.entries, stored), state.top, None
    return final_content(final_entry(state), state)[:3]


def final_content(last: Entry, state: State) -> tuple[Content, Cursor, ErrorInfo | None, dict[str, Any]]:
    """Return what a `run.finished` holds: content, cursor, error and payload.

    One that cannot be read is replaced by what the record says about the outcome.
    """
    try:
        payload = last.payload()
        failure = payload["error"]
        return _folded_final(payload), last.cursor, _error(failure), payload
    except contents.UNREADABLE:
        noted = {"action": "content_damaged", "epoch": state.epoch}
        logger.exception("a run's final event cannot be read", extra=noted)
    payload = _entry_of_record(state, salvage.CONTENT_DAMAGED).payload()
    return _folded_final(payload), last.cursor, _error(payload["error"]), payload


def _error(failure: Any) -> ErrorInfo | None:
    return ErrorInfo.model_validate(failure) if failure else None


def _folded_final(payload: dict[str, Any]) -> Content:
    result = Content()
    result.apply(Type.FINISHED, payload)
    return result


def final_entry(state: State) -> Entry:
    """Return a finished run's `run.finished`.

    If the store lost the log, the outcome is still in the record: the entry is made from it, under the id
    that it had, with no content and with an error that says so.
    """
    last = state.entries[-1] if state.entries else None
    if last is not None and last.type == Type.FINISHED:
        return last
    return _entry_of_record(state, LOG_LOST)


def _entry_of_record(state: State, reason: ErrorInfo) -> Entry:
    record = state.record
    if record.reason is None or record.finished_ms is None:
        raise ValueError("a record that is over, without its outcome")
    body = {
        "prev": str(cursors.START),
        "status": state.status,
        "reason": record.reason,
        "error": (record.error or reason).model_dump(),
        "at": record.finished_ms,
        **Content().dump(),
    }
    return Entry(cursor=Cursor(state.epoch, 0), type=Type.FINISHED, data=jsontext.dumps(body))


def snapshot_entry(cursor: Cursor, state: bytes) -> Entry:
    """Return the `snapshot` event for a dumped fold that covers a run's log up to `cursor`."""
    return Entry(cursor=cursor, type=Type.SNAPSHOT, data=state)


def snapshot_of_final(last: Entry) -> Entry | None:
    """Return a snapshot that stands in for everything before a `run.finished`; None if nothing was there."""
    if last.prev is None or last.prev == cursors.START:
        return None
    dumped = contents.fold([last]).dump()
    return snapshot_entry(last.prev, jsontext.dumps(dumped))


def snapshot_of_top(state: State) -> Entry:
    """Return a snapshot of an unfinished run that covers its log to the top."""
    folded, cursor, _ = content(state)
    return snapshot_entry(cursor, jsontext.dumps(folded.dump()))
