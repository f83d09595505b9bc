"""Transitions of a run's life: start, claim, seal, hand over, stop, finish, published.

Each function runs the Lua script of its name; the script's header says keys, arguments and answers. A verb
takes a nonce where repeating it must answer the same caller the same. Each may raise StoreUnavailable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from mainstem_shared.model import cursors, jsontext, memories, runs
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.runs import Reason, Spec, Status
from mainstem_shared.model.time import now_ms
from mainstem_shared.store import keys
from mainstem_shared.store.client import Script, Store
from mainstem_shared.transitions import check_times
from mainstem_shared.transitions.first_version import LOOKS, recognise
from mainstem_shared.transitions.results import (
    Already,
    Control,
    Gone,
    Moved,
    Newer,
    Refused,
    Stopping,
    refused,
)

QUEUE_LIMIT: Final = 100
"""Runs that may wait on one thread: enough for a person's impatience, small enough to bound a loop's."""
IDEMPOTENCY_TTL_MS: Final = 24 * 3600 * 1000
START: Final = Script("start")
CLAIM: Final = Script("claim")
SEAL: Final = Script("seal")
FINISH: Final = Script("finish")
HANDOVER: Final = Script("handover")
STOP: Final = Script("stop")
PUBLISHED: Final = Script("published")


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The run is durable and queued. `active`: the run that holds its thread; itself, if it need not wait."""

    waiting: runs.WaitingFor
    active: str
    superseded: str | None = None
    """A replacement that waited on the thread too, and is replaced in its turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exists:
    """A run with this id was created by another call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """The idempotency key belongs to `run_id`; `same_body` tells whether the request was the same."""

    run_id: str
    same_body: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Busy:
    """The thread is taken by `active`; `queue_full` if the start would have waited."""

    active: str
    queue_full: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """The store does not know whose the thread is; its archive may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """The run is the caller's. It writes in `epoch`, starting after the control entry `<epoch>-0`."""

    epoch: int
    nonce: str
    segment: int
    spec: Spec
    input: dict[str, Any]
    started_ms: int
    resume_as: str
    decisions: list[dict[str, Any]]
    """What was decided about each action of the run so far, in order (`actions.decisions_of`)."""
    idle_ms: int = 0
    """How long it waited for humans, and then for a worker: that is no part of its duration."""
    inputs: int = 0
    """How many inputs users had sent it by then (`steering`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The run is over, by this call. `next_run` holds the thread now and wants a message."""

    epoch: int
    next_run: str | None
    deliveries: int = 0
    """How many callbacks are due because of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Intended:
    """The stop intent is durable. Who must act: `owner`, or anybody if nobody runs it."""

    status: Status
    epoch: int
    owner: str
    task_id: str
    reason: Reason
    children: int = 0
    """How many runs it started as its children: they are to stop as well."""


async def start(
    store: Store,
    spec: Spec,
    run_input: bytes,
    *,
    nonce: str,
    if_active: runs.IfActive,
    live_ttl_ms: int,
    thread_ttl_ms: int,
    idempotency: tuple[str, str] | None = None,
    private: Literal["", "private", "archived"] = "",
    callback: bytes = b"",
) -> Started | Exists | Replayed | Busy | Gone | Unknown:
    """Create a run. `idempotency`: digests of the key's scope and of the body; `callback`: who is told.

    With `private`, a thread with another user's runs is as good as not there; `archived`: besides, nothing is
    created if only an archive can tell whose it is.
    """
    k = keys.run(spec.run_id)
    scope, body_digest = idempotency or ("", "")
    body = jsontext.dumps(
        {
            "run_id": spec.run_id,
            "thread_id": spec.thread_id,
            "engine": spec.engine,
            "trigger": spec.trigger,
            "at": spec.created_ms,
            "v": spec.v,
        }
    )
    reply = await store.verb(
        START,
        [
            k.record, k.log, k.thread, k.thread_runs, k.thread_queue, keys.idempotency(spec.run_id, scope),
            k.active, k.recent,
        ],
        [
            spec.created_ms, nonce, spec.run_id, spec.model_dump_json(), run_input, body, live_ttl_ms,
            thread_ttl_ms, if_active, body_digest, IDEMPOTENCY_TTL_MS, QUEUE_LIMIT, spec.v,
            private, spec.created_ms + check_times.FIRST_MS, spec.created_ms + check_times.STOP_MS, callback,
        ],
    )  # fmt: skip
    match reply[0]:
        case b"started":
            active = reply[2].decode() or spec.run_id
            return Started(
                waiting=runs.WaitingFor(reply[1].decode() or "worker"),
                active=active,
                superseded=reply[3].decode() or None,
            )
        case b"exists":
            return Exists()
        case b"replayed" | b"reused":
            return Replayed(run_id=reply[1].decode(), same_body=reply[0] == b"replayed")
        case b"foreign":
            return Gone()
        case b"unknown":
            return Unknown()
        case _:
            return Busy(active=reply[1].decode(), queue_full=reply[0] == b"queue_full")


async def claim(
    store: Store,
    run_id: str,
    *,
    nonce: str,
    owner: str,
    task_id: str,
    live_ttl_ms: int,
    patience_s: float | None = None,
    looks: int = LOOKS,
) -> Claimed | Refused | Newer | Stopping | Gone:
    """Make a queued run the caller's."""
    k = keys.run(run_id)
    body = jsontext.dumps({"worker": owner, "task_id": task_id, "at": now_ms()})
    reply = await store.verb(
        CLAIM,
        [k.record, k.log, k.thread, k.thread_runs, k.thread_queue, k.snapshot, k.checkpoint],
        [now_ms(), nonce, owner, task_id, live_ttl_ms, body, runs.RECORD_VERSION],
        patience_s=patience_s,
    )
    match reply[0]:
        case b"claimed":
            return Claimed(
                epoch=int(reply[1]),
                nonce=nonce,
                segment=int(reply[2]),
                spec=Spec.model_validate_json(reply[3]),
                input=jsontext.loads(reply[4]),
                started_ms=int(reply[5]),
                resume_as=reply[6].decode(),
                decisions=jsontext.loads(reply[7]) if reply[7] else [],
                idle_ms=int(reply[8]),
                inputs=int(reply[9]),
            )
        case b"refused":
            return refused(reply)
        case b"newer":
            return Newer(version=int(reply[1]))
        case b"stopping":
            return Stopping(reason=Reason(reply[1].decode()), epoch=int(reply[2]))
        case _ if await recognise(store, run_id, looks=looks):
            return await claim(
                store,
                run_id,
                nonce=nonce,
                owner=owner,
                task_id=task_id,
                live_ttl_ms=live_ttl_ms,
                patience_s=patience_s,
                looks=looks - 1,
            )
        case _:
            return Gone()


async def seal(
    store: Store, run_id: str, *, nonce: str, sealer: str, epoch: int, cause: str, control: str = ""
) -> Control | Refused | Gone:
    """Take control of a running run from its owner, as read: `epoch`, and `control`, its nonce."""
    k = keys.run(run_id)
    body = jsontext.dumps({"cause": cause, "by": sealer, "at": now_ms()})
    reply = await store.verb(SEAL, [k.record, k.log], [now_ms(), nonce, sealer, epoch, body, control])
    match reply[0]:
        case b"sealed":
            return Control(run_id=run_id, epoch=int(reply[1]), owner=sealer, nonce=nonce)
        case b"refused":
            return refused(reply)
        case _:
            return Gone()


async def handover(
    store: Store,
    control: Control,
    *,
    nonce: str,
    top: Cursor,
    resume_as: str,
    cause: str,
    state: bytes,
    live_ttl_ms: int,
    lost: bool = False,
    restart: bytes = b"",
    patience_s: float | None = None,
) -> int | Refused | Moved | Gone:
    """Give a running run back to the queue; returns the epoch of `run.queued`.

    `state` is its fold up to `top`; `restart` the state that its next claim's entry carries, if any.
    """
    k = keys.run(control.run_id)
    body = jsontext.dumps({"cause": cause, "at": now_ms()})
    reply = await store.verb(
        HANDOVER,
        [k.record, k.log, k.snapshot, k.active],
        [
            now_ms(), nonce, control.epoch, control.owner, str(top), resume_as, body, state, live_ttl_ms,
            int(lost), restart, control.nonce, control.run_id, now_ms() + check_times.MESSAGE_MS,
        ],
        patience_s=patience_s,
    )  # fmt: skip
    match reply[0]:
        case b"queued":
            return int(reply[1])
        case b"refused":
            return refused(reply)
        case b"moved":
            return Moved(top=cursors.parse(reply[1]))
        case _:
            return Gone()


async def stop(store: Store, run_id: str, *, reason: Reason) -> Intended | Already | Gone:
    """Record the stop intent of a run."""
    k, now = keys.run(run_id), now_ms()
    reply = await store.verb(
        STOP,
        [k.record, k.active, keys.run_children(run_id)],
        [now, reason.value, run_id, now + check_times.STOP_MS],
    )
    match reply[0]:
        case b"intended":
            return Intended(
                status=Status(reply[1].decode()),
                epoch=int(reply[2]),
                owner=reply[3].decode(),
                task_id=reply[4].decode(),
                reason=Reason(reply[5].decode()),
                children=int(reply[6]),
            )
        case b"already":
            return Already(status=Status(reply[1].decode()), reason=Reason(reply[2].decode()))
        case _:
            return Gone()


async def finish(
    store: Store,
    control: Control,
    *,
    nonce: str,
    top: Cursor,
    reason: Reason,
    state: dict[str, Any],
    error: runs.ErrorInfo | None,
    retention_ms: int,
    compact_after_ms: int,
    inputs_read: int = 0,
    memory: memories.Changes | None = None,
    everyone: bytes = b"",
    patience_s: float | None = None,
) -> Finished | Already | Refused | Moved | Gone:
    """End a run. `state` is its fold up to `top`, which must be the log's end.

    Inputs beyond the `inputs_read` that the fold has are handed back, as the final event's `unread`.
    `memory` is what changed in the engine's memory of the thread.
    `everyone`: the targets that are told of every run's end, as JSON.
    """
    k, now = keys.run(control.run_id), now_ms()
    failure = error.model_dump() if error else None
    body = {"status": reason.status, "reason": reason, "error": failure, "at": now, **state}
    reply = await store.verb(
        FINISH,
        [
            k.record, k.log, k.snapshot, k.checkpoint, k.thread, k.thread_queue, k.thread_runs, k.active,
            k.compact, keys.memory(control.run_id, memory), k.effects, k.callbacks, k.callbacks_due,
        ],
        [
            now, nonce, control.run_id, control.epoch, control.owner, str(top), reason.status.value,
            reason.value, jsontext.dumps(body), jsontext.dumps(failure) if failure else "", retention_ms,
            inputs_read, control.nonce, now + compact_after_ms, now + check_times.MESSAGE_MS,
            everyone, *memories.arguments(memory),
        ],
        patience_s=patience_s,
    )  # fmt: skip
    match reply[0]:
        case b"finished":
            return Finished(
                epoch=int(reply[1]),
                next_run=reply[2].decode() or None,
                deliveries=int(reply[3]) if len(reply) > 3 else 0,
            )
        case b"already":
            return Already(status=Status(reply[1].decode()), reason=Reason(reply[2].decode()))
        case b"refused":
            return refused(reply)
        case b"moved":
            return Moved(top=cursors.parse(reply[1]))
        case _:
            return Gone()


async def published(store: Store, run_id: str, *, task_id: str) -> bool:
    """Note that a queued run's message reached the broker; False if that no longer matters."""
    reply = await store.verb(PUBLISHED, [keys.run(run_id).record], [now_ms(), task_id])
    return reply[0] == b"noted"
