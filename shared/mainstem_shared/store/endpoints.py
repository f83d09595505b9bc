"""Endpoints resolve where store and broker are: from the settings, else the embedded server.

Nothing is started here: who may start the embedded server, starts it before asking.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mainstem_shared.settings import Settings
from mainstem_shared.store import sentinel_addresses
from mainstem_shared.store.embedded import BROKER_DB, EmbeddedFleet, EmbeddedServer


def store_url(settings: Settings) -> str:
    """Return the store's address.

    Raises:
        ServerNotRunningError: it should be the embedded server, and none runs.
    """
    if settings.redis_url is not None:
        return settings.redis_url.get_secret_value()
    return EmbeddedFleet.locate(settings.data_dir).store_url


def broker_url(settings: Settings) -> str:
    """Return the address of Celery's broker.

    Raises:
        ServerNotRunningError: it should be the embedded server, and none runs.
    """
    if settings.broker_url is not None:
        return settings.broker_url.get_secret_value()
    return EmbeddedServer.locate(settings.data_dir).url(BROKER_DB)


@dataclass(frozen=True, slots=True, kw_only=True)
class CeleryBroker:
    """A broker's address as Celery's configuration has it."""

    url: str = field(repr=False)
    transport_options: dict[str, Any] = field(default_factory=dict[str, Any], repr=False)
    use_ssl: dict[str, Any] | None = field(default=None, repr=False)


def celery_broker(url: str) -> CeleryBroker:
    """Return what Celery is told so that it finds the broker at `url`, also behind Sentinels.

    Raises:
        Misconfigured: an address of Sentinels that cannot be read.
    """
    if not sentinel_addresses.is_sentinel(url):
        return CeleryBroker(url=url)
    address = sentinel_addresses.parse(url)
    return CeleryBroker(
        url=address.celery_url,
        transport_options=address.celery_transport_options,
        use_ssl=address.celery_ssl,
    )
