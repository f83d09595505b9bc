"""The outbox publishes the message of a durable, queued run to the broker.

A pair across two servers: the record is the truth, the message a hint. Order: the run is durable first, then
the message, then `published` notes it. A crash or an unavailable broker in between leaves a queued run that
is not noted as published; a sweeper delivers it again. A message too many is refused by the claim.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Final, Protocol

from mainstem_shared import errors, transitions
from mainstem_shared.metrics import catalogue as metrics
from mainstem_shared.model import ids
from mainstem_shared.model.record import Record
from mainstem_shared.model.runs import Spec
from mainstem_shared.store.client import Store

CELERY: Final = "celery"
"""What triggered a run that `mainstem.submit` started."""

log = logging.getLogger(__name__)


class Publisher(Protocol):
    """What hands messages to the broker: `mainstem_tasks.celery_support.publisher.CeleryPublisher`."""

    async def apublish(
        self, run_id: str, *, user_id: str, engine: str, parents: ParentTasks | None = None
    ) -> str:
        """Publish a message that makes a worker claim the run; return its task id."""
        ...

    async def acall(
        self, task: str, *, event: dict[str, Any], task_id: str, queue: str | None, run_id: str
    ) -> None:
        """Publish a message for a task of the user's own, which is told of an event."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentTasks:
    """The Celery tasks that monitors show as a message's root and parent."""

    root: str
    """The task that the run began with."""
    parent: str
    """The one before."""


def parent_tasks_of(spec: Spec, record: Record | None = None) -> ParentTasks | None:
    """Return the tasks before a run's next message, by its record; None before the first.

    Plain Celery's `mainstem.submit` is one of them: its id is in the run's.
    """
    submitted = str(ids.unique(spec.run_id)) if spec.trigger == CELERY else ""
    first, last = ("", "") if record is None else (record.first_task_id, record.last_task_id)
    root = submitted or first
    return ParentTasks(root=root, parent=last or root) if root else None


async def deliver(
    store: Store,
    publisher: Publisher,
    *,
    run_id: str,
    user_id: str,
    engine: str,
    parents: ParentTasks | None = None,
) -> bool:
    """Publish a run's message and note it; False if that must be tried again later. Never raises for it."""
    noted = {"action": "deliver", "run_id": run_id}
    try:
        task_id = await publisher.apublish(run_id, user_id=user_id, engine=engine, parents=parents)
        await transitions.published(store, run_id, task_id=task_id)
    except errors.Unavailable as error:
        why = {"why": error.code, "error": repr(error.__cause__)}
        metrics.PUBLISHED.labels("failed").inc()
        log.warning("A queued run waits for its message", extra={**noted, **why})
        return False
    metrics.PUBLISHED.labels("ok").inc()
    log.debug("A run's message is published", extra={**noted, "task_id": task_id})
    return True
