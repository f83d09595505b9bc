"""The outbox: handing a durable, queued run to the broker.

A pair across two servers: the record is the truth, the message a hint. Order: the run is durable first, then
the message, then `published` notes it. A crash or a broker that is away in between leaves a queued run that
is not noted as published; a sweeper delivers it again. A message too many is refused by the claim.
"""

from __future__ import annotations

import logging
from typing import Protocol

from mainstem_shared import errors, verbs
from mainstem_shared.store import Store

log = logging.getLogger(__name__)


class Publisher(Protocol):
    """What hands messages to the broker: `mainstem_tasks.dispatch.Dispatcher`."""

    async def apublish(self, run_id: str, *, user_id: str, engine: str) -> str:
        """Publish a message that makes a worker claim the run; return its task id."""
        ...


async def deliver(store: Store, publisher: Publisher, *, run_id: str, user_id: str, engine: str) -> bool:
    """Publish a run's message and note it; False if that must be tried again later. Never raises for it."""
    noted = {"action": "deliver", "run_id": run_id}
    try:
        task_id = await publisher.apublish(run_id, user_id=user_id, engine=engine)
        await verbs.published(store, run_id, task_id=task_id)
    except errors.Unavailable as error:
        log.warning("A queued run waits for its message", extra={**noted, "why": error.code})
        return False
    log.debug("A run's message is published", extra={**noted, "task_id": task_id})
    return True
