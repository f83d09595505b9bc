"""Resumes or expires a paused run: checks the request against the record's action, then calls `resolve`.

For `AsyncRuns`, the task `mainstem.resume` and sweepers.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from mainstem_shared import errors, guards, transitions
from mainstem_shared.model import actions, ids, runs
from mainstem_shared.model.actions import Action, ResumeRequest
from mainstem_shared.model.events import Type
from mainstem_shared.model.runs import Reason, Status
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations import ending, quotas
from mainstem_shared.operations.performing import RESOLVE, Operations
from mainstem_shared.transitions import Waiting

logger = logging.getLogger(__name__)

EXPIRED: Final = "expired"
"""Stands in for the digest of an action that nobody decided in time."""
NOBODY_DECIDED: Final = "Nobody decided in time."


async def resume(
    operations: Operations, run_id: str, request: ResumeRequest, *, by: str | None = None, sealer: str = ""
) -> None:
    """Decide about a paused run's action, so that a worker goes on with it; `by`: the user, for the log.

    The same request again is answered the same, as long as the run exists. An unavailable broker delays the
    continuation and is no error. Whether the caller may do this is for the caller to know.

    Raises:
        NotFound: there is no such run.
        NotPaused, StaleAction, DecisionConflict: the run waits for nothing, or not for this any more.
        ActionExpired: the action's window is over.
        UndecidedCall, InvalidDecision, DecisionNotAllowed: the decisions do not fit the action.
        InvalidRequest: a guard refuses what is said in them.
        TooManyRuns: the user has as many runs at work as may be; the run stays paused.
        StoreUnavailable: resumed or not; ask again with the same request.
    """
    seen = await transitions.read_action(operations.store, run_id, request.action_id)
    if isinstance(seen, transitions.Gone):
        raise errors.NotFound
    digest = request.digest()
    if seen.digest is not None:
        _compare(seen.digest, digest)
        return
    action = _action_of(seen, request.action_id)
    if now_ms() >= action.expires_ms:
        await _expire(operations, seen, action, sealer=sealer)
        await _tell_late(operations, run_id, request.action_id, digest)
        return
    decided = actions.judge(action, request)
    guards.check_resume(operations.settings.input_guards, request, seen.spec)
    await quotas.take(operations.store, operations.settings, seen.spec)
    answer = await _resolve(operations, seen, action, digest=digest, decided=decided, by=by)
    if not isinstance(answer, transitions.Resolved | transitions.Decided):
        await operations.indexes.release_slot(seen.spec)
    await _raise_unless_resolved(operations, run_id, request.action_id, digest, answer, sealer=sealer)


async def expire(operations: Operations, run_id: str, *, sealer: str = "") -> bool:
    """End a run whose action's window is over, or go on with rejections; False if it is not over.

    What it does is bound to the action it has seen: it cannot hit a newer one.
    """
    seen = await transitions.read_action(operations.store, run_id, "")
    if isinstance(seen, transitions.Gone) or seen.action is None or seen.status is not Status.REQUIRES_ACTION:
        return False
    if now_ms() < seen.action.expires_ms:
        return False
    await _expire(operations, seen, seen.action, sealer=sealer)
    return True


async def wake(
    operations: Operations, seen: Waiting, action: Action, *, digest: str, decided: list[dict[str, Any]]
) -> Any:
    """Let a run go on that waits for no human: with what it waited for. Returns the verb's answer.

    A user without a free slot is over the limit for as long as this takes: nobody waits for an answer.
    """
    return await _resolve(operations, seen, action, digest=digest, decided=decided)


def _action_of(seen: Waiting, action_id: str) -> Action:
    """Return the action that the run waits for, if it is this one."""
    if seen.status is not Status.REQUIRES_ACTION or seen.action is None:
        if seen.reason is Reason.APPROVAL_EXPIRED and seen.action_id == action_id:
            raise errors.ActionExpired
        raise errors.NotPaused(status=seen.status.value)
    if seen.action_id != action_id:
        raise errors.StaleAction
    return seen.action


async def _tell_late(operations: Operations, run_id: str, action_id: str, digest: str) -> None:
    """Tell a caller who came too late what became of the action: others may have been in time."""
    after = await transitions.read_action(operations.store, run_id, action_id)
    if isinstance(after, transitions.Gone):
        raise errors.NotFound
    if after.digest is not None:
        _compare(after.digest, digest)
        return
    if after.reason in {None, Reason.APPROVAL_EXPIRED}:
        raise errors.ActionExpired
    raise errors.NotPaused(status=after.status.value)


def _compare(first: str, mine: str) -> None:
    if first == EXPIRED:
        raise errors.ActionExpired
    if first != mine:
        raise errors.DecisionConflict


async def _resolve(
    operations: Operations,
    seen: Waiting,
    action: Action,
    *,
    digest: str,
    decided: list[dict[str, Any]],
    by: str | None = None,
) -> Any:
    """Have the verb decide who is first, and hand the run to a worker."""
    run_id = seen.spec.run_id
    kept = {"action_id": action.action_id, "kind": action.kind, "decisions": decided}

    async def deliver(answer: object) -> None:
        if isinstance(answer, transitions.Resolved):
            await operations.deliver(run_id)

    resolve = RESOLVE.of(
        run_id,
        nonce=ids.nonce(),
        action_id=action.action_id,
        fingerprint=seen.fingerprint,
        digest=digest,
        decisions={**kept, "asked": action.public(), "mark": action.mark},
        kind=Type.APPROVAL_EXPIRED if digest == EXPIRED else Type.APPROVAL_RESOLVED,
        body={**kept, "by": by, "at": now_ms()},
        live_ttl_ms=operations.settings.live_ttl_ms,
    )
    answer = await operations.perform(resolve, notify=deliver)
    if isinstance(answer, transitions.Resolved):
        logger.info("run resumed", extra={"action": "run_resumed", "run_id": run_id, "digest": digest})
    return answer


async def _raise_unless_resolved(
    operations: Operations, run_id: str, action_id: str, digest: str, answer: Any, *, sealer: str
) -> None:
    """Tell a caller who was not the first what it lost to."""
    match answer:
        case transitions.Resolved() | transitions.Decided(same=True):
            return
        case transitions.Decided():
            after = await transitions.read_action(operations.store, run_id, action_id)
            if isinstance(after, Waiting) and after.digest is not None:
                _compare(after.digest, digest)
            raise errors.DecisionConflict
        case transitions.Expired():
            await expire(operations, run_id, sealer=sealer)
            await _tell_late(operations, run_id, action_id, digest)
        case transitions.Stale():
            raise errors.StaleAction
        case transitions.Stopping():
            raise errors.NotPaused(status="being aborted")
        case transitions.Refused(status=status):
            after = await transitions.read_action(operations.store, run_id, action_id)
            if isinstance(after, Waiting) and after.reason is Reason.APPROVAL_EXPIRED:
                raise errors.ActionExpired
            raise errors.NotPaused(status=status.value)
        case _:
            raise errors.NotFound


async def _expire(operations: Operations, seen: Waiting, action: Action, *, sealer: str) -> None:
    run_id = seen.spec.run_id
    logger.info(
        "an action expired",
        extra={"action": "action_expired", "run_id": run_id, "on_expiry": action.on_expiry},
    )
    if action.on_expiry == "reject":
        # Nobody waits for an answer: a user without a free slot is over the limit for as long as this takes.
        await _resolve(
            operations,
            seen,
            action,
            digest=EXPIRED,
            decided=actions.rejected(action, NOBODY_DECIDED),
        )
        return
    error = runs.ErrorInfo(code=Reason.APPROVAL_EXPIRED.value, message=NOBODY_DECIDED)
    await ending.take_and_end(
        operations,
        run_id,
        sealer=sealer,
        reason=Reason.APPROVAL_EXPIRED,
        error=error,
        expected_epoch=seen.epoch,
    )
