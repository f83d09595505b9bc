"""Serves a worker's metrics: by itself, or, in a child of prefork, through the parent that listens for all.

MAINSTEM_METRICS_PORT says where. Counting needs no listener; a port that is taken ends no worker.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from prometheus_client.registry import Collector

from mainstem_shared.coordination.leases import Lease
from mainstem_shared.metrics import labels
from mainstem_shared.metrics.catalogue import WORKER
from mainstem_shared.metrics.exposition import Exposition, Listener, leave
from mainstem_shared.operations import gauges
from mainstem_shared.operations.sweeping import Sweeper
from mainstem_shared.settings import Settings
from mainstem_tasks.celery_support.broker_watch import BrokerWatch
from mainstem_tasks.execution.runtime import Runtime
from mainstem_tasks.sdk import registry
from mainstem_workers.loop_watchdog import Watchdog

logger = logging.getLogger(__name__)

LEAVE_S: Final = 1.0
"""How often a child leaves its figures: more often than anybody scrapes."""


def listen(figures: Collector, settings: Settings) -> Listener | None:
    """Serve a worker's metrics, if the settings say where."""
    if settings.metrics_port is None:
        return None
    try:
        return Listener(figures, host=settings.metrics_host, port=settings.metrics_port)
    except OSError as error:
        noted = {"action": "metrics_unserved", "error": str(error)}
        logger.error("this worker serves no metrics: set MAINSTEM_METRICS_HOST, _PORT", extra=noted)  # noqa: TRY400
        return None


class WorkerMetrics:
    """The metrics of one process that executes runs. In a `folder`, another process serves them."""

    def __init__(self, here: Runtime, *, slots: int, folder: Path | None) -> None:
        self.exposition = Exposition(WORKER)
        self._here = here
        self._folder = folder
        self._listener: Listener | None = None
        self.exposition.read(
            worker_slots=lambda: slots,
            worker_slots_used=lambda: len(here.segments),
            provider_waiting=lambda: len(here.waiting_for_providers),
            engine_silence_seconds=here.longest_silence_s,
            writer_connected=lambda: float(here.writer.connected.is_set()),
            writer_window_seconds=lambda: here.writer.window_s,
            writer_buffered_bytes=lambda: here.writer.buffered_bytes,
            writer_channels=lambda: here.writer.channel_count,
            writer_groups=lambda: here.writer.groups_sent,
            writer_bytes=lambda: here.writer.bytes_sent,
        )

    def start(self, *, sweeper: Sweeper, lease: Lease, broker: BrokerWatch, watchdog: Watchdog) -> None:
        """Serve from now on."""
        labels.know_engines(registry.describe())
        labels.know_model(self._here.settings.openai_model)
        labels.know_model(self._here.settings.anthropic_model)
        gauges.install(self.exposition, sweeper=sweeper, lease=lease)
        self.exposition.read(
            broker_up=lambda: float(broker.is_up),
            broker_latency_seconds=lambda: broker.latency_s,
            loop_lag_seconds=lambda: watchdog.lag_s,
        )
        if self._folder is None:
            self._listener = listen(self.exposition, self._here.settings)

    def leave(self) -> None:
        """Leave the figures for the process that serves them."""
        if self._folder is not None:
            leave(self.exposition, self._folder)

    def stop(self) -> None:
        """Stop serving; what was counted last stays for the process that serves others'."""
        self.leave()
        if self._listener is not None:
            self._listener.close()
