"""Lists what each of Celery's pools supports for runs, and refuses pools that cannot execute them.

The words stand here, for the refusal, the start-up warning and `docs/pools.md` alike.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

from mainstem_shared.settings import Settings


class Pool(StrEnum):
    """Celery's pools, as its command line names them; ours is `asyncio`."""

    ASYNCIO = "asyncio"
    THREADS = "threads"
    PREFORK = "prefork"
    SOLO = "solo"
    GEVENT = "gevent"
    EVENTLET = "eventlet"
    UNKNOWN = "unknown"


_MODULES: Final = {
    "mainstem_workers.pool.taskpool": Pool.ASYNCIO,
    "celery.concurrency.thread": Pool.THREADS,
    "celery.concurrency.prefork": Pool.PREFORK,
    "celery.concurrency.solo": Pool.SOLO,
    "celery.concurrency.gevent": Pool.GEVENT,
    "celery.concurrency.eventlet": Pool.EVENTLET,
}

LIMITS: Final = {
    Pool.THREADS: "It runs as many runs as it has threads. Celery's terminate does nothing here, also from "
    "Flower: abort runs by their id. Time limits of Celery are ignored; a run's own hold.",
    Pool.PREFORK: "One process per run, with connections of its own. Celery's terminate ends the run and its "
    "process.",
    Pool.SOLO: "One run at a time; meanwhile the worker hears nothing from Celery: no ping, no revoke. For "
    "debugging only.",
}
"""What runs cannot have on a pool, for a warning when it starts."""


def pool_of(cls: type) -> Pool:
    """Tell which pool a pool class is, or derives from."""
    for base in cls.__mro__:
        if (pool := _MODULES.get(base.__module__)) is not None:
            return pool
    return Pool.UNKNOWN


def consumes_runs(app: Any, settings: Settings) -> bool:
    """Tell whether the worker of this app takes messages from a queue for runs."""
    return bool(consumed_queues(app, settings))


def consumed_queues(app: Any, settings: Settings) -> tuple[str, ...]:
    """Return the queues for runs that the worker of this app takes messages from (`-Q`)."""
    return tuple(name for name in settings.queues if name in app.amqp.queues.consume_from)


def refusal(pool: Pool, cls: type, settings: Settings) -> str:
    """Say why a pool cannot execute runs, and what to do."""
    name = f"{cls.__module__}.{cls.__qualname__}" if pool is Pool.UNKNOWN else pool.value
    return (
        f"Mainstem's runs need an event loop, which the pool {name} cannot give them. Start this worker with "
        "CELERY_CUSTOM_WORKER_POOL=mainstem_workers.pool:TaskPool and --pool custom, or --pool threads, or "
        "--pool prefork; or, if it is for other tasks, with -Q and without the queue "
        f"{' or '.join(map(repr, settings.queues))}."
    )
