"""`AsyncRuns` starts, reads, follows and lists runs from a program, without HTTP. Its sync form: `runs`.

It speaks to the store and the broker directly, and belongs inside the trust boundary: `user_id` and `tenant`
are taken at their word. Browsers and other outsiders use the gateway.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from mainstem_api.client.conversations import Conversations
from mainstem_shared import archive, errors
from mainstem_shared.coordination.leases import CLIENT, Lease
from mainstem_shared.eventlog.reading import run_states
from mainstem_shared.eventlog.reading.frames import Frame
from mainstem_shared.eventlog.reading.subscriptions import End
from mainstem_shared.eventlog.reading.tailer import Tailer
from mainstem_shared.model import actions, cursors
from mainstem_shared.model.principals import DEFAULT_TENANT, LOCAL_USER, Owned, Principal
from mainstem_shared.model.runs import IfActive, OnWorkerLost, Priority, Run, Status, WaitingFor
from mainstem_shared.operations import aborting, resuming, starting, steering, waits
from mainstem_shared.operations.aborting import Aborter, AbortOutcome
from mainstem_shared.operations.deleting import Deleter
from mainstem_shared.operations.performing import Operations
from mainstem_shared.operations.queries import listings
from mainstem_shared.operations.queries.listings import Page, Query
from mainstem_shared.operations.steering import Receipt
from mainstem_shared.operations.waits import EventReceipt
from mainstem_shared.settings import Settings
from mainstem_shared.store import endpoints
from mainstem_shared.store.client import Store
from mainstem_tasks.celery_support.publisher import CeleryPublisher


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvent:
    """One event of a run. A later reader goes on after `cursor`; unknown types are to be ignored."""

    cursor: str
    type: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class StartResult:
    """A started run. `replayed`: the idempotency key was used before, and this is the run it stands for."""

    run: Run
    replayed: bool

    @property
    def run_id(self) -> str:
        return self.run.run_id


@dataclass(frozen=True, slots=True, kw_only=True)
class AbortResult:
    """What an abort reached.

    Attributes:
        run: the run as of now, with what it has produced.
        outcome: `aborted`, `already_finished` (in another way, or before), or `pending`.
        won_from: the status in which it was stopped; None unless it was aborted.
        signal_delivered: whether the run's worker is known to have heard of it; true if there was none.
    """

    run: Run
    outcome: AbortOutcome
    won_from: Status | None
    signal_delivered: bool


class AsyncRuns(Conversations):
    """Runs, for asyncio. Use one per event loop, as an async context manager or with `aclose()`.

    Every method may raise StoreUnavailable. What is not the given user's raises NotFound, as if it were not
    there; `user_id=None` means any user of the tenant.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        store: Store | None = None,
        publisher: CeleryPublisher | None = None,
        operations: Operations | None = None,
        tailer: Tailer | None = None,
        sealer: Callable[[], str] = aborting.no_sealer,
        private_threads: bool = False,
    ) -> None:
        """Connect to what the settings (by default: the environment) name; on first use, not yet here.

        A process that holds a lease names it with `sealer`, and ends runs of dead workers by itself. With
        `private_threads` (as the gateway has it) nobody starts a run on a thread that has another user's.
        """
        self.settings: Settings = settings or Settings()
        self._store = store or Store(
            endpoints.store_url(self.settings), archive=archive.connect(self.settings)
        )
        self._own_store = store is None
        self._tailer = tailer or Tailer(self._store)
        self._private_threads = private_threads
        self._own_publisher: CeleryPublisher | None = None
        if publisher is None:
            publisher = self._own_publisher = CeleryPublisher(
                endpoints.broker_url(self.settings),
                queue=self.settings.queue,
                engine_queues=self.settings.engine_queues,
            )
        self._operations = operations or Operations(
            store=self._store, settings=self.settings, publisher=publisher
        )
        self._aborter = Aborter(
            operations=self._operations,
            revoker=publisher,
            tailer=self._tailer,
            sealer=sealer,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections it made itself; iterations that are under way end with an error."""
        await self._tailer.close()
        if self._own_store:
            await self._store.close()
        if self._own_publisher is not None:
            await self._own_publisher.aclose()

    async def start(
        self,
        thread_id: str,
        engine: str | None = None,
        input: dict[str, Any] | None = None,  # noqa: A002 - the name it has everywhere else
        *,
        user_id: str = LOCAL_USER,
        tenant: str = DEFAULT_TENANT,
        if_active: IfActive = "reject",
        metadata: dict[str, Any] | None = None,
        idempotency_key: str | None = None,
        max_duration_s: float | None = None,
        on_worker_lost: OnWorkerLost = "fail",
        budget: dict[str, Any] | None = None,
        callback: dict[str, Any] | None = None,
        parent: str | None = None,
        message_id: str | None = None,
        priority: Priority | None = None,
    ) -> StartResult:
        """Start a run on a thread. When this returns it is durable, and a worker will take it.

        Args:
            thread_id, user_id, tenant: the conversation, which has one active run at a time, and whose it is.
            engine, input, metadata: what produces it (MAINSTEM_DEFAULT_ENGINE), from what; yours, given back.
            if_active: on a busy thread, be refused (`reject`), wait (`enqueue`), or `replace` what runs.
            idempotency_key: repeating a start with the same key and request returns the first one's run.
            max_duration_s, priority: longest life (up to MAINSTEM_MAX_RUN_S); `batch` if nobody waits for it.
            on_worker_lost: `fail` keeps what there is; `resume` goes on from the last checkpoint.
            budget, callback: the most that it may cost (`usd`, `tokens`); who is told (`task`, `url`).
            parent, message_id: the message that the run follows (`root`: none); the one that the input is.

        Raises:
            NotFound: the thread is another user's, and threads are private here.
            InvalidRequest: also as InputTooLarge, UnknownEngine, InvalidInput; CallbackNotAllowed.
            ThreadBusy, ThreadQueueFull: its `run_id` holds the thread, or too many wait.
            IdempotencyKeyReused: the key stands for another request.
        """
        request = {
            "engine": engine or self.settings.default_engine,
            "input": input or {},
            "if_active": if_active,
            "metadata": metadata or {},
            "max_duration_s": max_duration_s,
            "on_worker_lost": on_worker_lost,
            "budget": budget,
            "callback": callback,
            "parent": parent,
            "message_id": message_id,
            "priority": priority,
        }
        outcome = await starting.start_run(
            self._operations,
            starting.parse_request(request),
            principal=Principal(user_id=user_id, tenant=tenant),
            thread_id=thread_id,
            idempotency_key=idempotency_key,
            private_threads=self._private_threads,
        )
        run = await run_states.get_run(self._store, outcome.run_id)
        return StartResult(run=run, replayed=outcome.replayed)

    async def get(self, run_id: str, *, user_id: str | None = None, tenant: str = DEFAULT_TENANT) -> Run:
        """Return a run as of now: its record, and its content folded to the log's top.

        Raises:
            NotFound: it does not exist, or not for this user.
        """
        run = await run_states.get_run(self._store, run_id)
        _check_visible(run, user_id, tenant)
        return run

    async def events(
        self,
        run_id: str,
        after: str | None = None,
        *,
        user_id: str | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> AsyncGenerator[RunEvent, None]:
        """Yield the run's events after a cursor (default: from the start), live, until `run.finished`.

        Each comes once, in order. A `snapshot` or `resync` event replaces all that came before. While the
        store is unavailable the iteration waits, for half a minute.

        Raises:
            NotFound: it does not exist, or not for this user.
            InvalidCursor: `after` is no cursor.
            StoreUnavailable: go on later with the last event's cursor.
        """
        position = None if after is None else cursors.parse(after)
        async with self._tailer.subscribe(run_id, after=position) as subscription:
            _check_visible(subscription.spec, user_id, tenant)
            async for frames in subscription:
                for frame in frames:
                    yield _event(frame)
            if subscription.end is End.GONE:
                raise errors.NotFound
            if subscription.end is End.CLOSED:
                raise errors.StoreUnavailable("This client was closed; the run goes on.")

    async def wait(
        self,
        run_id: str,
        timeout: float | None = None,  # noqa: ASYNC109 - part of what the method does
        *,
        user_id: str | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> Run:
        """Return the run once it is over.

        Raises:
            NotFound: it does not exist, or not for this user.
            TimeoutError: it is not over after `timeout` seconds.
        """
        async with asyncio.timeout(timeout):
            run = await self.get(run_id, user_id=user_id, tenant=tenant)
            if run.status.is_terminal:
                return run
            async with aclosing(self.events(run_id, run.cursor, user_id=user_id, tenant=tenant)) as rest:
                async for _ in rest:
                    pass
            return await self.get(run_id, user_id=user_id, tenant=tenant)

    async def abort(
        self,
        run_id: str,
        *,
        wait: float = 0.0,
        user_id: str | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> AbortResult:
        """Stop a run, wherever it is, and say what was reached. What it has produced is kept.

        Once this returns, the run will end, whatever dies meanwhile. Repeating it changes nothing; it never
        touches another run of the thread.

        Args:
            run_id: the run to stop.
            wait: how many seconds to wait for its end; without, running runs are answered as `pending`.
            user_id: whose run it is; None means any user of the tenant.
            tenant: whose user that is.

        Raises:
            NotFound: it does not exist, or not for this user.
        """
        await run_states.check_owner(self._store, run_id, tenant=tenant, user_id=user_id)
        reached = await self._aborter.abort(run_id, wait_s=wait)
        return AbortResult(
            run=await run_states.get_run(self._store, run_id),
            outcome=reached.outcome,
            won_from=reached.won_from,
            signal_delivered=reached.signal_delivered,
        )

    async def delete_thread(
        self, thread_id: str, *, user_id: str | None = None, tenant: str = DEFAULT_TENANT
    ) -> int:
        """Abort what is active on a thread, and remove its runs for good; returns how many.

        Runs that do not end within five seconds are taken from their worker. With `user_id`, other users'
        runs stay; so do runs that are started meanwhile.

        Raises:
            NotFound: the thread has no runs, or none of this user.
        """
        async with self._leased() as aborter:
            return await Deleter(aborter=aborter).delete_thread(thread_id, tenant=tenant, user_id=user_id)

    async def delete(self, run_id: str, *, user_id: str | None = None, tenant: str = DEFAULT_TENANT) -> None:
        """Abort one run if it is active, and remove it for good.

        Raises:
            NotFound: it does not exist, or it is not this user's.
        """
        async with self._leased() as aborter:
            await Deleter(aborter=aborter).delete_run(run_id, tenant=tenant, user_id=user_id)

    async def delete_user(self, user_id: str, *, tenant: str = DEFAULT_TENANT) -> int:
        """Abort what is active of a user, and remove all their runs for good; returns how many."""
        async with self._leased() as aborter:
            return await Deleter(aborter=aborter).delete_user(tenant=tenant, user_id=user_id)

    async def kill(self, run_id: str) -> Run:
        """End a run at once, also if its worker does not react; for operators. Its engine cannot clean up.

        Raises:
            NotFound: it does not exist.
        """
        async with self._leased() as aborter:
            await aborting.end_by_force(aborter, run_id)
        return await run_states.get_run(self._store, run_id)

    async def requeue(self, run_id: str) -> bool:
        """Publish a queued run's message once more; for operators. False if the broker is unavailable.

        Needless in normal operation: sweepers do it. Workers refuse a message that is one too many.

        Raises:
            NotFound: it does not exist.
            Conflict: it is not queued for a worker.
        """
        run = await run_states.get_run(self._store, run_id)
        if run.status is not Status.QUEUED or run.waiting_for is not WaitingFor.WORKER:
            raise errors.Conflict(
                f"The run is {run.status}: only runs that wait for a worker have a message."
            )
        return await self._operations.deliver(run_id)

    @asynccontextmanager
    async def _leased(self) -> AsyncGenerator[Aborter]:
        """Hold a lease: who takes runs from others must be seen alive, to be swept if it dies on the way."""
        if self._aborter.sealer():
            yield self._aborter
            return
        lease = Lease(self._store.url, self.settings, role=CLIENT)
        await asyncio.to_thread(lease.start)
        try:
            yield dataclasses.replace(self._aborter, sealer=lambda: lease.owner)
        finally:
            await asyncio.to_thread(lease.stop)

    async def resume(
        self,
        run_id: str,
        action_id: str,
        *,
        decisions: Sequence[Mapping[str, Any]] | None = None,
        answers: Sequence[Mapping[str, Any]] | None = None,
        user_id: str | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> Run:
        """Decide about what a paused run waits for; some worker goes on with it. Returns the run as of now.

        The same call again is answered the same, as long as the run exists.

        Args:
            run_id: the run.
            action_id: what is decided: the `action_id` of the run's `action`.
            decisions: for tool calls, one each: `call_id`, `type` (approve, reject, edit, respond), and
                `reason`, `arguments` or `text`.
            answers: for questions, one each: `question_id`, and `text`, or `value` where JSON is wanted.
            user_id: whose run it is; None means any user of the tenant.
            tenant: whose user that is.

        Raises:
            NotFound: it does not exist, or not for this user.
            NotPaused, StaleAction, DecisionConflict: it does not wait for this (any more).
            ActionExpired: the time to decide is over.
            UndecidedCall, InvalidDecision, DecisionNotAllowed: the decisions do not fit the action.
            TooManyRuns: the user has as many runs at work as may be; it stays paused.
        """
        request = actions.parse_request({"action_id": action_id, "decisions": decisions, "answers": answers})
        await run_states.check_owner(self._store, run_id, tenant=tenant, user_id=user_id)
        await resuming.resume(self._operations, run_id, request, by=user_id, sealer=self._aborter.sealer())
        return await run_states.get_run(self._store, run_id)

    async def send_input(
        self,
        run_id: str,
        text: str,
        *,
        input_id: str | None = None,
        user_id: str | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> Receipt:
        """Say something to a run while it is at work: its engine finds it in `run.inbox`, in order.

        Once this returns it is not lost: what the engine does not read is handed back in the run's final
        event. The same call again, with the same `input_id`, is answered the same.

        Args:
            run_id: the run; it may still wait for its worker.
            text: what is said.
            input_id: names it, for repeating the call; by default a new one is made.
            user_id: whose run it is; None means any user of the tenant.
            tenant: whose user that is.

        Raises:
            NotFound: it does not exist, or not for this user.
            RunPaused: it waits for a decision, which comes first.
            RunNotActive: it is over, or being aborted.
            InputQueueFull: too much waits to be read already.
            InputIdReused: the id stands for another text.
            InvalidRequest: the text is empty, too large, or a guard refuses it.
        """
        request = steering.parse_request({"text": text, "input_id": input_id})
        spec = await run_states.check_owner(self._store, run_id, tenant=tenant, user_id=user_id)
        return await steering.send(self._operations, spec, request=request, by=user_id)

    async def send_event(
        self,
        key: str,
        payload: Any = None,
        *,
        event_id: str | None = None,
        user_id: str,
        tenant: str = DEFAULT_TENANT,
    ) -> EventReceipt:
        """Tell a user's runs that wait for an event that it happened; it is kept for later ones.

        The same call again, with the same `event_id`, is the same event.

        Raises:
            InvalidRequest: the key or the id does not fit, or the payload is no JSON.
            InputTooLarge: the payload is over 64 KB.
        """
        request = waits.parse_request(key, {"payload": payload, "event_id": event_id})
        return await waits.send(self._operations, tenant=tenant, user_id=user_id, key=key, request=request)

    async def list(
        self,
        *,
        thread_id: str | None = None,
        user_id: str | None = None,
        tenant: str = DEFAULT_TENANT,
        status: Status | None = None,
        active: bool | None = None,
        limit: int = listings.PAGE,
        cursor: str | None = None,
    ) -> Page:
        """Return runs, newest first: of a thread, of a user, or all; `next` of the page continues it.

        Raises:
            InvalidCursor: `cursor` is not a page's `next`.
            InvalidRequest: the limit is out of range.
        """
        query = Query(tenant=tenant, thread_id=thread_id, user_id=user_id, status=status, active=active)
        return await listings.page(self._store, query, limit=limit, cursor=cursor)


def _check_visible(thing: Owned, user_id: str | None, tenant: str) -> None:
    if thing.tenant != tenant or (user_id is not None and thing.user_id != user_id):
        raise errors.NotFound


def _event(frame: Frame) -> RunEvent:
    return RunEvent(cursor=str(frame.cursor), type=frame.type, data=frame.payload())
