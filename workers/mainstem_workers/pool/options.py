"""Defines the settings of the asyncio pool.

Read once when Celery makes the pool: `app.conf.mainstem_pool = PoolOptions(…)`. What Celery already has
an option for (concurrency, time limits) is not here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOptions:
    """The pool's sizes and grace times."""

    #: Threads for plain `def` tasks; more of them than this wait.
    threads: int = 16
    #: Threads for blocking calls of async tasks' tracers: results, links, retries.
    offload_threads: int = 4
    #: Seconds a warm shutdown waits for running jobs before it cancels them.
    grace_s: float = 60.0
    #: Seconds cancelled jobs get to end at any shutdown; then they are abandoned.
    cancel_grace_s: float = 10.0
    #: Seconds for each shutdown hook.
    hook_timeout_s: float = 5.0
    #: Seconds to wait for the last callbacks (acknowledgements, events) at shutdown.
    callbacks_timeout_s: float = 5.0
    #: No job is started while more callbacks than this wait per slot (a broker that stands still).
    callbacks_per_slot: int = 4
