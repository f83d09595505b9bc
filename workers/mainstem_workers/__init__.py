"""The worker process: Celery app, asyncio pool, lease, watchdog and mailbox."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery import Celery

    from mainstem_shared.settings import Settings

__all__ = ["broker_url", "install"]


def broker_url(settings: Settings | None = None) -> str:
    """Return the broker's address: as `MAINSTEM_BROKER_URL` says, else of `mainstem up` in this directory.

    Raises:
        ServerNotRunningError: neither is there.
    """
    from mainstem_shared.settings import Settings
    from mainstem_shared.store import endpoints

    return endpoints.celery_broker(endpoints.broker_url(settings or Settings())).url


def install(app: Celery, settings: Settings | None = None) -> Settings:
    """Let the workers of a Celery app execute runs; returns the settings they will have.

    Call it where the app is made, before or after its configuration. Calling it again changes nothing.

    Args:
        app: the application.
        settings: by default those of the environment. Without a broker in them, the application's is used.

    Raises:
        ImproperlyConfigured: this Celery is none that Mainstem was proven on.
    """
    # Not at import: Celery reads CELERY_CUSTOM_WORKER_POOL when it is imported, and `__main__` sets it.
    from mainstem_workers import installation

    return installation.install(app, settings)
