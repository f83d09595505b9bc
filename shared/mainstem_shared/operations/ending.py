"""Ends a run: seal, fold, finish. The one path for its owner, an aborter, a sweeper and an expirer.

The owner has control and the fold already; anybody else takes control first (`seal`), so that nothing the
former owner still sends can land, and folds what the store has. Then the same `finish`.

Pairs across slots, in the order written: the record (truth) first, then the indexes. A crash in between
leaves an entry in `ACTIVE` whose record is over: a sweeper calls `tidy` again.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from typing import Any, Final

from mainstem_shared import errors, transitions
from mainstem_shared.coordination import outbox
from mainstem_shared.model import contents, ids, runs, salvage
from mainstem_shared.model.contents import Content
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.runs import Reason, Status
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations import quotas
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store

logger = logging.getLogger(__name__)

_Ended = (
    transitions.Finished | transitions.Already | transitions.Refused | transitions.Moved | transitions.Gone
)

ROUNDS: Final = 20
"""Control may change hands while we fold; each round somebody else made progress."""
NEVER_ANSWERED: Final = "The run ended before this tool call was answered."


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended, whoever ended it."""

    status: Status
    reason: Reason
    mine: bool
    """Whether this call ended it; otherwise it was over before, or is somebody else's to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finaliser:
    """What ending a run needs; one per process."""

    store: Store
    settings: Settings
    publisher: outbox.Publisher

    async def finish(
        self,
        control: transitions.Control,
        *,
        fold: Content,
        top: Cursor,
        reason: Reason,
        error: runs.ErrorInfo | None = None,
        patience_s: float | None = None,
    ) -> (
        transitions.Finished
        | transitions.Already
        | transitions.Refused
        | transitions.Moved
        | transitions.Gone
    ):
        """End a run under the caller's control, whose fold covers the log up to `top`.

        Content cannot keep a run from ending: what cannot be stored is left out, and the error says so.
        """
        fold.action = None  # what it waited for, nobody has to decide any more
        if (
            reason is not Reason.COMPLETED
        ):  # an engine that completes may leave calls for its caller to answer
            close_open_calls(fold)
        if fold.damaged and error is None:
            reason, error = _outcome_of_damaged(reason)
        try:
            return await self._finish(
                control, fold=fold, top=top, reason=reason, error=error, patience_s=patience_s
            )
        except ValueError:
            noted = {"action": "content_damaged", "run_id": control.run_id}
            logger.exception("a run's content cannot be stored; ending it without", extra=noted)
        reason, error = (reason, error) if error is not None else _outcome_of_damaged(reason)
        return await self._finish(
            control, fold=salvage.readable(fold), top=top, reason=reason, error=error, patience_s=patience_s
        )

    async def _finish(
        self,
        control: transitions.Control,
        *,
        fold: Content,
        top: Cursor,
        reason: Reason,
        error: runs.ErrorInfo | None,
        patience_s: float | None,
    ) -> (
        transitions.Finished
        | transitions.Already
        | transitions.Refused
        | transitions.Moved
        | transitions.Gone
    ):
        attempt = functools.partial(
            transitions.finish,
            self.store,
            control,
            nonce=ids.nonce(),
            reason=reason,
            state=fold.dump(),
            error=error,
            retention_ms=self.settings.retention_ms,
            inputs_read=len(fold.inputs),
            patience_s=patience_s,
        )
        outcome = await attempt(top=top)
        if isinstance(outcome, transitions.Moved) and outcome.top < top:
            # The store lost acknowledged entries after the last one was written. The fold has them all.
            outcome = await attempt(top=outcome.top)
        if isinstance(outcome, transitions.Finished):
            logger.info(
                "run ended",
                extra={"action": "run_finished", "run_id": control.run_id, "reason": reason.value},
            )
            await self.tidy(control.run_id, owner=control.owner, next_run=outcome.next_run)
        return outcome

    async def settle(
        self,
        run_id: str,
        *,
        sealer: str,
        reason: Reason,
        error: runs.ErrorInfo | None = None,
        expected_epoch: int | None = None,
    ) -> Outcome | None:
        """End a run that is not the caller's, whatever state it is in; None if there is no such run.

        Args:
            run_id: the run to end.
            sealer: the caller's own process incarnation: if it dies on the way, sweepers take over from it.
            reason: why it ends.
            error: what failed, if anything did.
            expected_epoch: leave the run alone if control has changed hands since this epoch.

        Raises:
            NewerVersion: it is for processes of a later version to end.
            StoreUnavailable: it has not ended, or has.
        """
        for _ in range(ROUNDS):
            state = await transitions.read(self.store, run_id)
            if isinstance(state, transitions.Gone):
                return None
            if state.status.is_terminal:
                return Outcome(status=state.status, reason=Reason(state.fields["reason"]), mine=False)
            if expected_epoch is not None and state.epoch != expected_epoch:
                return Outcome(status=state.status, reason=reason, mine=False)
            state.check_version()
            control = await self.take_control(run_id, state, sealer=sealer, reason=reason)
            if control is None:
                continue  # somebody else made progress
            if control.epoch != state.epoch:
                expected_epoch = expected_epoch and control.epoch
                continue  # sealed now: read what the former owner's last words were
            outcome = await self.finish(
                control, fold=fold_of(state), top=state.top, reason=reason, error=error
            )
            if isinstance(outcome, transitions.Finished):
                return Outcome(status=reason.status, reason=reason, mine=True)
        raise errors.StoreUnavailable("The run's control kept changing hands; try again.")

    async def take_control(
        self, run_id: str, state: transitions.State, *, sealer: str, reason: Reason
    ) -> transitions.Control | None:
        """Return control of the run: as read if nobody (or we) have it, else by sealing it; else None."""
        if state.status is not Status.RUNNING:
            return transitions.Control(run_id=run_id, epoch=state.epoch, owner="")
        if state.owner == sealer and state.fields.get("sealed"):
            return transitions.Control(run_id=run_id, epoch=state.epoch, owner=sealer)
        await own(self.store, sealer, run_id, ttl_ms=self.settings.live_ttl_ms)
        sealed = await transitions.seal(
            self.store, run_id, nonce=ids.nonce(), sealer=sealer, epoch=state.epoch, cause=reason.value
        )
        if not isinstance(sealed, transitions.Control):
            return None
        logger.warning(
            "took a run from its owner",
            extra={"action": "run_sealed", "run_id": run_id, "epoch": sealed.epoch, "from": state.owner},
        )
        return sealed

    async def tidy(self, run_id: str, *, owner: str = "", next_run: str | None = None) -> None:
        """Bring the indexes in line with a run that is over, and hand its thread to the next one.

        Best effort: a sweeper repeats what a crash or an absent store left undone.
        """
        try:
            due = now_ms() + int(self.settings.compact_after_s * 1000)
            indexes: list[tuple[Any, ...]] = [
                ("ZADD", keys.COMPACT, due, run_id),
                ("ZREM", keys.ACTIVE, run_id),
            ]
            if owner:
                indexes.append(("SREM", keys.owned(owner), run_id))
            await self.store.shared.call(*indexes)
            await self._release_slot(run_id)
            if next_run:
                await self.deliver(next_run)
        except Exception:
            logger.warning(
                "indexes lag behind", extra={"action": "tidy_failed", "run_id": run_id}, exc_info=True
            )

    async def _release_slot(self, run_id: str) -> None:
        if not self.settings.max_active_runs_per_user:
            return
        if (spec := await self.store.client.hget(keys.run(run_id).record, "spec")) is not None:
            owner = runs.Spec.model_validate_json(spec)
            await quotas.release(self.store, tenant=owner.tenant, user_id=owner.user_id, run_id=run_id)

    async def deliver(self, run_id: str) -> bool:
        """Publish the message of a queued run."""
        state = await transitions.read(self.store, run_id)
        if isinstance(state, transitions.Gone) or state.status is not Status.QUEUED:
            return False
        spec = state.spec
        return await outbox.deliver(
            self.store,
            self.publisher,
            run_id=run_id,
            user_id=spec.user_id,
            engine=spec.engine,
            descent=outbox.descent_of(spec, state.fields),
        )


async def own(store: Store, owner: str, run_id: str, *, ttl_ms: int, patience_s: float | None = None) -> None:
    """List a run among those of `owner`, before it takes control: a crash in between is harmless."""
    key = keys.owned(owner)
    await store.patiently(
        lambda: store.shared.call(("SADD", key, run_id), ("PEXPIRE", key, ttl_ms)), patience_s=patience_s
    )


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
