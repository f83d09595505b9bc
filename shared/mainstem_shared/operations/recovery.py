"""Recovers a run whose worker is lost or stops: it goes back to the queue, or it ends.

For sweepers, for workers that find a run orphaned, and for segments at shutdown. A continuation goes on from
the engine's last checkpoint: what was emitted after it is emitted again, so `run.restarted` carries the
content as of then and readers replace theirs. Without a checkpoint the run begins from the start.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from mainstem_shared import transitions
from mainstem_shared.metrics import catalogue as metrics
from mainstem_shared.model import ids, jsontext, runs
from mainstem_shared.model.contents import UNREADABLE, Content
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.events import Type
from mainstem_shared.model.runs import Reason, Status
from mainstem_shared.operations import ending
from mainstem_shared.operations.performing import HANDOVER, AttemptLimit, Operations

logger = logging.getLogger(__name__)

ATTEMPTS: Final = 3
"""How often a lost run is given to another worker: one that kills its workers must not kill them all."""
LOST: Final = "The worker that ran this run was lost."


async def recover(
    operations: Operations, run_id: str, state: transitions.State, *, sealer: str, message: str = LOST
) -> None:
    """Give a run whose owner is gone to another worker, if it wants that; else end it.

    It ends as what was asked of it, else as lost. `state` is what the caller decided by: nothing happens if
    control has changed hands since.

    Raises:
        NewerVersion: it is for processes of a later version to recover.
    """
    state.check_version()
    reason, epoch = state.record.stop_reason or Reason.WORKER_LOST, state.epoch
    noted = {"action": "run_lost", "run_id": run_id, "owner": state.owner}
    logger.error("a run lost its worker", extra=noted)
    if reason is Reason.WORKER_LOST and _may_resume(state):
        left = await _requeue(operations, run_id, epoch, sealer=sealer)
        if left is None:
            metrics.RUNS_RECOVERED.labels("handed_over").inc()
            return
        epoch = left
    error = None
    if reason is Reason.WORKER_LOST:
        error = runs.ErrorInfo(code=reason.value, message=message)
    await ending.take_and_end(
        operations, run_id, sealer=sealer, reason=reason, error=error, expected_epoch=epoch
    )
    metrics.RUNS_RECOVERED.labels("ended").inc()


def _may_resume(state: transitions.State) -> bool:
    try:
        wanted = state.spec.on_worker_lost == "resume"
    except ValueError:
        return False  # nobody could execute what cannot be read: it ends
    return wanted and state.record.losses < ATTEMPTS


async def _requeue(operations: Operations, run_id: str, epoch: int, *, sealer: str) -> int | None:
    """Seal a run, fold what the store has of it, and give it back to the queue.

    Returns None if that is done, by us or by somebody else; the epoch in which the caller has control if
    nobody can go on from the run's checkpoint, because it is damaged.
    """
    rounds = AttemptLimit()
    while True:
        rounds.begin()
        state = await transitions.read(operations.store, run_id)
        if isinstance(state, transitions.Gone) or state.status is not Status.RUNNING or state.epoch != epoch:
            return None  # somebody else made progress
        control = await ending.take_control(
            operations, run_id, state, sealer=sealer, reason=Reason.WORKER_LOST
        )
        if control is None:
            continue
        if control.epoch != epoch:
            epoch = control.epoch
            continue  # sealed now: read what the former owner's last words were
        fold = ending.fold_of(state)
        try:
            resume_as, restart = await _continuation(operations, run_id, fold, state.top)
        except UNREADABLE:
            noted = {"action": "checkpoint_damaged", "run_id": run_id}
            logger.exception("a run's checkpoint cannot be read: it ends", extra=noted)
            return control.epoch
        cause = Reason.WORKER_LOST.value
        if await hand_over(
            operations,
            control,
            fold=fold,
            top=state.top,
            cause=cause,
            resume_as=resume_as,
            restart=restart,
            lost=True,
        ):
            return None


async def hand_over(
    operations: Operations,
    control: transitions.Control,
    *,
    fold: Content,
    top: Cursor,
    cause: str,
    resume_as: str | None = None,
    restart: bytes = b"",
    lost: bool = False,
    patience_s: float | None = None,
) -> bool:
    """Give a running run under the caller's control back to the queue; False if it is not (any more).

    `fold` covers the log up to `top`. `resume_as` is what its next claim writes, and `restart` the
    content with it; by default both follow from the last checkpoint. `lost` counts an attempt.
    """
    run_id = control.run_id
    if resume_as is None:
        resume_as, restart = await _continuation(operations, run_id, fold, top)

    async def deliver(answer: object) -> None:
        if isinstance(answer, int):
            await operations.deliver(run_id)

    handover = HANDOVER.of(
        control,
        nonce=ids.nonce(),
        top=top,
        resume_as=resume_as,
        cause=cause,
        state=jsontext.dumps(fold.dump()),
        live_ttl_ms=operations.settings.live_ttl_ms,
        lost=lost,
        restart=restart,
        patience_s=patience_s,
    )
    if not isinstance(await operations.perform(handover, notify=deliver), int):
        return False
    noted = {"action": "run_handed_over", "run_id": run_id, "cause": cause, "resume_as": resume_as}
    logger.warning("a run goes to another worker", extra=noted)
    return True


async def _continuation(operations: Operations, run_id: str, fold: Content, top: Cursor) -> tuple[str, bytes]:
    """Return how a run goes on, and the content that it restarts with, if it does."""
    checkpoint = await transitions.last_checkpoint(operations.store, run_id)
    if checkpoint is not None and checkpoint.cursor == top:
        return Type.RESUMED, b""
    known: dict[str, Any] = jsontext.loads(checkpoint.fold) if checkpoint is not None else Content().dump()
    # Whatever it waited for was decided. And what was spent stays spent.
    return Type.RESTARTED, jsontext.dumps({**known, "action": None, "usage": fold.usage})
