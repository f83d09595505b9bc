"""Ends a run: seal, fold, finish. The one path for its owner, an aborter, a sweeper and an expirer.

The owner has control and the fold already; anybody else takes control first (`seal`), so that nothing the
former owner still sends can land, and folds what the store has. Then the same `finish`.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from typing import Any, Final

from mainstem_shared import transitions
from mainstem_shared.metrics import catalogue as metrics
from mainstem_shared.metrics import labels
from mainstem_shared.model import contents, ids, runs, salvage
from mainstem_shared.model.contents import Content
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.memories import Changes
from mainstem_shared.model.runs import Reason, Spec, Status
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations import callback_policy
from mainstem_shared.operations.performing import FINISH, SEAL, AttemptLimit, Operations, nobody
from mainstem_shared.operations.spending import Spending
from mainstem_shared.transitions import Control

logger = logging.getLogger(__name__)

NEVER_ANSWERED: Final = "The run ended before this tool call was answered."


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedRun:
    """How a run ended, whoever ended it."""

    status: Status
    reason: Reason
    mine: bool
    """Whether this call ended it; otherwise it was over before, or is somebody else's to end."""


async def finish(
    operations: Operations,
    control: Control,
    *,
    fold: Content,
    top: Cursor,
    reason: Reason,
    error: runs.ErrorInfo | None = None,
    memory: Changes | None = None,
    patience_s: float | None = None,
) -> transitions.Finished | transitions.Already | transitions.Refused | transitions.Moved | transitions.Gone:
    """End a run under the caller's control, whose fold covers the log up to `top`.

    Content cannot keep a run from ending: what cannot be stored is left out, and the error says so.
    `memory` is what changed in its engine's memory of the thread.
    """
    fold.action = None  # what it waited for, nobody has to decide any more
    if reason is not Reason.COMPLETED:  # an engine that completes may leave calls for its caller to answer
        close_open_calls(fold)
    if fold.damaged and error is None:
        reason, error = _outcome_of_damaged(reason)
    end = functools.partial(_finish, operations, control, top=top, memory=memory, patience_s=patience_s)
    try:
        return await end(fold=fold, reason=reason, error=error)
    except ValueError:
        noted = {"action": "content_damaged", "run_id": control.run_id}
        logger.exception("a run's content cannot be stored; ending it without", extra=noted)
    reason, error = (reason, error) if error is not None else _outcome_of_damaged(reason)
    return await end(fold=salvage.readable(fold), reason=reason, error=error)


async def _finish(
    operations: Operations,
    control: Control,
    *,
    fold: Content,
    top: Cursor,
    reason: Reason,
    error: runs.ErrorInfo | None,
    memory: Changes | None,
    patience_s: float | None,
) -> transitions.Finished | transitions.Already | transitions.Refused | transitions.Moved | transitions.Gone:
    nonce, state = ids.nonce(), fold.dump()

    async def hand_on(answer: object) -> None:
        if isinstance(answer, transitions.Finished) and answer.next_run:
            await operations.deliver(answer.next_run)

    async def attempt(top: Cursor) -> Any:
        end = FINISH.of(
            control,
            nonce=nonce,
            top=top,
            reason=reason,
            state=state,
            error=error,
            retention_ms=operations.settings.retention_ms,
            compact_after_ms=int(operations.settings.compact_after_s * 1000),
            inputs_read=len(fold.inputs),
            memory=memory,
            everyone=callback_policy.everyone_stored(operations.settings),
            patience_s=patience_s,
        )
        return await operations.perform(end, notify=hand_on)

    outcome = await attempt(top)
    if isinstance(outcome, transitions.Moved) and outcome.top < top:
        # The store lost acknowledged entries after the last one was written. The fold has them all.
        outcome = await attempt(outcome.top)
    if isinstance(outcome, transitions.Finished):
        noted = {"action": "run_finished", "run_id": control.run_id, "reason": reason.value}
        logger.info("run ended", extra=noted)
    return outcome


async def take_and_end(
    operations: Operations,
    run_id: str,
    *,
    sealer: str,
    reason: Reason,
    error: runs.ErrorInfo | None = None,
    expected_epoch: int | None = None,
) -> EndedRun | None:
    """End a run that is not the caller's, whatever state it is in; None if there is no such run.

    Args:
        operations: how.
        run_id: the run to end.
        sealer: the caller's own process incarnation: if it dies on the way, sweepers take over from it.
        reason: why it ends.
        error: what failed, if anything did.
        expected_epoch: leave the run alone if control has changed hands since this epoch.

    Raises:
        NewerVersion: it is for processes of a later version to end.
        StoreUnavailable: it has not ended, or has.
    """
    rounds = AttemptLimit()
    while True:
        rounds.begin()
        state = await transitions.read(operations.store, run_id)
        if isinstance(state, transitions.Gone):
            return None
        if state.status.is_terminal:
            return EndedRun(status=state.status, reason=_reason_of(state), mine=False)
        if expected_epoch is not None and state.epoch != expected_epoch:
            return EndedRun(status=state.status, reason=reason, mine=False)
        state.check_version()
        control = await take_control(operations, run_id, state, sealer=sealer, reason=reason)
        if control is None:
            continue  # somebody else made progress
        if control.epoch != state.epoch:
            expected_epoch = expected_epoch and control.epoch
            continue  # sealed now: read what the former owner's last words were
        outcome = await finish(
            operations, control, fold=fold_of(state), top=state.top, reason=reason, error=error
        )
        if isinstance(outcome, transitions.Finished):
            count(_spec_of(state), reason)
            return EndedRun(status=reason.status, reason=reason, mine=True)


def count(spec: Spec | None, reason: Reason) -> None:
    """Count a run that this process ended."""
    engine, result = labels.OTHER if spec is None else labels.engine(spec.engine), reason.status.value
    metrics.RUNS_ENDED.labels(engine, result, reason.value).inc()
    if spec is not None:
        metrics.RUN_DURATION.labels(engine, result).observe(max(0, now_ms() - spec.created_ms) / 1000)


def _spec_of(state: transitions.State) -> Spec | None:
    try:
        return state.spec
    except contents.UNREADABLE:
        return None  # a damaged record ends as well


def _reason_of(state: transitions.State) -> Reason:
    if state.record.reason is None:
        raise ValueError("a record that is over, without its reason")
    return state.record.reason


async def take_control(
    operations: Operations, run_id: str, state: transitions.State, *, sealer: str, reason: Reason
) -> Control | None:
    """Return control of the run: as read if nobody (or we) have it, else by sealing it; else None."""
    if state.status is not Status.RUNNING:
        return state.control
    if state.owner == sealer and state.record.sealed_ms:
        await _settle_calls(operations, state)
        return state.control
    seal = SEAL.of(
        run_id,
        nonce=ids.nonce(),
        sealer=sealer,
        epoch=state.epoch,
        control=state.control.nonce,
        cause=reason.value,
    )
    sealed = await operations.perform(seal, notify=nobody)
    if not isinstance(sealed, Control):
        return None
    logger.warning(
        "took a run from its owner",
        extra={"action": "run_sealed", "run_id": run_id, "epoch": sealed.epoch, "from": state.owner},
    )
    return sealed


async def _settle_calls(operations: Operations, state: transitions.State) -> None:
    """Charge the provider calls that a lost owner left open, before the run ends or goes on elsewhere."""
    try:
        accounts = Spending(operations.store, operations.settings, state.spec)
    except contents.UNREADABLE:
        return  # nobody can tell whose they are
    await accounts.settle_open()


def _outcome_of_damaged(reason: Reason) -> tuple[Reason, runs.ErrorInfo]:
    """Return how a run ends that should end so, but has lost content: that is no success."""
    damaged = Reason.ENGINE_ERROR if reason is Reason.COMPLETED else reason
    return damaged, salvage.CONTENT_DAMAGED


def fold_of(state: transitions.State) -> Content:
    """Fold a state's snapshot and the entries after it, into what can be stored again. It never fails."""
    fold = contents.fold(state.entries, state.snapshot_state or None)
    return salvage.readable(fold) if salvage.is_nested(fold) else fold


def close_open_calls(fold: Content) -> None:
    """Give unanswered tool calls a synthetic result: models refuse a history with dangling calls."""
    for call_id in fold.open_calls:
        fold.apply(
            "step.completed",
            {
                "step_id": call_id,
                "state": "aborted",
                "result": {"error": {"code": "aborted", "message": NEVER_ANSWERED}},
                "at": now_ms(),
            },
        )
