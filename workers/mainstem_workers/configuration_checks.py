"""Checks a worker's configuration at its start, and lists guarantees that it breaks, with remedies.

Nothing is changed here. What `install` sets by itself, the application may have set otherwise: that is its
right, and these are the consequences. `mainstem_shared.store.server_checks` judges store and broker.
"""

# Celery and kombu are partly untyped.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Any, Final

from celery.backends.base import DisabledBackend

from mainstem_shared import errors
from mainstem_shared.settings import Settings
from mainstem_shared.store import endpoints, sentinel_addresses, server_checks
from mainstem_shared.store.embedded import ServerNotRunningError
from mainstem_shared.store.server_checks import Shortcoming
from mainstem_tasks.celery_support.publisher import GENERATE
from mainstem_workers import pool_support
from mainstem_workers.pool_support import Pool

logger = logging.getLogger(__name__)

VISIBILITY_S: Final = 3600.0
"""kombu's default: after so long it gives a message that is not acknowledged to another worker."""


def warn(parent: Any) -> None:
    """Log every guarantee that the configuration of this worker (Celery's WorkController) breaks."""
    pool = pool_support.pool_of(parent.pool_cls)
    server_checks.report(check(parent.app, pool, concurrency=parent.concurrency), "worker")
    for note in notes(parent.app, pool, events=parent.task_events):
        text = "%s: %s %s"
        extra = {"action": "promise_of_yours", "setting": note.setting}
        logger.info(text, note.setting, note.consequence, note.remedy, extra=extra)


def check(app: Any, pool: Pool = Pool.ASYNCIO, *, concurrency: int | None = None) -> list[Shortcoming]:
    """Return what a worker of this app on this pool cannot guarantee for runs."""
    settings: Settings = app.conf.mainstem_settings
    if not pool_support.consumes_runs(app, settings):
        return [] if pool is not Pool.ASYNCIO else [_not_consuming(app, settings)]
    found = [*_delivery(app), *_broker(app, settings), *_limits(app, settings)]
    found += _capacity(app, pool, concurrency)
    if (limit := pool_support.LIMITS.get(pool)) is not None:
        remedy = "The asyncio pool holds a thousand runs per process: see docs/pools.md."
        found.append(Shortcoming(setting=f"--pool {pool}", consequence=limit, remedy=remedy))
    return found


def notes(app: Any, pool: Pool = Pool.ASYNCIO, *, events: bool = False) -> list[Shortcoming]:
    """Return what holds for runs, and not for the application's own tasks or for who looks at them.

    `events`: the worker sends them whatever the settings say (`-E`).
    """
    return [*_redelivery(app), *_results(app), *_recycling(app, pool), *_visibility(app, events=events)]


def _not_consuming(app: Any, settings: Settings) -> Shortcoming:
    return Shortcoming(
        setting=f"queues {', '.join(sorted(app.amqp.queues.consume_from))}",
        consequence=f"Runs wait in the queue {settings.queue!r}, which this worker does not consume.",
        remedy=f"Start it with -Q {settings.queue}, or set MAINSTEM_QUEUE.",
    )


def _delivery(app: Any) -> Iterator[Shortcoming]:
    task, conf = app.tasks[GENERATE], app.conf
    remedy = f"Except {GENERATE} from task_annotations."
    if task.acks_late:
        consequence = "A lost broker connection starts a second copy of every running run, in vain each time."
        yield Shortcoming(setting="acks_late", consequence=consequence, remedy=remedy)
    if task.reject_on_worker_lost:
        consequence = "A dead worker's messages come back beside the recovery by leases."
        yield Shortcoming(setting="reject_on_worker_lost", consequence=consequence, remedy=remedy)
    if task.rate_limit:
        consequence = (
            f"Runs start no faster than {task.rate_limit} per worker, and wait unseen in its memory."
        )
        yield Shortcoming(setting="rate_limit", consequence=consequence, remedy=remedy)
    if not task.ignore_result:
        consequence = "Each run's end waits for the result backend too; its outcome is in its record."
        yield Shortcoming(setting="ignore_result", consequence=consequence, remedy=remedy)
    hoards = "This worker keeps runs waiting that others could execute."
    if _is_redis(conf.broker_url) and not conf.worker_disable_prefetch:
        yield Shortcoming(
            setting="worker_disable_prefetch", consequence=hoards, remedy="Leave it unset, or set it to True."
        )
    elif conf.worker_prefetch_multiplier != 1:
        yield Shortcoming(
            setting="worker_prefetch_multiplier", consequence=hoards, remedy="Leave it unset, or set it to 1."
        )


def _broker(app: Any, settings: Settings) -> Iterator[Shortcoming]:
    conf = app.conf
    if "json" not in conf.accept_content and "application/json" not in conf.accept_content:
        yield Shortcoming(
            setting="accept_content",
            consequence="Messages for runs are JSON, which this worker refuses.",
            remedy="Add 'json' to it.",
        )
    options = conf.broker_transport_options or {}
    if options.get("global_keyprefix"):
        yield Shortcoming(
            setting="broker_transport_options",
            consequence="With a global_keyprefix this worker looks for runs where clients do not put them.",
            remedy="Separate applications by the number of the database in the broker's URL instead.",
        )
    if (ours := _runs_broker(settings)) is not None and ours != _plain(conf):
        yield Shortcoming(
            setting="broker_url",
            consequence="Clients and sweepers publish runs to another broker than this worker listens to.",
            remedy="Give the application and MAINSTEM_BROKER_URL the same address.",
        )


def _limits(app: Any, settings: Settings) -> Iterator[Shortcoming]:
    task = app.tasks[GENERATE]
    for name in ("time_limit", "soft_time_limit"):
        limit = getattr(task, name) or getattr(app.conf, f"task_{name}")
        if limit and limit < settings.max_run_s:
            yield Shortcoming(
                setting=name,
                consequence=f"Runs end as timed out after {limit:g} s, not after MAINSTEM_MAX_RUN_S.",
                remedy=f"Except {GENERATE} from task_annotations, or lower MAINSTEM_MAX_RUN_S.",
            )


def _capacity(app: Any, pool: Pool, concurrency: int | None) -> Iterator[Shortcoming]:
    # One per core is Celery's default, not what anybody chose for an event loop.
    chosen = concurrency is None or concurrency != os.cpu_count() or app.conf.worker_concurrency
    if pool is Pool.ASYNCIO and not chosen:
        yield Shortcoming(
            setting="--concurrency",
            consequence=f"This process holds {concurrency} runs at once; it could hold a thousand.",
            remedy="Start it with --concurrency 1000, or set worker_concurrency.",
        )


def _redelivery(app: Any) -> Iterator[Shortcoming]:
    """Late acks and a broker that gives away what is not acknowledged in time."""
    conf = app.conf
    visible_s = float((conf.broker_transport_options or {}).get("visibility_timeout") or VISIBILITY_S)
    limit_s = conf.task_time_limit
    if conf.task_acks_late and _is_redis(conf.broker_url) and not (limit_s and limit_s < visible_s):
        yield Shortcoming(
            setting="visibility_timeout",
            consequence=f"Your own late-acknowledged tasks start again after {visible_s:g} s of running.",
            remedy="Raise it in broker_transport_options, or set a task_time_limit below it.",
        )


def _results(app: Any) -> Iterator[Shortcoming]:
    conf = app.conf
    if isinstance(app.backend, DisabledBackend):
        return
    if not conf.task_track_started and not conf.task_ignore_result:
        yield Shortcoming(
            setting="task_track_started",
            consequence="A revoke makes workers that do not know a running task write REVOKED as its result.",
            remedy="Set it to True: then they see that it runs.",
        )
    if not conf.result_expires:
        yield Shortcoming(
            setting="result_expires",
            consequence="Each abort of a run leaves a REVOKED result in the backend for ever.",
            remedy="Let results expire.",
        )


def _recycling(app: Any, pool: Pool) -> Iterator[Shortcoming]:
    for name in ("worker_max_tasks_per_child", "worker_max_memory_per_child"):
        if getattr(app.conf, name) and pool is not Pool.PREFORK:
            yield Shortcoming(
                setting=name,
                consequence="It is ignored: only prefork has processes to replace.",
                remedy="Restart the worker instead; runs drain, or go on from their checkpoints.",
            )


def _visibility(app: Any, *, events: bool) -> Iterator[Shortcoming]:
    conf = app.conf
    if not (events or conf.worker_send_task_events):
        yield Shortcoming(
            setting="worker_send_task_events",
            consequence="Without events Flower and other monitors see neither runs nor tasks.",
            remedy="Start workers with -E, or set it to True.",
        )
    if not conf.worker_enable_remote_control:
        yield Shortcoming(
            setting="worker_enable_remote_control",
            consequence="Workers hear no revoke and no inspect; aborts by a run's id reach them.",
            remedy="Leave it unset.",
        )


def _runs_broker(settings: Settings) -> str | None:
    try:
        return endpoints.celery_broker(endpoints.broker_url(settings)).url
    except (errors.MainstemError, ServerNotRunningError):
        return None


def _plain(conf: Any) -> str:
    """Return an application's broker in the form of its settings."""
    url = sentinel_addresses.of_celery(conf.broker_url, conf.broker_transport_options, conf.broker_use_ssl)
    return endpoints.celery_broker(url).url


def _is_redis(url: str | None) -> bool:
    return (url or "").startswith(("redis", "rediss", "sentinel"))
