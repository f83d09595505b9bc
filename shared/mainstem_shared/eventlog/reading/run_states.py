"""Builds what readers see of a run: the whole run as of now, its snapshots, its final event.

Built from what `transitions.read` returns. The gateway's and the client's `get` end here, and so do
subscriptions that need a state instead of events (`subscriptions`).
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from mainstem_shared import errors, transitions
from mainstem_shared.model import contents, cursors, jsontext, runs
from mainstem_shared.model.contents import Content
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.events import Entry, Type
from mainstem_shared.model.principals import Principal
from mainstem_shared.model.runs import ErrorInfo, Reason, Run
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from mainstem_shared.transitions import State

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
    state = await transitions.read(store, run_id)
    if isinstance(state, transitions.Gone):
        raise errors.NotFound
    if principal is not None and not principal.owns(state.spec):
        raise errors.NotFound
    if size(state) > LARGE:
        return await asyncio.to_thread(run, state)
    return run(state)


async def check_owner(store: Store, run_id: str, *, tenant: str, user_id: str | None) -> runs.Spec:
    """Return the spec of a run of this tenant, and of this user if one is named, without reading its content.

    Raises:
        NotFound: it is not, or there is no such run.
    """
    record = keys.run(run_id).record
    spec = await store.patiently(lambda: store.client.hget(record, "spec"))
    if spec is None:
        raise errors.NotFound
    found = runs.Spec.model_validate_json(spec)
    if found.tenant != tenant or (user_id is not None and found.user_id != user_id):
        raise errors.NotFound
    return found


def size(state: State) -> int:
    """Return the bytes that folding a state has to look at."""
    return len(state.snapshot_state) + sum(len(entry.data) for entry in state.entries)


def run(state: State) -> Run:
    """Build the run that readers see."""
    spec, fields = state.spec, state.fields
    folded, cursor, failure = content(state)
    reason, waiting = fields.get("reason"), fields.get("waiting")
    return Run(
        run_id=spec.run_id,
        thread_id=spec.thread_id,
        user_id=spec.user_id,
        tenant=spec.tenant,
        status=state.status,
        reason=Reason(reason) if reason else None,
        waiting_for=runs.WaitingFor(waiting) if waiting else None,
        engine=spec.engine,
        created_at=runs.at_ms(spec.created_ms),
        started_at=_time(fields.get("started")),
        finished_at=_time(fields.get("finished")),
        text=folded.text,
        content=folded.dump()["content"],
        steps=folded.steps,
        usage=runs.Usage.model_validate(folded.usage) if folded.usage else None,
        title=folded.title,
        action=folded.action,
        inputs=_inputs(state, folded),
        cursor=str(cursor),
        epoch=state.epoch,
        worker=state.owner or None,
        error=failure,
        metadata=spec.metadata,
    )


def _inputs(state: State, folded: Content) -> list[dict[str, Any]]:
    """Return what users said to the run: what its engine has read, and what it has not (yet)."""
    read = [{**said, "state": "read"} for said in folded.inputs]
    if state.status.is_terminal:
        return read + [{**said, "state": "unread", "part": None} for said in folded.unread]
    waiting = map(jsontext.loads, state.inputs[len(read) :])
    return read + [{**said, "state": "queued", "part": None} for said in waiting]


def _time(ms: str | None) -> Any:
    return runs.at_ms(int(ms)) if ms else None


def content(state: State) -> tuple[Content, Cursor, ErrorInfo | None]:
    """Fold a state to its top: the content, the cursor it covers, and why the run failed (if it did)."""
    if state.status.is_terminal:
        last = final_entry(state)
        payload = last.payload()
        failure = payload["error"]
        return folded_final(payload), last.cursor, ErrorInfo.model_validate(failure) if failure else None
    stored = jsontext.loads(state.snapshot_state) if state.snapshot_cursor else None
    return contents.fold(state.entries, stored), state.top, None


def folded_final(payload: dict[str, Any]) -> Content:
    """Return the content that a `run.finished` holds."""
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
    kept = state.fields.get("error")
    body = {
        "prev": str(cursors.START),
        "status": state.status,
        "reason": state.fields["reason"],
        "error": jsontext.loads(kept) if kept else LOG_LOST.model_dump(),
        "at": int(state.fields["finished"]),
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
    dumped = folded_final(last.payload()).dump()
    return snapshot_entry(last.prev, jsontext.dumps(dumped))


def snapshot_of_top(state: State) -> Entry:
    """Return a snapshot of an unfinished run that covers its log to the top."""
    folded, cursor, _ = content(state)
    return snapshot_entry(cursor, jsontext.dumps(folded.dump()))
