"""`mainstem doctor -A` inspects a Celery application: what its settings and its pool cannot guarantee.

The workers' package is used by name: the web tier's never imports it, and it may not be installed there.
"""

# Celery and kombu are partly untyped.
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from mainstem_shared.settings import Settings
from mainstem_shared.store.server_checks import Shortcoming


class UnusableError(Exception):
    """The application cannot be inspected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was inspected, what it cannot guarantee for runs, and what runs have that its tasks have not."""

    name: str
    pool: str
    broken: list[Shortcoming]
    notes: list[Shortcoming]


def inspect_app(name: str | None, pool: str | None, settings: Settings) -> Report:
    """Inspect an app, named as for `celery -A`, or Mainstem's own.

    Raises:
        UnusableError: there is no such app, or `install(app)` was never called on it.
    """
    pools = importlib.import_module("mainstem_workers.pool_support")
    checks = importlib.import_module("mainstem_workers.configuration_checks")
    app = _find(name) if name else importlib.import_module("mainstem_workers.app").make_app(settings)
    chosen = pools.Pool(pool) if pool else _pool_of(app, pools)
    if (installed := app.conf.get("mainstem_settings")) is None:
        raise UnusableError("it executes no runs: call mainstem_workers.install(app) where it is made")
    if chosen in {pools.Pool.GEVENT, pools.Pool.EVENTLET} and pools.consumes_runs(app, installed):
        refusal = Shortcoming(
            setting=f"--pool {chosen}",
            consequence="A worker on it refuses to start.",
            remedy=pools.refusal(chosen, type(app), installed),
            fatal=True,
        )
        return Report(name=name or "", pool=chosen, broken=[refusal], notes=[])
    return Report(
        name=name or "mainstem worker",
        pool=chosen,
        broken=checks.check(app, chosen, concurrency=app.conf.worker_concurrency),
        notes=checks.notes(app, chosen),
    )


def _find(name: str) -> Any:
    from celery.app.utils import find_app

    try:
        app = find_app(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UnusableError(str(error)) from error
    app.finalize()
    return app


def _pool_of(app: Any, pools: Any) -> Any:
    """Return the pool that the app's settings name; without any ours, with which workers are started."""
    if "worker_pool" not in app.conf.without_defaults():
        return pools.Pool.ASYNCIO
    from celery.concurrency import get_implementation

    return pools.pool_of(get_implementation(app.conf.worker_pool))
