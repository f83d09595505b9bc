"""Transitions of a run that waits for a human, a time or an event (pause, resolve); and its checkpoints.

What a resume may and may not do is decided in `operations.resuming`, on top of these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from mainstem_shared.model import cursors, jsontext, memories, usage
from mainstem_shared.model.actions import Action
from mainstem_shared.model.contents import Content, TextPart
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.events import Type
from mainstem_shared.model.record import Record
from mainstem_shared.model.runs import Reason, Spec, Status
from mainstem_shared.model.time import now_ms
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Script, Store
from mainstem_shared.transitions import check_times
from mainstem_shared.transitions.records import read_fields
from mainstem_shared.transitions.results import Control, Gone, Moved, Refused, Stopping, refused

PAUSE: Final = Script("pause")
RESOLVE: Final = Script("resolve")
CHECKPOINT: Final = Script("checkpoint")


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused:
    """The run waits for a human; nobody has control of it."""

    epoch: int
    deliveries: int = 0
    """How many callbacks are due because of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """The action is decided by this call, and the run is queued."""

    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """The action was decided before; `same` tells whether in the same way."""

    same: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Expired:
    """The action's window is over (or, for an expirer, it is not)."""

    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stale:
    """The run waits for another action."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What a run's record says about its action.

    Attributes:
        spec: the run's.
        status: the run's.
        reason: why it ended, if it did.
        epoch: the run's.
        action_id: the latest action's, resolved or not.
        action: what is waited for; None unless the run is paused.
        fingerprint: of that action.
        digest: of the decision about the action that was asked for, if it is decided.
    """

    spec: Spec
    status: Status
    reason: Reason | None
    epoch: int
    action_id: str | None
    action: Action | None
    fingerprint: str
    digest: str | None


async def pause(
    store: Store,
    control: Control,
    *,
    nonce: str,
    top: Cursor,
    spec: Spec,
    action: Action,
    fold: Content,
    checkpoint: bytes | None,
    settings: Settings,
    memory: memories.Changes | None = None,
    patience_s: float | None = None,
) -> Paused | Stopping | Refused | Moved | Gone:
    """Let a run wait. `fold` covers the log up to `top`; `checkpoint` None keeps the last one.

    `memory` is what changed in its engine's memory of the thread.
    """
    k = keys.run(control.run_id)
    public = action.public()
    action = action.model_copy(update={"mark": mark(fold)})
    now = now_ms()
    # A window may be longer than the default one, which the live TTL covers.
    longer_ms = max(0, action.expires_ms - now - int(settings.approval_window_s * 1000))
    reply = await store.verb(
        PAUSE,
        [
            k.record, k.log, k.snapshot, k.checkpoint, k.thread, k.thread_runs, k.thread_queue, k.spare,
            k.active, keys.memory(control.run_id, memory), k.effects, k.callbacks, k.callbacks_due,
        ],
        [
            now, nonce, control.epoch, control.owner, str(top), action.action_id, action.stored(),
            action.fingerprint(spec), jsontext.dumps({"action": public, "at": now}),
            jsontext.dumps({**fold.dump(), "action": public}), action.expires_ms,
            settings.live_ttl_ms + longer_ms, settings.thread_ttl_ms + longer_ms,
            int(checkpoint is not None), checkpoint or b"", control.nonce, control.run_id,
            _check_time(action, now),
            *memories.arguments(memory),
        ],
        patience_s=patience_s,
    )  # fmt: skip
    match reply[0]:
        case b"paused":
            return Paused(epoch=int(reply[1]), deliveries=int(reply[2]) if len(reply) > 2 else 0)
        case b"stopping":
            return Stopping(reason=Reason(reply[1].decode()), epoch=int(reply[2]))
        case b"refused":
            return refused(reply)
        case b"moved":
            return Moved(top=cursors.parse(reply[1]))
        case _:
            return Gone()


def _check_time(action: Action, now: int) -> int:
    """Return when a sweeper looks at a pause: soon if its event may have come while it began."""
    may_be_there = action.wait is not None and not action.wait.is_timed
    return min(action.expires_ms, now + check_times.MESSAGE_MS) if may_be_there else action.expires_ms


def mark(fold: Content) -> dict[str, Any]:
    """Return where a content stands, so that later readers can tell what came before and after.

    `parts` there are, the last one with `chars` characters of text; `open` calls have no result yet; `usage`
    was spent.
    """
    last = fold.parts[-1] if fold.parts else None
    chars = len(last.text) if isinstance(last, TextPart) else 0
    return {
        "parts": len(fold.parts),
        "chars": chars,
        "open": fold.open_calls,
        "usage": usage.totals(fold.usage),
    }


async def resolve(
    store: Store,
    run_id: str,
    *,
    nonce: str,
    action_id: str,
    fingerprint: str,
    digest: str,
    decisions: dict[str, Any],
    kind: Literal[Type.APPROVAL_RESOLVED, Type.APPROVAL_EXPIRED],
    body: dict[str, Any],
    live_ttl_ms: int,
) -> Resolved | Decided | Expired | Stale | Stopping | Refused | Gone:
    """Queue a paused run again. `kind` APPROVAL_EXPIRED: only if the action's window is over."""
    k, now = keys.run(run_id), now_ms()
    reply = await store.verb(
        RESOLVE,
        [k.record, k.log, k.snapshot, k.checkpoint, k.active, k.effects],
        [
            now, nonce, action_id, fingerprint, digest, jsontext.dumps(decisions), kind.value,
            jsontext.dumps(body), live_ttl_ms, int(kind is Type.APPROVAL_EXPIRED), run_id,
            now + check_times.MESSAGE_MS,
        ],
    )  # fmt: skip
    return _resolution(reply)


def _resolution(reply: list[Any]) -> Resolved | Decided | Expired | Stale | Stopping | Refused | Gone:
    answer: Resolved | Decided | Expired | Stale | Stopping | Refused | Gone = Gone()
    match reply[0]:
        case b"resolved":
            answer = Resolved(epoch=int(reply[1]))
        case b"repeated" | b"conflict":
            answer = Decided(same=reply[0] == b"repeated")
        case b"expired":
            answer = Expired(epoch=int(reply[1]))
        case b"stale":
            answer = Stale()
        case b"stopping":
            answer = Stopping(reason=Reason(reply[1].decode()), epoch=int(reply[2]))
        case b"refused":
            answer = refused(reply)
        case _:
            pass
    return answer


async def checkpoint(
    store: Store,
    control: Control,
    *,
    cursor: Cursor,
    state: bytes,
    fold: bytes,
    live_ttl_ms: int,
    memory: memories.Changes | None = None,
    patience_s: float | None = None,
) -> bool | Refused | Gone:
    """Save an engine's state, which covers the log up to `cursor`; False if a later one is there.

    `fold` is the content as of then: a continuation that goes on from there goes back to it.
    `memory` is what changed in the engine's memory of the thread: stored with the state, or not at all.
    """
    k = keys.run(control.run_id)
    reply = await store.verb(
        CHECKPOINT,
        [k.record, k.log, k.checkpoint, k.thread, keys.memory(control.run_id, memory)],
        [
            control.epoch, control.owner, str(cursor), state, live_ttl_ms, fold, control.nonce,
            *memories.arguments(memory),
        ],
        patience_s=patience_s,
    )  # fmt: skip
    match reply[0]:
        case b"stored":
            return True
        case b"stale":
            return False
        case b"refused":
            return refused(reply)
        case _:
            return Gone()


async def load_checkpoint(store: Store, run_id: str, *, patience_s: float | None = None) -> bytes | None:
    """Return the state that an engine saved last, if any."""
    key = keys.run(run_id).checkpoint
    return await store.command("HGET", key, "state", patience_s=patience_s, large=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Up to where the last checkpoint covers the log, and the content as of then."""

    cursor: Cursor
    fold: bytes


async def last_checkpoint(store: Store, run_id: str) -> Checkpoint | None:
    """Return what the last checkpoint covers; None if there is none."""
    key = keys.run(run_id).checkpoint
    cursor, fold = await store.command("HMGET", key, "cursor", "fold", large=True)
    return None if fold is None else Checkpoint(cursor=cursors.parse(cursor), fold=fold)


async def read_action(store: Store, run_id: str, action_id: str) -> Waiting | Gone:
    """Read what a run waits for, without its content, to decide about it.

    Raises:
        NewerVersion: that is for processes of a later version.
    """
    resolution = Record.resolution.of(action_id)
    record = await read_fields(
        store,
        run_id,
        *(Record.spec, Record.status, Record.reason, Record.epoch, Record.action_id, Record.action),
        *(Record.fingerprint, Record.version, resolution),
    )
    if isinstance(record, Gone) or not record.has(Record.spec, Record.status, Record.epoch):
        return Gone()
    record.check_version()
    return Waiting(
        spec=record.spec,
        status=record.status,
        reason=record.reason,
        epoch=record.epoch,
        action_id=record.action_id,
        action=record.action,
        fingerprint=record.fingerprint,
        digest=record.value(resolution),
    )
