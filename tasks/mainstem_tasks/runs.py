"""The Celery tasks: `mainstem.generate` executes one segment of a run, `mainstem.submit` starts a run.

Both are thin: what they do lives in `segments` and `mainstem_shared.starting`. Their names and arguments are
a contract with web tiers that have only Celery.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Final

from mainstem_shared import errors, ids, starting
from mainstem_shared.principals import Principal
from mainstem_tasks import runtime, segments
from mainstem_tasks.asynctask import AsyncTask
from mainstem_tasks.dispatch import GENERATE

if TYPE_CHECKING:
    from celery import Celery

SUBMIT: Final = "mainstem.submit"


class Generate(AsyncTask):
    """Execute one segment of a run; what happened is the task's result, for operators."""

    name = GENERATE
    ignore_result = True
    acks_late = False  # the lease recovers lost runs; a late ack would start a second copy of each
    reject_on_worker_lost = False
    max_retries = 0

    async def run(self, run_id: str) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return await segments.execute(runtime.current(), run_id, task_id=str(self.request.id))


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
        here = runtime.current()
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


def register(app: Celery) -> None:
    """Add the tasks to a Celery app."""
    for task in (Generate, Submit):
        app.register_task(task())
