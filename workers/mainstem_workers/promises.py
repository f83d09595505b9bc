"""What a worker's configuration cannot promise: found when it starts, said loudly, with the remedy.

Nothing is changed here. What `install` sets by itself, the application may have set otherwise: that is its
right, and these are the consequences. What store and broker cannot promise is in `mainstem_shared.promises`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mainstem_shared import endpoints, errors, promises
from mainstem_shared.embedded import ServerNotRunningError
from mainstem_shared.promises import Broken
from mainstem_shared.settings import Settings
from mainstem_tasks.dispatch import GENERATE
from mainstem_workers import pools
from mainstem_workers.pools import Pool


def warn(parent: Any) -> None:
    """Log everything that the configuration of this worker (Celery's WorkController) cannot promise."""
    promises.report(check(parent.app, pools.pool_of(parent.pool_cls)), "worker")


def check(app: Any, pool: Pool = Pool.ASYNCIO) -> list[Broken]:
    """Return what a worker of this app on this pool cannot promise."""
    settings: Settings = app.conf.mainstem_settings
    if not pools.consumes_runs(app, settings):
        return [] if pool is not Pool.ASYNCIO else [_not_consuming(app, settings)]
    found = [*_delivery(app), *_broker(app, settings), *_limits(app, settings)]
    if (limit := pools.LIMITS.get(pool)) is not None:
        remedy = "The asyncio pool holds a thousand runs per process: see docs/pools.md."
        found.append(Broken(setting=f"--pool {pool}", consequence=limit, remedy=remedy))
    return found


def _not_consuming(app: Any, settings: Settings) -> Broken:
    return Broken(
        setting=f"queues {', '.join(sorted(app.amqp.queues.consume_from))}",
        consequence=f"Runs wait in the queue {settings.queue!r}, which this worker does not consume.",
        remedy=f"Start it with -Q {settings.queue}, or set MAINSTEM_QUEUE.",
    )


def _delivery(app: Any) -> Iterator[Broken]:
    task, conf = app.tasks[GENERATE], app.conf
    remedy = f"Except {GENERATE} from task_annotations."
    if task.acks_late:
        consequence = "A lost broker connection starts a second copy of every running run, in vain each time."
        yield Broken(setting="acks_late", consequence=consequence, remedy=remedy)
    if task.reject_on_worker_lost:
        consequence = "A dead worker's messages come back beside the recovery by leases."
        yield Broken(setting="reject_on_worker_lost", consequence=consequence, remedy=remedy)
    if task.rate_limit:
        consequence = (
            f"Runs start no faster than {task.rate_limit} per worker, and wait unseen in its memory."
        )
        yield Broken(setting="rate_limit", consequence=consequence, remedy=remedy)
    hoards = "This worker keeps runs waiting that others could execute."
    if _is_redis(conf.broker_url) and not conf.worker_disable_prefetch:
        yield Broken(
            setting="worker_disable_prefetch", consequence=hoards, remedy="Leave it unset, or set it to True."
        )
    elif conf.worker_prefetch_multiplier != 1:
        yield Broken(
            setting="worker_prefetch_multiplier", consequence=hoards, remedy="Leave it unset, or set it to 1."
        )


def _broker(app: Any, settings: Settings) -> Iterator[Broken]:
    conf = app.conf
    if "json" not in conf.accept_content and "application/json" not in conf.accept_content:
        yield Broken(
            setting="accept_content",
            consequence="Messages for runs are JSON, which this worker refuses.",
            remedy="Add 'json' to it.",
        )
    options = conf.broker_transport_options or {}
    if options.get("global_keyprefix"):
        yield Broken(
            setting="broker_transport_options",
            consequence="With a global_keyprefix this worker looks for runs where clients do not put them.",
            remedy="Separate applications by the number of the database in the broker's URL instead.",
        )
    if (ours := _runs_broker(settings)) is not None and ours != conf.broker_url:
        yield Broken(
            setting="broker_url",
            consequence="Clients and sweepers publish runs to another broker than this worker listens to.",
            remedy="Give the application and MAINSTEM_BROKER_URL the same address.",
        )


def _limits(app: Any, settings: Settings) -> Iterator[Broken]:
    task = app.tasks[GENERATE]
    for name in ("time_limit", "soft_time_limit"):
        limit = getattr(task, name) or getattr(app.conf, f"task_{name}")
        if limit and limit < settings.max_run_s:
            yield Broken(
                setting=name,
                consequence=f"Runs end as timed out after {limit:g} s, not after MAINSTEM_MAX_RUN_S.",
                remedy=f"Except {GENERATE} from task_annotations, or lower MAINSTEM_MAX_RUN_S.",
            )


def _runs_broker(settings: Settings) -> str | None:
    try:
        return endpoints.broker_url(settings)
    except (errors.MainstemError, ServerNotRunningError):
        return None


def _is_redis(url: str | None) -> bool:
    return (url or "").startswith(("redis", "rediss", "sentinel"))
