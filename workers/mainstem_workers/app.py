"""Builds Mainstem's own Celery app, for those who have none and for `mainstem worker`.

`docs/decisions/` has the measurements behind its settings: why an early ack, why no prefetch, why no results.
"""

# Celery and kombu are partly untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from typing import Any, Final

from celery import Celery
from kombu.entity import Exchange, Queue

from mainstem_shared.operations import callback_policy, provider_limits, spending
from mainstem_shared.settings import Settings
from mainstem_shared.store import endpoints
from mainstem_tasks.celery_support.publisher import QUEUE
from mainstem_workers.installation import install

CONFIGURATION: Final[dict[str, Any]] = {
    # A message is a hint; the lease and the sweeper recover runs. With late acks every broker hiccup
    # would start a second copy of each running task.
    "task_acks_late": False,
    "task_reject_on_worker_lost": False,
    "task_ignore_result": True,
    "worker_send_task_events": True,
    "task_send_sent_event": True,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "worker_hijack_root_logger": True,
    "worker_redirect_stdouts": False,
}


def make_app(settings: Settings) -> Celery:
    """Return the app of a worker with these settings."""
    spending.check(settings)
    provider_limits.check(settings)
    callback_policy.check(settings)
    broker = endpoints.celery_broker(endpoints.broker_url(settings))
    app = Celery("mainstem", broker=broker.url)
    app.conf.update(
        CONFIGURATION,
        broker_transport_options=broker.transport_options,
        broker_use_ssl=broker.use_ssl,
    )
    # Whoever has only Celery submits to its default queue.
    names = dict.fromkeys((QUEUE, *settings.queues))
    app.conf.task_queues = [_queue(name, settings) for name in names]
    install(app, settings)
    return app


def _queue(name: str, settings: Settings) -> Queue:
    """Return a queue as a worker declares it; its type is that of the runs' queues alone."""
    kind = settings.queue_type if name in settings.queues else "classic"
    # A declared one may be a quorum queue, too: Celery then limits consumers alone, which any queue takes.
    arguments = None if kind == "classic" else {"x-queue-type": "quorum"}
    return Queue(
        name,
        Exchange(name),
        routing_key=name,
        queue_arguments=arguments,
        no_declare=kind == "declared",
    )
