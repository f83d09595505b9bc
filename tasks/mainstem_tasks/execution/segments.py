"""A segment executes one Celery task's work on a run, from the claim to the terminal event, or to a pause.

The engine runs in a task of its own. Whoever stops it records the cause first and cancels once; the run's
outcome follows from the cause, never from the exception. Finalisation runs in a task that no cancel reaches.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from typing import Any, Final, TypeVar

from celery.exceptions import SoftTimeLimitExceeded

from mainstem_shared import errors, transitions
from mainstem_shared.coordination import clocks
from mainstem_shared.eventlog.writing.channels import Channel, Phase
from mainstem_shared.model import actions, contents, ids, jsontext
from mainstem_shared.model.contents import Content
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.events import Type
from mainstem_shared.model.memories import Changes
from mainstem_shared.model.runs import Reason, Status
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations import children, ending, recovery, waits
from mainstem_shared.operations.performing import CLAIM, PAUSE, STOP, BoundTransition, nobody
from mainstem_tasks.celery_support.cancellation import CancelCause, cancel_cause
from mainstem_tasks.execution import effects, histories, memories, time_limits, verdicts
from mainstem_tasks.execution.accounts import StoredAccounts
from mainstem_tasks.execution.inputs import Inputs
from mainstem_tasks.execution.last_resort import FINISH_PATIENCE_S, NOTHING_TO_DO, end_as_it_stands
from mainstem_tasks.execution.owner_transitions import as_owner, let_go
from mainstem_tasks.execution.runtime import Runtime, StopCause
from mainstem_tasks.execution.segment_metrics import SegmentMetrics, observed
from mainstem_tasks.execution.uncancelled import uncancelled
from mainstem_tasks.execution.verdicts import Exited, Verdict
from mainstem_tasks.sdk import context, registry
from mainstem_tasks.sdk.inboxes import Inbox
from mainstem_tasks.sdk.pauses import Pause, is_only_a_pause

R = TypeVar("R")

logger = logging.getLogger(__name__)

CLAIM_PATIENCE_S: Final = 60.0
"""The message is acknowledged already: a claim that gives up leaves the run to the outbox."""
STORE_PATIENCE_S: Final = 300.0
"""A claimed run waits as long for an unavailable store: with its past, and with its checkpoints."""
CLEANUP_S: Final = 30.0
"""An engine's `finally` may take this long after a stop; then the run ends without it."""
PAUSED: Final = "paused"
"""What `execute` returns for a run that waits for a human now."""
HANDED_OVER: Final = "handed over"
"""What it returns for a run that goes on elsewhere."""
ABORTED_BEFORE: Final = "aborted before"
"""The result of a run that was aborted before any worker claimed it."""


async def execute(runtime: Runtime, run_id: str, *, task_id: str) -> str:
    """Claim a run, execute its engine and end it; returns what happened, for the task's result.

    A message is only a hint: a duplicate, stale or redelivered one is refused by the claim, without effect.

    Raises:
        StoreUnavailable: the store stayed unavailable; the outbox delivers the run again.
    """
    owner = runtime.lease.owner
    claim = CLAIM.of(
        run_id,
        nonce=ids.nonce(),
        owner=owner,
        is_current=lambda: runtime.lease.owner == owner,
        task_id=task_id,
        live_ttl_ms=runtime.settings.live_ttl_ms,
        patience_s=CLAIM_PATIENCE_S,
    )
    runtime.claiming[run_id] = None
    try:
        # Not to be cancelled: a claim that landed and was forgotten would orphan the run.
        claimed = await uncancelled(_claimed(runtime, claim))
    except contents.UNREADABLE:  # it may have landed: nobody else would end the run
        logger.exception("a record is damaged", extra={"action": "run_unreadable", "run_id": run_id})
        claimed = None
    finally:
        overtaken_by = runtime.claiming.pop(run_id, None)
        addressed = run_id in runtime.addressed
        runtime.addressed.discard(run_id)
    match claimed:
        case transitions.Claimed():
            segment = Segment(runtime, run_id, owner, claimed, addressed=addressed)
            if overtaken_by is not None:
                segment.stop_for(overtaken_by)
            with observed(claimed, task_id=task_id) as span:
                return span.ended(await segment.execute())
        case None:
            return await end_as_it_stands(runtime, transitions.Control(run_id=run_id, epoch=0, owner=owner))
        case transitions.Stopping(reason=reason):
            await ending.take_and_end(runtime.operations, run_id, sealer=owner, reason=reason)
            return reason.value
        case transitions.Refused(status=Status.ABORTED):
            return ABORTED_BEFORE
        case transitions.Newer(version=version):
            noted = {"action": "run_newer", "run_id": run_id, "version": version}
            logger.info("a run of a later version is left to its workers", extra=noted)
        case _:
            logger.info("nothing to claim", extra={"action": "claim_refused", "run_id": run_id})
    return NOTHING_TO_DO


async def _claimed(runtime: Runtime, claim: BoundTransition[R]) -> R:
    await runtime.operations.recent_changes.wait_for_repairs()
    return await runtime.operations.perform(claim, notify=nobody)


class Segment:
    """One claimed run on this process."""

    def __init__(
        self,
        runtime: Runtime,
        run_id: str,
        owner: str,
        claimed: transitions.Claimed,
        *,
        addressed: bool = False,
    ) -> None:
        self.run_id = run_id
        self.cause: StopCause | None = None
        self._reason: Reason | None = None
        self._runtime = runtime
        self._claimed = claimed
        self._control = transitions.Control(
            run_id=run_id, epoch=claimed.epoch, owner=owner, nonce=claimed.nonce
        )
        self._engine: asyncio.Task[None] | None = None
        self._stopped = asyncio.get_running_loop().create_future()
        self._channel: Channel | None = None
        self._run: context.RunContext[Any] | None = None
        self._checkpointed = False
        self._limit = time_limits.SOFT
        self._addressed = addressed or claimed.inputs > 0
        self._metrics = SegmentMetrics(claimed)
        # From here on a steady clock: a step of the wall clock must not end a run that is healthy.
        self._accounts = StoredAccounts(runtime, claimed.spec)
        self._begun = clocks.now()
        earlier_ms = now_ms() - claimed.started_ms - claimed.idle_ms if claimed.segment > 1 else 0
        self._spent_s = max(0, earlier_ms) / 1000
        self._inputs: Inputs | None = None

    def fetch_inputs(self) -> None:
        """Bring what users said from the record into the engine's inbox."""
        self._addressed = True
        if self._inputs is not None:
            self._inputs.fetch()

    # -- stopping: one cause, one cancel

    def stop_for(self, reason: Reason) -> None:
        """Stop the engine because somebody asked for it."""
        self._reason = reason
        self.stop(StopCause.REQUESTED)

    def stop(self, cause: StopCause) -> None:
        """Cancel the engine once; only the first cause counts."""
        if self.cause is not None:
            return
        self.cause = cause
        self._stopped.set_result(None)
        if self._engine is not None:
            self._engine.cancel()

    def check_clock(self) -> None:
        """Stop an engine that is over its time or silent for too long."""
        channel, settings = self._channel, self._runtime.settings
        if channel is None:
            return
        self._metrics.watch(channel)
        if self.cause is not None:
            return
        at_work = self._run is not None and self._run.working
        broken = time_limits.broken(
            ran_s=self._spent_s + clocks.now() - self._begun,
            longest_s=self._claimed.spec.max_duration_s,
            silent_s=0.0 if at_work or not channel.idle else self.silence_s(),
            idle_timeout_s=settings.idle_timeout_s,
        )
        if broken is not None:
            self._limit = broken
            self.stop(StopCause.TIMED_OUT)

    def silence_s(self) -> float:
        """For how long the engine has emitted nothing."""
        return 0.0 if self._channel is None else time.monotonic() - self._channel.last_emit

    async def execute(self) -> str:
        """Run the engine under its limits and end the run."""
        # From here on stops find it. Nothing was awaited since the claim's reply, so that none falls between.
        self._runtime.segments[self.run_id] = self
        self._metrics.begin()
        try:
            fold, state = (Content(), None) if self._claimed.segment == 1 else await uncancelled(self._past())
            self._checkpointed = state is not None
            if self._runtime.lease.owner != self._control.owner:
                self.stop(StopCause.SUSPENDED)  # sweepers have looked through that name's runs already
            channel = self._channel = self._runtime.writer.open(self._control, fold)
            channel.on_lost = lambda: self.stop(StopCause.LOST)
            self._inputs = Inputs(self._runtime, channel, read=len(fold.inputs))
            if self._addressed:
                await uncancelled(self._inputs.fetched())
            if cancel_cause() is not None:
                self._stop_for_pool()  # cancelled while it could not be reached
            work = self._run_engine(channel, state, self._inputs.inbox)
            self._engine = asyncio.create_task(work, name=f"engine {self.run_id}")
            if self.cause is not None:
                self._engine.cancel()
            interrupted = await self._watch(self._engine)
            outcome = await uncancelled(self._concluded(channel, self._engine))
            self._metrics.end(channel, outcome)
        finally:
            self._runtime.segments.pop(self.run_id, None)
            self._let_go()
        if interrupted and cancel_cause() is not CancelCause.SHUTDOWN:
            # The pool cancelled this task: Celery records that, not a success.
            raise asyncio.CancelledError(cancel_cause())
        return outcome

    def _let_go(self) -> None:
        """Break the reference cycles of the run's parts: content must not wait for the garbage collector."""
        if self._inputs is not None:
            self._inputs.end()
        self._engine = self._channel = self._run = self._inputs = None

    async def _past(self) -> tuple[Content, bytes | None]:
        """Return what earlier segments left: the content, and the engine's state."""
        store = self._runtime.store
        state = await transitions.read(store, self.run_id, patience_s=STORE_PATIENCE_S)
        fold = Content() if isinstance(state, transitions.Gone) else ending.fold_of(state)
        return fold, await transitions.load_checkpoint(store, self.run_id, patience_s=STORE_PATIENCE_S)

    async def _run_engine(self, channel: Channel, state: bytes | None, inbox: Inbox) -> None:
        claimed, spec = self._claimed, self._claimed.spec
        engine = registry.get(spec.engine)
        given = await self._runtime.operations.files.put_back(claimed.input, self.run_id)
        run = self._run = context.RunContext[Any](
            channel,
            run_id=spec.run_id,
            thread_id=spec.thread_id,
            user_id=spec.user_id,
            tenant=spec.tenant,
            input=engine.parse(given),
            raw_input=given,
            metadata=spec.metadata,
            segment=claimed.segment,
            decisions=actions.decisions_of(claimed.decisions),
            state=state,
            settings=self._runtime.settings,
            stopping=lambda: self.cause is not None,
            save=functools.partial(self._save, channel),
            inbox=inbox,
            memory=memories.of(self._runtime, spec),
            history=histories.of(self._runtime, spec),
            files=self._runtime.operations.files,
            accounts=self._accounts,
            note_effect=effects.of(self._runtime, channel, patience_s=STORE_PATIENCE_S),
            start_child=children.starter(self._runtime.operations, spec),
        )
        try:
            await engine.execute(run)
        except (SystemExit, KeyboardInterrupt) as error:
            raise Exited from error
        await channel.flush()

    async def _save(self, channel: Channel, data: bytes, covers: Cursor, memory: Changes | None) -> bool:
        async def attempt(control: transitions.Control, top: Cursor) -> Any:
            return await transitions.checkpoint(
                self._runtime.store,
                control,
                cursor=covers if covers.epoch == top.epoch else top,  # after a repair it is another one
                state=data,
                fold=jsontext.dumps(channel.fold.dump()),
                patience_s=STORE_PATIENCE_S,
                live_ttl_ms=self._runtime.settings.live_ttl_ms,
                memory=memory,
            )

        saved = await as_owner(self._runtime, channel, attempt)
        if not isinstance(saved, bool):
            raise errors.Fenced(run_id=self.run_id)
        self._checkpointed = True
        return saved

    async def _watch(self, engine: asyncio.Task[None]) -> bool:
        """Wait for the engine's end; returns whether the pool delivered a cancel meanwhile."""
        interrupted = False  # not the error itself: its traceback leads back here, with all that is held here
        deadline: float | None = None
        while not engine.done():
            try:
                # A stopped engine may ignore it: then its time to clean up is looked at.
                ends, timeout = ({engine}, 0.5) if self.cause else ({engine, self._stopped}, None)
                await asyncio.wait(ends, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                interrupted = True
                self._stop_for_pool()
            except SoftTimeLimitExceeded:
                self.stop(StopCause.TIMED_OUT)
            if self.cause is not None:
                deadline = deadline or time.monotonic() + CLEANUP_S
                if time.monotonic() > deadline:
                    logger.error(
                        "the engine ignores its cancellation; ending the run without it",
                        extra={"action": "engine_stuck", "run_id": self.run_id},
                    )
                    break
        return interrupted

    def _stop_for_pool(self) -> None:
        match cancel_cause():
            case CancelCause.SOFT_TIME_LIMIT | CancelCause.HARD_TIME_LIMIT:
                self.stop(StopCause.TIMED_OUT)
            case CancelCause.SHUTDOWN:
                self.stop(StopCause.SHUTDOWN)
            case _:  # revoked by an operator, or by the abort that is on its way through the mailbox too
                self.stop(StopCause.REQUESTED)

    # -- the end

    async def _concluded(self, channel: Channel, engine: asyncio.Task[None]) -> str:
        """Conclude, and end the run whatever goes wrong with that."""
        try:
            await self._accounts.close()
            return await self._conclude(channel, engine)
        except errors.Unavailable as error:
            return self._unfinished(error)
        except asyncio.CancelledError:
            raise
        except BaseException:  # an engine's exception is at hand here: what it does may be anything
            noted = {"action": "conclusion_failed", "run_id": self.run_id}
            logger.exception("a run could not be ended as it should; ending it as it stands", extra=noted)
            channel.discard()
        finally:
            channel.leave()
        return await end_as_it_stands(self._runtime, channel.control)

    async def _conclude(self, channel: Channel, engine: asyncio.Task[None]) -> str:
        if self.cause is None and (pause := self._pause_of(engine)) is not None:
            return await self._pause(channel, pause)
        if self._can_go_on():
            return await self._hand_over(channel)
        return await self._end(channel, self._verdict(engine))

    def _pause_of(self, engine: asyncio.Task[None]) -> Pause | None:
        """Return what the engine asked a human for, if it ended with that."""
        if self._run is None or self._run.pause is None or engine.cancelled():
            return None
        failure = engine.exception()
        return self._run.pause if failure is None or is_only_a_pause(failure) else None

    async def _pause(self, channel: Channel, pause: Pause) -> str:
        """Let the run wait for a human; whoever wanted to stop it meanwhile wins."""
        here, spec = self._runtime, self._claimed.spec

        async def attempt(control: transitions.Control, top: Cursor) -> Any:
            wait = PAUSE.of(
                control,
                nonce=ids.nonce(),
                top=top,
                spec=spec,
                action=pause.action,
                fold=channel.fold,
                checkpoint=pause.state,
                settings=here.settings,
                memory=self._memory(),
                patience_s=FINISH_PATIENCE_S,
            )
            return await waits.pause(here.operations, spec, pause.action, change=wait)

        try:
            answer = await let_go(here, channel, attempt, patience_s=FINISH_PATIENCE_S)
        except errors.Fenced:
            return self._lost()
        except (errors.StoreUnavailable, TimeoutError) as error:
            return self._unfinished(error)
        match answer:
            case transitions.Paused():
                return PAUSED
            case transitions.Stopping(reason=reason):
                return await self._end(channel, Verdict(reason=reason))
            case _:
                return self._lost()

    def _memory(self) -> Changes | None:
        """Return what the engine put into its memory and did not commit yet."""
        return None if self._run is None else self._run.memory.changes()

    def _can_go_on(self) -> bool:
        """Whether another worker can go on where this one stops, or begin what did not begin here."""
        if self.cause not in {StopCause.SHUTDOWN, StopCause.SUSPENDED}:
            return False
        saved = self._checkpointed and registry.get(self._claimed.spec.engine).checkpoints
        return self._run is None or saved

    async def _hand_over(self, channel: Channel) -> str:
        as_claimed = self._claimed.resume_as or Type.STARTED

        async def attempt(control: transitions.Control, top: Cursor) -> bool:
            return await recovery.hand_over(
                self._runtime.operations,
                control,
                fold=channel.fold,
                top=top,
                cause=str(self.cause),
                resume_as=as_claimed if self._run is None else None,
                patience_s=FINISH_PATIENCE_S,
            )

        try:
            handed_over = await let_go(self._runtime, channel, attempt, patience_s=FINISH_PATIENCE_S)
        except errors.Fenced:
            return self._lost()
        except (errors.StoreUnavailable, TimeoutError) as error:
            return self._unfinished(error)
        return HANDED_OVER if handed_over else self._lost()

    def _verdict(self, engine: asyncio.Task[None]) -> Verdict | None:
        """Decide what the run ends as; None if it is not ours to end."""
        failure = None
        if engine.done() and not engine.cancelled():
            failure = engine.exception()
        if self.cause is StopCause.LOST or (type(failure) is errors.Fenced and self._is_fenced()):
            return None
        match self.cause:
            case StopCause.REQUESTED:
                return Verdict(reason=self._reason or Reason.USER_ABORT)
            case StopCause.SHUTDOWN | StopCause.SUSPENDED:
                return Verdict(reason=Reason.SHUTDOWN)
            case StopCause.TIMED_OUT:
                return verdicts.failed(Reason.TIMED_OUT, f"The engine was stopped. {self._limit}")
            case _:
                return verdicts.of_engine(engine, self._runtime.settings, log=logger)

    def _is_fenced(self) -> bool:
        """Whether the run is somebody else's: an engine may raise that of another run, or for no reason."""
        return self._channel is None or self._channel.phase is Phase.LOST

    async def _end(self, channel: Channel, verdict: Verdict | None) -> str:
        if verdict is None:
            channel.discard()
            if channel.failure is not None:  # nobody took it: it could not be written
                return await end_as_it_stands(self._runtime, channel.control)
            return self._lost()
        if self.cause is StopCause.REQUESTED and self._reason is None:
            verdict = Verdict(reason=await self._recorded_reason())
        ended_as = verdict

        async def attempt(control: transitions.Control, top: Cursor) -> Any:
            return await ending.finish(
                self._runtime.operations,
                control,
                fold=channel.fold,
                top=top,
                reason=ended_as.reason,
                error=ended_as.error,
                memory=self._memory(),
                patience_s=FINISH_PATIENCE_S,
            )

        try:
            outcome = await let_go(self._runtime, channel, attempt, patience_s=FINISH_PATIENCE_S)
        except errors.Fenced:
            return self._lost()
        except (errors.StoreUnavailable, TimeoutError) as error:
            return self._unfinished(error)
        if not isinstance(outcome, transitions.Finished):
            return "lost"
        await self._accounts.forget()
        await waits.ended(self._runtime.operations, self._claimed.spec)
        ending.count(self._claimed.spec, verdict.reason)
        return verdict.reason.value

    def _unfinished(self, error: Exception) -> str:
        # Greppable: the run stays recoverable, any sweeper ends it once this process's lease is gone.
        noted = {"action": "finish_failed", "run_id": self.run_id}
        logger.error("RUN NOT FINISHED", extra=noted, exc_info=error)
        return "unfinished"

    def _lost(self) -> str:
        logger.warning("run lost to another owner", extra={"action": "run_fenced", "run_id": self.run_id})
        return "lost"

    async def _recorded_reason(self) -> Reason:
        """Return why the pool was told to cancel: as recorded by an abort, else an operator wanted it."""
        try:
            # Nobody is told: the run's owner, which is to end it, is here.
            stop = STOP.of(self.run_id, reason=Reason.USER_ABORT)
            intent = await self._runtime.operations.perform(stop, notify=nobody)
        except errors.StoreUnavailable:
            return Reason.USER_ABORT
        return intent.reason if isinstance(intent, transitions.Intended) else Reason.USER_ABORT
