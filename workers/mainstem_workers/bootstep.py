"""`RunsStep` is the Celery bootstep that lets a worker execute runs, with the pool's host (`pool_hosts`).

It starts after the pool, and is told to stop before it. Housekeeping must outlive the pool's last job: each
host sees to that in the way its pool allows.
"""

# Celery and kombu are partly untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import logging
from typing import Any

from celery import bootsteps
from celery.app.log import TaskFormatter
from celery.exceptions import ImproperlyConfigured
from celery.utils.log import ColorFormatter

from mainstem_shared import errors, log_lines
from mainstem_shared.store import endpoints, readiness
from mainstem_workers import configuration_checks, pool_hosts
from mainstem_workers.pool import _celery

logger = logging.getLogger(__name__)


class RunsStep(bootsteps.StartStopStep):
    """Makes a worker keep runs. Refuses, before anything starts, pools that cannot."""

    requires = ("celery.worker.components:Pool",)
    label = "Mainstem"

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        self._host = pool_hosts.host_for(parent)
        if not isinstance(self._host, pool_hosts.NoPoolHost):
            _check_servers(parent.app)

    def start(self, parent: Any) -> None:
        configuration_checks.warn(parent)
        _celery.keep_broker_address(parent)
        _celery.outlive_broker_errors(parent)
        log_lines.reach_handlers(_is_plain)
        self._host.start(parent)

    def stop(self, parent: Any) -> None:
        self._host.stop(parent)

    def terminate(self, parent: Any) -> None:
        self._host.terminate(parent)

    def info(self, obj: Any) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """For `celery inspect stats`."""
        del obj
        return self._host.info()


def _is_plain(formatter: logging.Formatter) -> bool:
    """Tell whether a handler has a format of logging's or Celery's: others are somebody's own."""
    return type(formatter) in {logging.Formatter, ColorFormatter, TaskFormatter}


def _check_servers(app: Any) -> None:
    """Have a worker whose runs could not be kept end with a sentence, as it does on a pool that cannot."""
    broker: str = app.conf.broker_read_url or app.conf.broker_url or ""
    try:
        readiness.check_servers(endpoints.store_url(app.conf.mainstem_settings), broker)
    except (errors.ClusterUnsupported, errors.Misconfigured) as error:
        raise ImproperlyConfigured(str(error)) from error
