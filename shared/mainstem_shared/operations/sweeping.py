"""A sweep settles runs whose owner died, publishes lost messages, expires actions, and tidies indexes.

Runs in every worker and every gateway. All effects are compare-and-set verbs, so that sweepers never need
to agree; a lock only spares them doing the same work at the same time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from mainstem_shared import errors, transitions
from mainstem_shared.coordination.suspicions import Suspicions, server_of
from mainstem_shared.metrics import catalogue as metrics
from mainstem_shared.metrics import labels
from mainstem_shared.model import runs
from mainstem_shared.model.record import Record
from mainstem_shared.model.runs import Reason, Status, WaitingFor
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations import (
    census,
    deleting,
    ending,
    migration,
    recovery,
    resuming,
    steering,
    trends,
    waits,
)
from mainstem_shared.operations.aborting import Abort, Aborter
from mainstem_shared.operations.archive_upkeep import Retention
from mainstem_shared.operations.archiving import UNAVAILABLE_HOLD_MS, Archiver
from mainstem_shared.operations.blob_collection import BlobCollector
from mainstem_shared.operations.due_work import HOLD_MS, SLICE, Drain
from mainstem_shared.operations.indexes import CALLBACKS, CHECKS, COMPACTIONS, Backlog, Indexes
from mainstem_shared.operations.performing import PROMOTE, Operations
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from mainstem_shared.store.nodes import Node
from mainstem_shared.store.redaction import redacted

logger = logging.getLogger(__name__)

JITTER: Final = 0.1
AT_ONCE: Final = 8
"""Runs of a slice that are checked side by side: a check is mostly waiting for the store."""
CHECK_LEASES: Final = 4
"""Leases (a minute, by default) after which a published message that nobody claimed is published again, then
ever less often; and after which a running run is looked at, for what watching its owner's lease misses."""
REPUBLISH_LAST_MS: Final = 15 * 60_000
START_GRACE_MS: Final = 60_000
"""An index entry without a record belongs to a start that never happened once it is this old."""
PAUSED_CHECK_MS: Final = 15 * 60_000
"""A paused run is checked when its action expires; this interval is for what that check misses."""
CHILDREN_CHECK_MS: Final = 15_000
"""How often a run that waits for its children is checked: one that a sweeper ended notifies nobody."""
TRIM_S: Final = 60.0
"""How often, at most, a process trims the lists of recent runs: a thousand commands each time."""
_WANTED: Final = (
    Record.waiting_for, Record.published_ms, Record.publish_count, Record.stop_reason, Record.spec,
    Record.queued_ms, Record.expires_ms, Record.owner, Record.sealed_ms, Record.inputs_total,
    Record.inputs_read,
)  # fmt: skip
UNREADABLE: Final = (ValueError, KeyError)
"""What a record raises that is damaged, or of a later version: one of them must not end a sweep."""


@dataclass(kw_only=True)
class Sweeper:
    """Sweeps every `sweep_s` seconds while `run` runs. `owner` tells this process's current incarnation."""

    operations: Operations
    owner: Callable[[], str]
    on_unseen: Callable[[], None] = lambda: None
    """Called when this process's own lease is not in the store that the sweep sees."""
    suspicions: Suspicions = field(default_factory=Suspicions)
    swept: int = 0
    drained: bool = True
    """Whether the last sweep left nothing that was due."""
    backlog: dict[str, tuple[int, float]] = field(default_factory=dict[str, tuple[int, float]])
    """How much work was due when the last sweep began, by kind, and for how many seconds the oldest."""
    census: census.Census | None = None
    """The figures of the whole store, as of the last sweep."""
    swept_at: float = field(default_factory=time.monotonic)
    """When the last complete sweep ended, on the monotonic clock; before the first, when this began."""
    store_up: bool = True
    _trimmed_at: float = -math.inf
    _due: dict[str, Backlog] = field(default_factory=dict[str, Backlog])
    _without_record: dict[str, int] = field(default_factory=dict[str, int])
    _broker_unavailable: bool = False
    _store_degraded: bool = False
    """Whether some of the store's servers were unavailable when this sweep began."""

    def __post_init__(self) -> None:
        self.archiver = Archiver(self.operations)
        self.drain = Drain(kinds={CHECKS: self._check_due, COMPACTIONS: self._compact_due})
        self._retention = Retention(self.operations)
        self._blobs = BlobCollector(self.operations.store, self.operations.settings)

    @property
    def _store(self) -> Store:
        return self.operations.store

    @property
    def servers(self) -> list[Node]:
        """The store's servers, as this process reaches them."""
        return list(self._store.connections.values())

    @property
    def _indexes(self) -> Indexes:
        return self.operations.indexes

    @property
    def _check_ms(self) -> int:
        return int(CHECK_LEASES * self.operations.settings.lease_s * 1000)

    async def run(self) -> None:
        """Sweep until cancelled. A failing sweep is logged and the next one tried."""
        every = self.operations.settings.sweep_s
        while True:
            if self.drained:
                await asyncio.sleep(every * random.uniform(1 - JITTER, 1 + JITTER))
            try:
                await self.sweep()
                metrics.SWEEPS.labels("ok").inc()
            except errors.Unavailable:
                self._failed()
                self.store_up = False
                logger.warning("sweep failed", extra={"action": "sweep_failed"}, exc_info=True)
            except Exception:
                self._failed()
                logger.exception("sweep failed", extra={"action": "sweep_failed"})

    def _failed(self) -> None:
        # Who could not be seen while the store was unavailable could not renew its lease either.
        self.suspicions.forget()
        metrics.SWEEPS.labels("failed").inc()

    async def sweep(self) -> None:
        """Do one round: settle what is lost, and all that is due, or as much as an interval has time for.

        While some of several servers are unavailable, what is due on the others is done; nobody is judged
        dead, and what spans servers waits.
        """
        self.drained = True  # also after a failure: the next sweep comes after a pause
        self._store_degraded = await self._check_servers()
        listed = await migration.learn(self._store)
        if not self._store_degraded:
            await self._recover_lost()
        elected = not self._store_degraded and await self._elected()
        self._due = await self._find_due(elected=elected)
        if self._store_degraded:
            self._due[COMPACTIONS] = Backlog()
        self.backlog = {kind: (due.count, due.since_s) for kind, due in self._due.items()}
        self.operations.hints.add(*self._due[CALLBACKS].indexes)
        self._broker_unavailable = False
        drained = await self.drain.run(self.operations.settings.sweep_s)
        for run_id, score in self._without_record.items():
            await self._indexes.check_at(run_id, score)  # its age is what counts
        self._without_record.clear()
        if self._store_degraded:
            self.census = await census.take_of_some(self._store, self._indexes, self._due, self.census)
        elif elected:
            await self.operations.readmit()
            await self._forget_expired()
            await migration.move(self._store, listed)
            self.census = await census.take(self._store, self._indexes, self._due)
        else:
            self.census = await census.latest(self._store)
        if not self._store_degraded:
            with contextlib.suppress(errors.Unavailable):  # out of memory, for one: the next sweep tells
                await trends.tell(self._store, self.census if elected else None)
        labels.know_engines([] if self.census is None else self.census.engines)
        self.swept += 1
        self.swept_at = time.monotonic()
        self.drained = drained

    async def _check_servers(self) -> bool:
        """Ask each server whether it is there; returns whether some are not."""
        unavailable = await self._store.unavailable()
        self.store_up = not unavailable
        if unavailable:
            self.suspicions.forget()  # together they are one witness
            noted = {"action": "servers_unavailable", "servers": [redacted(node.url) for node in unavailable]}
            logger.warning(
                "some of the store's servers are unavailable; what is due on them waits", extra=noted
            )
        return bool(unavailable)

    async def _elected(self) -> bool:
        """Tell whether this sweeper does, in this interval, what one has to do for all."""
        hold_ms = int(self.operations.settings.sweep_s * 900)
        holder = await self._store.command("SET", keys.SWEEP, self.owner(), "NX", "GET", "PX", hold_ms)
        return holder is None or holder.decode() == self.owner()

    async def _find_due(self, *, elected: bool) -> dict[str, Backlog]:
        """Return what is due: asked of every index by the elected sweeper, who shares it.

        Each index asked by each process would be thousands of commands a second for a hundred idle ones.
        """
        shared = None if elected or self._store_degraded else await self._indexes.shared_due()
        if shared is not None and {CHECKS, COMPACTIONS, CALLBACKS} <= shared.keys():
            return shared
        due = await self._indexes.due()
        if elected:
            await self._indexes.share_due(due, ttl_ms=int(self.operations.settings.sweep_s * 2000))
        return due

    # -- owners that died

    async def _recover_lost(self) -> None:
        """Settle the runs of processes that are dead by what this and former sweeps have seen."""
        (listed,) = await self._seen(("ZRANGE", keys.WORKERS, 0, -1))
        owners = [name.decode() for name in listed]
        alive = await self._seen(*(("EXISTS", keys.lease(owner)) for owner in owners))
        missing = {owner for owner, lives in zip(owners, alive, strict=True) if not lives}
        if self.owner() in missing:
            self.suspicions.forget()
            self.on_unseen()
            return
        server = await server_of(self._store)
        for owner in self.suspicions.judge(missing, server, grace_s=self.operations.settings.lease_s):
            (lives,) = await self._seen(("EXISTS", keys.lease(owner)))
            if not lives:  # it beats when it reaches a server
                await self._recover_runs_of(owner)

    async def _seen(self, *commands: tuple[Any, ...]) -> list[Any]:
        """Ask once, over the connections of `server_of`: one server is the witness, or the sweep fails."""
        return await self._store.commands(*commands, patience_s=0, large=True)

    async def _recover_runs_of(self, owner: str) -> None:
        left = False
        for run_id in await self._indexes.owned_by(owner):
            try:
                await self._recover_run_of(owner, run_id)
            except errors.NewerVersion:
                left = True  # for a sweeper of that version
            except UNREADABLE as error:
                self._cannot_read(run_id, error)
                left = True  # for a sweeper that can
        if left:
            return
        await self._indexes.drop_owner(owner)
        await self._store.command("DEL", keys.mailbox(owner), keys.mail_read(owner))
        await self._store.command("ZREM", keys.WORKERS, owner)

    async def _recover_run_of(self, owner: str, run_id: str) -> None:
        state = await transitions.read(self._store, run_id)
        if isinstance(state, transitions.State) and state.status is Status.RUNNING and state.owner == owner:
            await recovery.recover(self.operations, run_id, state, sealer=self.owner())
        await self._indexes.disown(owner, run_id)

    @staticmethod
    def _cannot_read(run_id: str, error: Exception) -> None:
        noted = {"action": "run_unreadable", "run_id": run_id}
        logger.error("a record is damaged, or of a later version", extra=noted, exc_info=error)

    # -- runs that are due for a look

    async def _check_due(self) -> list[int]:
        """Look at a slice of what is due; returns since when each was."""
        due = await self._indexes.take(self._due[CHECKS], limit=SLICE, hold_ms=HOLD_MS)
        now = now_ms()
        records = await transitions.read_many(self._store, [run_id for run_id, _ in due], *_WANTED)
        found = [(run_id, score, record) for (run_id, score), record in zip(due, records, strict=True)]
        for first in range(0, len(found), AT_ONCE):
            checks = (
                self._check_one(run_id, record, now=now, score=score)
                for run_id, score, record in found[first : first + AT_ONCE]
            )
            for failure in await asyncio.gather(*checks, return_exceptions=True):
                if self._store_degraded and isinstance(failure, errors.StoreUnavailable):
                    continue  # it needs an unavailable server: it is due again when its hold ends
                if failure is not None:
                    raise failure
        return [score for _, score in due]

    async def _check_one(
        self, run_id: str, record: Record | transitions.Gone, *, now: int, score: int
    ) -> None:
        if isinstance(record, transitions.Gone):
            if now - score > START_GRACE_MS:
                await self._indexes.not_there(run_id)
            else:
                self._without_record[run_id] = score
            return
        try:
            publish = await self._check(run_id, record, now=now, publish=not self._broker_unavailable)
            self._broker_unavailable = self._broker_unavailable or not publish
        except errors.NewerVersion:
            await self._check_again(run_id, now + int(self.operations.settings.sweep_s * 1000))
        except UNREADABLE as error:
            self._cannot_read(run_id, error)
            await self._check_again(run_id, now + self._check_ms)

    async def _check(self, run_id: str, record: Record, *, now: int, publish: bool) -> bool:
        """Do what one run needs; False once the broker turned out to be unavailable."""
        status = record.status
        if status.is_terminal:
            await self._indexes.not_there(run_id)
        elif record.stop_reason is not None:
            await self._pursue(run_id, record.stop_reason)
        elif status is Status.QUEUED and record.waiting_for is WaitingFor.WORKER:
            return await self._check_queued(run_id, record, now=now, publish=publish)
        elif status is Status.QUEUED:
            await self._check_waiting(run_id, now=now)
        elif status is Status.REQUIRES_ACTION:
            await self._check_paused(run_id, record.expires_ms, now=now)
        else:
            await self._check_running(run_id, record, now=now)
        return publish

    async def _check_running(self, run_id: str, record: Record, *, now: int) -> None:
        """Settle a run whose owner is listed nowhere, or that somebody took and then left alone."""
        await self._check_again(run_id, now + self._check_ms)
        owner = record.owner
        lives = (
            owner == self.owner()
            or self.suspicions.in_grace
            or await self._store.command("ZSCORE", keys.WORKERS, owner) is not None
            or await self._store.command("EXISTS", keys.lease(owner))
        )
        if lives and now - (record.sealed_ms or now) < self._check_ms:
            await self._tell_of_inputs(run_id, record)
            return
        state = await transitions.read(self._store, run_id)
        if isinstance(state, transitions.State) and (state.status, state.owner) == (Status.RUNNING, owner):
            await recovery.recover(self.operations, run_id, state, sealer=self.owner())

    async def _tell_of_inputs(self, run_id: str, record: Record) -> None:
        """Tell an owner of inputs that its engine has not read: the mail may never have been sent."""
        if record.inputs_total > record.inputs_read:
            await steering.notify_owner(self._store, run_id, record.owner)

    async def _pursue(self, run_id: str, reason: Reason) -> None:
        """Carry on an abort that was not carried out: end the run, or tell its owner once more."""
        aborter = Aborter(operations=self.operations, sealer=self.owner)
        with contextlib.suppress(errors.NotFound):
            if not isinstance(await aborter.pursue(run_id, reason=reason), Abort):
                await self._check_again(run_id, now_ms() + int(self.operations.settings.sweep_s * 1000))

    async def _check_waiting(self, run_id: str, *, now: int) -> None:
        """Hand a thread on whose holder is gone, and keep a run alive that waits for its turn."""
        settings = self.operations.settings
        promote = PROMOTE.of(run_id, live_ttl_ms=settings.live_ttl_ms, thread_ttl_ms=settings.thread_ttl_ms)
        await self.operations.perform(promote, notify=self._deliver_promoted)
        await self._check_again(run_id, now + self._check_ms)

    async def _deliver_promoted(self, answer: object) -> None:
        if isinstance(answer, str):
            logger.warning("a thread was free", extra={"action": "thread_promoted", "run_id": answer})
            await self.operations.deliver(answer)

    async def _check_paused(self, run_id: str, expires_ms: int | None, *, now: int) -> None:
        """Expire what nobody decided in time. Other looks are for a resume that crashed on its way."""
        if expires_ms is None:
            raise ValueError("a paused run whose action never expires")
        if now >= expires_ms:
            await resuming.expire(self.operations, run_id, sealer=self.owner())
            return
        woken = await waits.check(self.operations, run_id)
        if not woken:  # children may end without telling their parent
            pause_ms = PAUSED_CHECK_MS if woken is None else CHILDREN_CHECK_MS
            await self._check_again(run_id, min(expires_ms, now + pause_ms))

    async def _check_queued(self, run_id: str, record: Record, *, now: int, publish: bool) -> bool:
        queued_ms = record.queued_ms or record.spec.created_ms
        if now - queued_ms > self.operations.settings.max_queue_s * 1000:
            error = runs.ErrorInfo(code=Reason.NO_WORKER.value, message="No worker took the run in time.")
            await ending.take_and_end(
                self.operations, run_id, sealer=self.owner(), reason=Reason.NO_WORKER, error=error
            )
            return publish
        wait_ms = self._until_republished(record, now)
        if wait_ms > 0:
            await self._check_again(run_id, now + min(wait_ms, self._check_ms))
            return publish
        sweep_ms = int(self.operations.settings.sweep_s * 1000)
        if publish:
            publish = await self.operations.deliver(run_id)
        await self._check_again(run_id, now + sweep_ms)
        return publish

    def _until_republished(self, record: Record, now: int) -> int:
        """Milliseconds until the run's message is to be published again; 0 or less: now."""
        if record.published_ms is None:
            return 0
        repeats = max(record.publish_count - 1, 0)
        pause = min(self._check_ms * 2 ** min(repeats, 10), REPUBLISH_LAST_MS)
        return record.published_ms + pause - now

    async def _check_again(self, run_id: str, at_ms: int) -> None:
        await self._indexes.check_at(run_id, at_ms)

    # -- finished runs

    async def _compact_due(self) -> list[int]:
        """Drop the deltas of a slice of finished runs, and archive them; returns since when each was due."""
        hold_ms = UNAVAILABLE_HOLD_MS if self.archiver.is_unavailable else HOLD_MS
        due = await self._indexes.take(self._due[COMPACTIONS], limit=SLICE, hold_ms=hold_ms)
        run_ids = [run_id for run_id, _ in due]
        archived = self._store.archive is not None
        await transitions.compact_all(self._store, run_ids, keep_due=archived)
        if archived:
            await transitions.compact_all(self._store, await self.archiver.archive(run_ids))
        return [score for _, score in due]

    async def _forget_expired(self) -> None:
        for upkeep in (
            self._trim_sometimes,
            self._blobs.collect_sometimes,
            self._finish_deletions,
            self._retention.expire_sometimes,
        ):
            try:
                await upkeep()
            except (errors.Unavailable, OSError) as error:  # of archive or blobs: they are back some day
                noted = {"action": "upkeep_waits", "upkeep": upkeep.__qualname__, "why": repr(error)}
                logger.warning("what is to be removed waits", extra=noted)

    async def _trim_sometimes(self) -> None:
        """Take runs off the lists of recent ones whose retention is over: one command for each bucket."""
        if time.monotonic() - self._trimmed_at >= TRIM_S:
            self._trimmed_at = time.monotonic()
            settings = self.operations.settings
            await self._indexes.drop_old(now_ms() - settings.retention_ms - settings.live_ttl_ms)

    async def _finish_deletions(self) -> None:
        await deleting.finish_deletions(self.operations)
