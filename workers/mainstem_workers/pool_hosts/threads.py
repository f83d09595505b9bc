"""The host of threads and solo runs housekeeping on the background loop until after the pool's last job."""

# Celery is partly untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery import signals

from mainstem_shared.settings import Settings
from mainstem_tasks.execution import runtime
from mainstem_workers.pool import _celery
from mainstem_workers.pool_hosts.background import CANCEL_GRACE_S, Background, info_of


class ThreadsHost:
    """On threads and solo: on the background loop; stopped here, once the pool has ended its last job."""

    def __init__(self, settings: Settings, queues: Sequence[str], *, pool: str, slots: int) -> None:
        self._settings = settings
        self._eager = bool(queues)
        self._background = Background(settings, queues, pool=pool, slots=slots)

    def start(self, parent: Any) -> None:
        runtime.provide(self._background.ready)
        _celery.before_cold_cancel(parent, lambda: self._background.drain(0))
        signals.worker_shutting_down.connect(self._on_shutting_down, weak=False)
        if self._eager:
            self._background.start()

    def stop(self, parent: Any) -> None:
        parent.pool.stop()  # Celery would stop it after us; asked twice, it does nothing
        self._end()

    def terminate(self, parent: Any) -> None:
        del parent  # these pools cannot be terminated: what runs is stopped from here
        self._background.drain(0)
        self._background.wait_idle(CANCEL_GRACE_S)
        self._end()

    def info(self) -> dict[str, Any]:
        return info_of(self._background.runtime)

    def _end(self) -> None:
        signals.worker_shutting_down.disconnect(self._on_shutting_down)
        runtime.provide(None)
        self._background.stop()

    def _on_shutting_down(self, how: str = "", **_: Any) -> None:
        self._background.drain(self._settings.drain_s if how == "Warm" else 0)
