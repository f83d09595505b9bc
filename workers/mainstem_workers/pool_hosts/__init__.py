"""A pool host starts and stops a worker process's `Housekeeping`; each of Celery's pools has its own.

The asyncio pool has the loop that everything runs on. Threads and solo use the process's background loop, as
does each prefork child. What abort and shutdown each can give is told in `docs/pools.md`.
"""

# Celery is partly untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import logging
from typing import Any, Protocol

from celery.exceptions import ImproperlyConfigured

from mainstem_shared.settings import Settings
from mainstem_workers import pool_support
from mainstem_workers.pool_hosts.asyncio import AsyncioHost
from mainstem_workers.pool_hosts.background import CANCEL_GRACE_S
from mainstem_workers.pool_hosts.prefork import PreforkHost
from mainstem_workers.pool_hosts.threads import ThreadsHost

__all__ = ["CANCEL_GRACE_S", "PoolHost", "host_for"]

logger = logging.getLogger(__name__)


class PoolHost(Protocol):
    """What `RunsStep` asks of a host; the parent is Celery's WorkController."""

    def start(self, parent: Any) -> None: ...
    def stop(self, parent: Any) -> None: ...
    def terminate(self, parent: Any) -> None: ...
    def info(self) -> dict[str, Any]: ...


def host_for(parent: Any) -> PoolHost:
    """Return the host for a worker's pool.

    Raises:
        ImproperlyConfigured: the worker would execute runs on a pool that cannot.
    """
    settings: Settings = parent.app.conf.mainstem_settings
    pool = pool_support.pool_of(parent.pool_cls)
    queues = pool_support.consumed_queues(parent.app, settings)
    match pool:
        case pool_support.Pool.ASYNCIO:
            return AsyncioHost(settings, queues)
        case pool_support.Pool.THREADS | pool_support.Pool.SOLO:
            slots = 1 if pool is pool_support.Pool.SOLO else parent.concurrency
            return ThreadsHost(settings, queues, pool=pool.value, slots=slots)
        case pool_support.Pool.PREFORK:
            return PreforkHost(settings, queues)
        case _:
            if queues:
                raise ImproperlyConfigured(pool_support.refusal(pool, parent.pool_cls, settings))
            return NoPoolHost()


class NoPoolHost:
    """For workers of an application that neither can nor shall execute runs."""

    def start(self, parent: Any) -> None:
        del parent
        logger.info("this worker executes no runs", extra={"action": "no_runs_here"})

    def stop(self, parent: Any) -> None:
        """Nothing was started."""

    def terminate(self, parent: Any) -> None:
        """Nothing was started."""

    def info(self) -> dict[str, Any]:
        return {}
