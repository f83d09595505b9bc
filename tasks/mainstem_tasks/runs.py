"""The Celery tasks: `mainstem.generate` executes one segment of a run, `submit` starts one, `resume` decides.

All are thin: what they do lives in `segments` and in `mainstem_shared` (`starting`, `approvals`). Their names
and arguments are a contract with web tiers that have only Celery.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from typing import TYPE_CHECKING, Any, Final

from celery.exceptions import Ignore

from mainstem_shared import actions, approvals, errors, ids, starting, views
from mainstem_shared.principals import Principal
from mainstem_tasks import runtime, segments
from mainstem_tasks.asynctask import AsyncTask
from mainstem_tasks.dispatch import GENERATE

if TYPE_CHECKING:
    from celery import Celery

SUBMIT: Final = "mainstem.submit"
RESUME: Final = "mainstem.resume"
EVENT_S: Final = 2.0
"""A broker that is away delays the end of a paused run's task by no more than this."""

logger = logging.getLogger(__name__)


class Generate(AsyncTask):
    """Execute one segment of a run; what happened is the task's result, for operators."""

    name = GENERATE
    ignore_result = True
    acks_late = False  # the lease recovers lost runs; a late ack would start a second copy of each
    reject_on_worker_lost = False
    max_retries = 0

    async def run(self, run_id: str) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        outcome = await segments.execute(await runtime.ready(), run_id, task_id=str(self.request.id))
        if outcome == segments.PAUSED:
            await self._show_paused()
            raise Ignore(outcome)
        return outcome

    async def _show_paused(self) -> None:
        """Have monitors show PAUSED: an event's name becomes the state and sticks after Ignore."""
        request = self.request
        try:
            async with asyncio.timeout(EVENT_S):
                await asyncio.to_thread(self._send_paused, str(request.id), request.hostname)
        except Exception:  # the run is paused whatever monitors see; the broker may be away
            logger.info("monitors were not told of a pause", extra={"action": "pause_unseen"}, exc_info=True)

    def _send_paused(self, task_id: str, hostname: str) -> None:
        with self.app.events.default_dispatcher(hostname=hostname) as dispatcher:
            dispatcher.send("task-paused", uuid=task_id, retry=False)


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
    ) -> str:
        here = await runtime.ready()
        fields = {"engine": engine, "input": input, "if_active": if_active, "metadata": metadata or {}}
        try:
            outcome = await starting.start_run(
                here.store,
                here.dispatcher,
                settings=here.settings,
                principal=Principal(user_id=user_id, tenant=tenant),
                thread_id=thread_id,
                request=starting.parse_request(fields),
                idempotency_key=idempotency_key,
                run_id=ids.run_id(tenant, thread_id, uuid.UUID(str(self.request.id))),
                trigger="celery",
            )
        except errors.Unavailable as error:
            raise self.retry(exc=error, countdown=1, max_retries=None) from error
        return outcome.run_id


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
            await views.check_owner(here.store, run_id, tenant=tenant, user_id=user_id)
            await approvals.resume(here.finaliser, run_id, request, by=user_id, sealer=here.lease.owner)
        except (errors.Unavailable, errors.TooManyRuns) as error:
            raise self.retry(exc=error, countdown=1, max_retries=None) from error


def register(app: Celery) -> None:
    """Add the tasks to a Celery app."""
    for task in (Generate, Submit, Resume):
        # A class per app: Celery writes an app's task_annotations into the class.
        app.register_task(type(task.__name__, (task,), {"__module__": task.__module__})())
