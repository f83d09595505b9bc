"""`install` adds Mainstem to a Celery app, ours or a user's own, without taking over its configuration.

It adds our tasks, a bootstep and the defaults that our guarantees rest on. What the application has set
itself stays as it is; what that breaks is said when a worker starts (`configuration_checks`).
"""

# Celery and kombu are partly untyped.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Final

import celery
from celery.exceptions import ImproperlyConfigured
from pydantic import SecretStr

from mainstem_shared.settings import Settings
from mainstem_shared.store import endpoints, sentinel_addresses
from mainstem_tasks import tasks
from mainstem_tasks.celery_support.publisher import GENERATE
from mainstem_workers.bootstep import RunsStep
from mainstem_workers.pool import PoolOptions
from mainstem_workers.pool_hosts import CANCEL_GRACE_S

if TYPE_CHECKING:
    from celery import Celery

PROVEN: Final = (5, 7)
"""The Celery release whose internals the pool's conformance tests hold."""
TIME_LIMIT_MARGIN_S: Final = 600.0
"""A run ends itself at its own limit; Celery's is for a segment that cannot."""

DEFAULTS: Final[dict[str, Any]] = {
    # With early acks prefetching would hoard runs that other workers could execute.
    "worker_disable_prefetch": True,
    "worker_prefetch_multiplier": 1,
    # A prefork child that waits for an unavailable store is not dead.
    "worker_proc_alive_timeout": 30,
    # An unavailable broker is waited for, at the start and ever after: no worker stays deaf.
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
}
"""What runs need and an application has not set itself. `docs/existing-apps.md` lists the reasons."""

_installed: weakref.WeakKeyDictionary[Celery, Settings] = weakref.WeakKeyDictionary()


def install(app: Celery, settings: Settings | None = None) -> Settings:
    """Let the workers of a Celery app execute runs; returns the settings they will have.

    Call it where the app is made, before or after its configuration. Calling it again changes nothing.

    Args:
        app: the application.
        settings: by default those of the environment. Without a broker in them, the application's is used.

    Raises:
        ImproperlyConfigured: this Celery is none that Mainstem was proven on.
    """
    require_proven(celery.__version__)
    if app in _installed:
        return _installed[app]
    _installed[app] = settings or Settings()
    app.steps["worker"].add(RunsStep)  # pyright: ignore[reportOptionalSubscript]
    # The configuration may be loaded, or loaded anew, after us.
    app.on_after_configure.connect(_configure, weak=False)  # pyright: ignore[reportOptionalMemberAccess]
    app.on_after_finalize.connect(_register, weak=False)  # pyright: ignore[reportOptionalMemberAccess]
    if app.configured:
        _configure(app, app.conf)
    if app.finalized:
        _register(app)
    return _installed[app]


def require_proven(version: str) -> None:
    """Refuse a Celery whose internals were never compared with what the pool expects of them.

    Raises:
        ImproperlyConfigured: naming the version, and those that will do.
    """
    release = ".".join(map(str, PROVEN))
    if version.split(".")[:2] != release.split("."):
        raise ImproperlyConfigured(
            f"Mainstem was proven on Celery {release}, and this is Celery {version}: its pool depends on "
            f"internals that change between releases. Install celery>={release},<{PROVEN[0]}.{PROVEN[1] + 1}."
        )


def _configure(sender: Celery, source: Any, **_: Any) -> None:
    """Set what the application has not set: its own values, whenever it sets them, come first."""
    settings = _installed[sender]
    own = source.without_defaults()
    url = _broker_of(source) or endpoints.broker_url(settings)
    if settings.broker_url is None and source.broker_url is not None:
        settings = settings.model_copy(update={"broker_url": SecretStr(url)})
        _installed[sender] = settings
    _set_broker(source, url)
    pool = PoolOptions(grace_s=settings.drain_s, cancel_grace_s=CANCEL_GRACE_S)
    for name, value in {**DEFAULTS, "mainstem_pool": pool}.items():
        if name not in own:
            source[name] = value
    source["mainstem_settings"] = settings


def _broker_of(source: Any) -> str | None:
    """Return the application's own broker, as one address."""
    if source.broker_url is None:
        return None
    return sentinel_addresses.of_celery(
        source.broker_url, source.broker_transport_options, source.broker_use_ssl
    )


def _set_broker(source: Any, url: str) -> None:
    """Tell Celery where the broker is, also where the application has it from an address of ours."""
    options = source.broker_transport_options or {}
    if source.broker_url is not None and (
        not sentinel_addresses.is_sentinel(url) or "master_name" in options
    ):
        return
    broker = endpoints.celery_broker(url)
    source["broker_url"] = broker.url
    source["broker_transport_options"] = {**broker.transport_options, **options}
    source["broker_use_ssl"] = source.broker_use_ssl or broker.use_ssl


def _register(sender: Celery, **_: Any) -> None:
    tasks.register(sender)
    task = sender.tasks[GENERATE]
    # The application's limits are meant for its own tasks; annotations for ours are meant for ours.
    for name in ("time_limit", "soft_time_limit"):
        limit = getattr(sender.conf, f"task_{name}")
        if limit and getattr(task, name) == limit:
            setattr(task, name, _installed[sender].max_run_s + TIME_LIMIT_MARGIN_S)
