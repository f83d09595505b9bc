"""Aborts a run from anywhere: intent, then the owner's mailbox, then Celery's revocation, then the sweeper.

The intent in the record is the truth; everything after it only makes it come true sooner, and may be lost. A
run that nobody executes is ended here. For callers: `AsyncRuns`, starts that replace, sweepers, and the
worker that hears of an operator's revocation. What the owner does with the message is in `segments`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from mainstem_shared import errors, transitions
from mainstem_shared.coordination import mailboxes
from mainstem_shared.eventlog.reading.subscriptions import End
from mainstem_shared.eventlog.reading.tailer import Tailer
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.record import Record
from mainstem_shared.model.runs import Reason, Status
from mainstem_shared.operations import ending
from mainstem_shared.operations.performing import STOP, AttemptLimit, Operations, nobody
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store

logger = logging.getLogger(__name__)

READ_S: Final = 0.1
"""How long an abort waits for its message to be read, before all workers are told: it takes a millisecond."""
FIRST_POLL_S: Final = 0.002


class AbortOutcome(StrEnum):
    """What an abort reached."""

    ABORTED = "aborted"
    ALREADY_FINISHED = "already_finished"
    """It ended in another way, or before."""
    PENDING = "pending"
    """The intent is durable; the run will end as soon as its owner, or else a sweeper, acts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Abort:
    """An abort's answer.

    `won_from`: the status in which the run was when it was stopped; None unless it was aborted.
    `signal_delivered`: whether the owner is known to have heard of it; True if there is no owner to notify.
    """

    outcome: AbortOutcome
    won_from: Status | None = None
    signal_delivered: bool = False


class Revoker(Protocol):
    """What reaches Celery's workers: `mainstem_tasks.celery_support.publisher.CeleryPublisher`."""

    async def arevoke(self, task_id: str, *, terminate: bool = True) -> None:
        """Drop a task's message, and cancel the task if it runs."""
        ...


def no_sealer() -> str:
    """Return no incarnation: the caller holds no lease and must not take control of runs."""
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aborter:
    """Aborts runs for one process.

    `sealer` tells the caller's own leased incarnation, if it has one: with it, runs of dead owners are ended
    at once, without it by the next sweep.
    """

    operations: Operations
    revoker: Revoker | None = None
    tailer: Tailer | None = None
    sealer: Callable[[], str] = no_sealer

    @property
    def _store(self) -> Store:
        return self.operations.store

    async def abort(self, run_id: str, *, reason: Reason = Reason.USER_ABORT, wait_s: float = 0.0) -> Abort:
        """Stop a run and say what was reached, within about `wait_s`. Repeatable; the first reason stands.

        Raises:
            NotFound: there is no such run.
            StoreUnavailable: the intent may or may not stand.
        """
        done = await self.pursue(run_id, reason=reason)
        if isinstance(done, Abort):
            return done
        began = time.monotonic()
        heard = await self._until_read(done)
        # Who has read the message stops the run: no other worker needs to hear of it.
        async with self._revoking("" if heard else done.intent.task_id):
            await self._until_over(run_id, wait_s - (time.monotonic() - began))
        return await self._judge(run_id, done)

    async def pursue(self, run_id: str, *, reason: Reason) -> Abort | Notified:
        """Do the same without waiting: end the run if nobody executes it, else tell its owner."""
        rounds = AttemptLimit()
        while True:
            rounds.begin()
            intent, notified = await self._stop(run_id, reason)
            if isinstance(intent, transitions.Gone):
                return await self._gone(run_id)
            if isinstance(intent, transitions.Already):
                return Abort(outcome=AbortOutcome.ALREADY_FINISHED)
            if intent.children:
                await self._stop_children(run_id, reason)
            done = notified or await self._end(run_id, intent)
            if done is not None:
                return done

    async def _stop_children(self, run_id: str, reason: Reason) -> None:
        """Have the children of a run stop as well; a repeated abort finds those that were not notified."""
        listed = await self._store.command("SMEMBERS", keys.run_children(run_id), large=True)
        for child in sorted(raw.decode() for raw in listed):
            with contextlib.suppress(errors.NotFound):  # it was never started
                await self.pursue(child, reason=reason)

    async def _gone(self, run_id: str) -> Abort:
        """Answer about a run that the store does not have: the archive may."""
        if isinstance(await transitions.find_fields(self._store, run_id), transitions.Gone):
            raise errors.NotFound
        return Abort(outcome=AbortOutcome.ALREADY_FINISHED)

    async def _stop(
        self, run_id: str, reason: Reason
    ) -> tuple[transitions.Intended | transitions.Already | transitions.Gone, Notified | None]:
        """Make the intent durable, and tell the owner of a running run."""
        notified: Notified | None = None

        async def notify(answer: object) -> None:
            nonlocal notified
            if isinstance(answer, transitions.Intended) and await self._is_owners_to_end(answer):
                mail = mailboxes.StopMessage(run_id=run_id, reason=answer.reason)
                notified = Notified(
                    intent=answer, message=await mailboxes.post(self._store, answer.owner, mail)
                )

        return await self.operations.perform(STOP.of(run_id, reason=reason), notify=notify), notified

    async def _is_owners_to_end(self, intent: transitions.Intended) -> bool:
        """Whether somebody executes the run who is alive, as far as we may judge that."""
        return intent.status is Status.RUNNING and not await self._may_take_from(intent.owner)

    async def _may_take_from(self, owner: str) -> bool:
        """Whether the owner has no lease, and we have one."""
        if not self.sealer():
            return False
        return not await self._store.command("EXISTS", keys.lease(owner))

    # -- nobody executes it

    async def _end(self, run_id: str, intent: transitions.Intended) -> Abort | None:
        """End a run as long as nothing has changed since the stop intent; None if something has."""
        ended = await ending.take_and_end(
            self.operations, run_id, sealer=self.sealer(), reason=intent.reason, expected_epoch=intent.epoch
        )
        if ended is None:
            return await self._gone(run_id)
        if ended.mine:
            await self._drop_message(intent)
        elif not ended.status.is_terminal:
            return None
        elif ended.reason is not intent.reason:
            return Abort(outcome=AbortOutcome.ALREADY_FINISHED)
        return Abort(
            outcome=AbortOutcome.ABORTED,
            won_from=intent.status,
            signal_delivered=intent.status is not Status.RUNNING,
        )

    async def _drop_message(self, intent: transitions.Intended) -> None:
        """Spare a worker the message: without this it is refused by the claim."""
        if intent.status is Status.QUEUED:
            async with self._revoking(intent.task_id):
                pass

    # -- somebody executes it

    @asynccontextmanager
    async def _revoking(self, task_id: str) -> AsyncGenerator[None]:
        """Have Celery revoke the task meanwhile. An unavailable broker or frozen is not waited for long."""
        if self.revoker is None or not task_id:
            yield
            return
        revoking = asyncio.ensure_future(self.revoker.arevoke(task_id, terminate=True))
        try:
            yield
            await asyncio.wait({revoking}, timeout=READ_S)
        finally:
            revoking.cancel()
            for failure in await asyncio.gather(revoking, return_exceptions=True):
                if isinstance(failure, Exception):
                    logger.info(
                        "the broker did not take a revocation; the mailbox has it",
                        extra={"action": "revoke_failed", "task_id": task_id, "why": repr(failure)},
                    )

    async def _until_over(self, run_id: str, wait_s: float) -> None:
        if wait_s <= 0 or self.tailer is None:
            return
        with contextlib.suppress(TimeoutError, errors.StoreUnavailable, errors.NotFound):
            async with asyncio.timeout(wait_s):
                await until_over(self.tailer, self._store, run_id)

    async def _until_read(self, notified: Notified) -> bool:
        """Wait for the owner to read its message; False if it does not for a while."""
        deadline, pause = time.monotonic() + READ_S, FIRST_POLL_S
        while not await mailboxes.is_read(self._store, notified.intent.owner, notified.message):
            if time.monotonic() + pause > deadline:
                return False
            await asyncio.sleep(pause)
            pause *= 2
        return True

    async def _judge(self, run_id: str, notified: Notified) -> Abort:
        """Say what has become of it."""
        intent = notified.intent
        record = await transitions.find_fields(self._store, run_id, Record.reason, Record.owner)
        if isinstance(record, transitions.Gone) or not record.has(Record.status):
            raise errors.NotFound
        is_over = record.status.is_terminal
        heard = (is_over and record.owner == intent.owner) or await mailboxes.is_read(
            self._store, intent.owner, notified.message
        )
        if not is_over:
            return Abort(outcome=AbortOutcome.PENDING, signal_delivered=heard)
        if record.reason is not intent.reason:
            return Abort(outcome=AbortOutcome.ALREADY_FINISHED, signal_delivered=heard)
        return Abort(outcome=AbortOutcome.ABORTED, won_from=intent.status, signal_delivered=heard)


@dataclass(frozen=True, slots=True, kw_only=True)
class Notified:
    """The owner of a running run was sent the message to stop it."""

    intent: transitions.Intended
    message: Cursor


async def until_over(tailer: Tailer, store: Store, run_id: str) -> bool:
    """Wait for a run's end, without reading its past; False if this process stops serving before.

    Raises:
        NotFound: there is no such run (any more).
        StoreUnavailable: the store does not answer.
    """
    seen = await transitions.peek(store, run_id)
    if isinstance(seen, transitions.Gone):
        if isinstance(await transitions.find_fields(store, run_id), transitions.Gone):
            raise errors.NotFound
        return True  # the archive has runs that are over
    if seen.status.is_terminal:
        return True
    async with tailer.subscribe(run_id, after=seen.top) as subscription:
        async for _ in subscription:
            pass
        if subscription.end is End.GONE:
            raise errors.NotFound
        return subscription.end is End.FINISHED


async def end_by_force(aborter: Aborter, run_id: str, *, reason: Reason = Reason.USER_ABORT) -> Status:
    """Take a run from whoever has it, and end it now; returns what it ended as. Its engine gets no say.

    Raises:
        NotFound: there is no such run.
        StoreUnavailable: try again.
    """
    # Nobody is notified: the owner loses the run here. If we die on the way, the stop's check finds it.
    intent = await aborter.operations.perform(STOP.of(run_id, reason=reason), notify=nobody)
    recorded = intent.reason if isinstance(intent, transitions.Intended) else reason
    ended = await ending.take_and_end(aborter.operations, run_id, sealer=aborter.sealer(), reason=recorded)
    if ended is None:
        raise errors.NotFound
    return ended.status
