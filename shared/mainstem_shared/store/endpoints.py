"""Endpoints resolve where store and broker are: from the settings, else the embedded server.

Nothing is started here: who may start the embedded server, starts it before asking.
"""

from __future__ import annotations

from mainstem_shared.settings import Settings
from mainstem_shared.store.embedded import BROKER_DB, STORE_DB, EmbeddedServer


def store_url(settings: Settings) -> str:
    """Return the store's address.

    Raises:
        ServerNotRunningError: it should be the embedded server, and none runs.
    """
    if settings.redis_url is not None:
        return settings.redis_url.get_secret_value()
    return EmbeddedServer.locate(settings.data_dir).url(STORE_DB)


def broker_url(settings: Settings) -> str:
    """Return the address of Celery's broker.

    Raises:
        ServerNotRunningError: it should be the embedded server, and none runs.
    """
    if settings.broker_url is not None:
        return settings.broker_url.get_secret_value()
    return EmbeddedServer.locate(settings.data_dir).url(BROKER_DB)
