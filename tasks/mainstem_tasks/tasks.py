"""The Celery tasks: `mainstem.generate` executes a segment, `submit` starts a run, others let it go on.

All are thin: what they do lives in `segments` and in `mainstem_shared` (`starting`, `resuming`). Their names
and arguments are a contract with web tiers that have only Celery.
"""

# Celery and kombu are partly untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from typing import TYPE_CHECKING, Any, Final

from celery.exceptions import Ignore

from mainstem_shared import errors, tracing
from mainstem_shared.coordination import outbox
from mainstem_shared.eventlog.reading import run_states
from mainstem_shared.model import actions, ids
from mainstem_shared.model.principals import Principal
from mainstem_shared.model.runs import Reason, Status
from mainstem_shared.operations import resuming, starting, waits
from mainstem_tasks.celery_support.async_task import AsyncTask
from mainstem_tasks.celery_support.cancellation import CancelCause, cancel_cause
from mainstem_tasks.celery_support.publisher import GENERATE
from mainstem_tasks.execution import runtime, segments
from mainstem_tasks.execution.uncancelled import uncancelled

if TYPE_CHECKING:
    from celery import Celery

SUBMIT: Final = "mainstem.submit"
RESUME: Final = "mainstem.resume"
EVENT: Final = "mainstem.event"
EVENT_S: Final = 2.0
"""An unavailable broker delays the end of a paused or aborted run's task by no more than this."""
_STATUS: Final = {reason.value: reason.status for reason in Reason}
_ABORTS: Final = (CancelCause.REVOKED, CancelCause.SHUTDOWN)

logger = logging.getLogger(__name__)


class RunFailed(Exception):
    """A run failed: what makes its task a FAILURE for monitors. The run's record says more."""


class Generate(AsyncTask):
    """Execute one segment of a run. How the task ends is for operators: monitors show it as its state.

    SUCCESS, FAILURE, ABORTED and PAUSED are the run's; a task that had nothing to do is a SUCCESS.
    """

    name = GENERATE
    ignore_result = True
    acks_late = False  # the lease recovers lost runs; a late ack would start a second copy of each
    reject_on_worker_lost = False
    max_retries = 0
    throws = (RunFailed,)  # logged by the segment, with the engine's traceback

    async def run(self, run_id: str) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        began = time.monotonic()
        try:
            outcome = await segments.execute(await runtime.ready(), run_id, task_id=str(self.request.id))
        except asyncio.CancelledError:
            if cancel_cause() in _ABORTS:
                await self._show("task-aborted", began)
            raise
        if outcome == segments.PAUSED:
            await self._show("task-paused", began)
            raise Ignore(outcome)
        status = Status.ABORTED if outcome == segments.ABORTED_BEFORE else _STATUS.get(outcome)
        if status is Status.ABORTED:
            await self._show("task-aborted", began)
            raise Ignore(outcome)
        if status is Status.FAILED:
            raise RunFailed(outcome, run_id)
        return outcome

    async def _show(self, event: str, began: float) -> None:
        """Have monitors show a state of ours: the event's name becomes the state and sticks after Ignore."""
        request, runtime_s = self.request, time.monotonic() - began
        try:
            # Not to be cancelled: an abort comes by mail first, and as Celery's revoke while this is sent.
            await uncancelled(self._send_within(event, str(request.id), request.hostname, runtime_s))
        except Exception:  # the run is what it is whatever monitors see; the broker may be unavailable
            logger.info("monitors were not told", extra={"action": "state_unseen"}, exc_info=True)

    async def _send_within(self, event: str, task_id: str, hostname: str, runtime_s: float) -> None:
        async with asyncio.timeout(EVENT_S):
            await asyncio.to_thread(self._send, event, task_id, hostname, runtime_s)

    def _send(self, event: str, task_id: str, hostname: str, runtime_s: float) -> None:
        with self.app.events.default_dispatcher(hostname=hostname) as dispatcher:
            dispatcher.send(event, uuid=task_id, runtime=runtime_s, retry=False)


class Submit(AsyncTask):
    """Start a run for a web tier that has only Celery.

    The run id is the thread's tag, an underscore and this task's UUID in base32: the caller can compute it
    before the task has run, and a redelivered message starts nothing twice.
    """

    name = SUBMIT
    ignore_result = True
    acks_late = True  # short and repeatable: the run id follows from the task id
    max_retries = None

    async def run(  # noqa: PLR0917 - Celery callers pass keywords, the order is the contract's
        self,
        thread_id: str,
        engine: str,
        input: dict[str, Any],  # noqa: A002 - the contract's name
        user_id: str,
        tenant: str = "default",
        if_active: str = "reject",
        idempotency_key: str | None = None,
        metadata: dict[str, Any] | None = None,
        priority: str | None = None,
    ) -> str:
        here = await runtime.ready()
        fields = {
            "engine": engine,
            "input": input,
            "if_active": if_active,
            "metadata": metadata or {},
            "priority": priority,
        }
        try:
            with tracing.given(self.request.get("traceparent")):
                outcome = await self._start(here, fields, tenant, user_id, thread_id, idempotency_key)
        except errors.Unavailable as error:
            raise self.retry(exc=error, countdown=1, max_retries=None) from error
        return outcome.run_id

    async def _start(  # noqa: PLR0917 - of this class alone
        self,
        here: runtime.Runtime,
        fields: dict[str, Any],
        tenant: str,
        user_id: str,
        thread_id: str,
        idempotency_key: str | None,
    ) -> starting.StartAnswer:
        return await starting.start_run(
            here.operations,
            starting.parse_request(fields),
            principal=Principal(user_id=user_id, tenant=tenant),
            thread_id=thread_id,
            idempotency_key=idempotency_key,
            run_id=ids.run_id(tenant, thread_id, uuid.UUID(str(self.request.id))),
            trigger=outbox.CELERY,
        )


class Resume(AsyncTask):
    """Decide about a paused run's action, for a web tier that has only Celery; a repeat changes nothing."""

    name = RESUME
    ignore_result = True
    acks_late = True  # short and repeatable
    max_retries = None

    async def run(
        self,
        run_id: str,
        action_id: str,
        decisions: list[dict[str, Any]] | None = None,
        answers: list[dict[str, Any]] | None = None,
        *,
        user_id: str,
        tenant: str = "default",
    ) -> None:
        here = await runtime.ready()
        request = actions.parse_request({"action_id": action_id, "decisions": decisions, "answers": answers})
        try:
            await run_states.check_owner(here.store, run_id, tenant=tenant, user_id=user_id)
            await resuming.resume(here.operations, run_id, request, by=user_id, sealer=here.lease.owner)
        except (errors.Unavailable, errors.TooManyRuns) as error:
            raise self.retry(exc=error, countdown=1, max_retries=None) from error


class Event(AsyncTask):
    """Tell a user's runs that an event happened, for senders that have only Celery; a repeat is no other."""

    name = EVENT
    ignore_result = True
    acks_late = True  # short and repeatable
    max_retries = None

    async def run(
        self,
        key: str,
        payload: Any = None,
        event_id: str | None = None,
        *,
        user_id: str,
        tenant: str = "default",
    ) -> None:
        here = await runtime.ready()
        fields = {"payload": payload, "event_id": event_id or str(self.request.id)}
        request = waits.parse_request(key, fields)
        try:
            await waits.send(here.operations, tenant=tenant, user_id=user_id, key=key, request=request)
        except errors.Unavailable as error:
            raise self.retry(exc=error, countdown=1, max_retries=None) from error


def register(app: Celery) -> None:
    """Add the tasks to a Celery app."""
    for task in (Generate, Submit, Resume, Event):
        # A class per app: Celery writes an app's task_annotations into the class.
        app.register_task(type(str(task.__name__), (task,), {"__module__": task.__module__})())
