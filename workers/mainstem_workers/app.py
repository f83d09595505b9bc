"""Mainstem's own Celery app, and the configuration that its promises rest on.

`docs/decisions/` has the measurements behind each line: why an early ack, why no prefetch, why no results.
"""

from __future__ import annotations

from typing import Any, Final

from celery import Celery

from mainstem_shared import endpoints
from mainstem_shared.settings import Settings
from mainstem_tasks import runs
from mainstem_workers.lifecycle import RunsStep
from mainstem_workers.pool import PoolOptions

CANCEL_GRACE_S: Final = 10.0
"""After the drain: what cancelled engines may take for their cleanup and the terminal event."""

CONFIGURATION: Final[dict[str, Any]] = {
    # A message is a hint; the lease and the sweeper recover runs. With late acks every broker hiccup
    # would start a second copy of each running task.
    "task_acks_late": False,
    "task_reject_on_worker_lost": False,
    # With early acks prefetching would hoard runs that other workers could execute.
    "worker_disable_prefetch": True,
    "worker_prefetch_multiplier": 1,
    "task_ignore_result": True,
    "worker_send_task_events": True,
    "task_send_sent_event": True,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "worker_proc_alive_timeout": 30,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "worker_hijack_root_logger": True,
    "worker_redirect_stdouts": False,
}


def make_app(settings: Settings) -> Celery:
    """Return the app of a worker with these settings."""
    app = Celery("mainstem", broker=endpoints.broker_url(settings))
    app.conf.update(CONFIGURATION)
    app.conf.mainstem_settings = settings
    app.conf.mainstem_pool = PoolOptions(grace_s=settings.drain_s, cancel_grace_s=CANCEL_GRACE_S)
    app.steps["worker"].add(RunsStep)  # pyright: ignore[reportOptionalSubscript]
    runs.register(app)
    return app
