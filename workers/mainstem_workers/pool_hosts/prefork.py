"""The host of prefork runs housekeeping in every child; a pipe tells them that the parent shuts down."""

# Celery is partly untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from celery import signals

from mainstem_shared.metrics.exposition import FolderMetrics, Listener
from mainstem_shared.settings import Settings
from mainstem_tasks.celery_support import background_loop
from mainstem_tasks.execution import runtime
from mainstem_workers import metrics
from mainstem_workers.pool import _celery
from mainstem_workers.pool_hosts.background import Background

_NOW: Final = b"!"
"""What the parent of prefork children says before it hangs up, if they shall not wait for the drain."""
_MOST_CHILDREN: Final = 4096
"""A byte for each child that may read one; it fits a pipe's buffer, so that writing does not block."""


class PreforkHost:
    """On prefork: every child keeps its own. The parent says by a pipe that it is shutting down.

    Children are not told of a warm shutdown by Celery, which would wait for their runs for ever. They see the
    pipe close also if the parent dies.
    """

    def __init__(self, settings: Settings, queues: Sequence[str]) -> None:
        self._settings = settings
        self._queues = queues
        self._eager = bool(queues)
        # Before the pool forks, or children would not inherit it.
        self._hears, self._says = os.pipe()
        self._background: Background | None = None
        self._metrics_folder = (
            None if settings.metrics_port is None else TemporaryDirectory(prefix="mainstem-")
        )
        self._listener: Listener | None = None
        signals.worker_process_init.connect(self._on_child_started, weak=False)
        signals.worker_process_shutdown.connect(self._on_child_stopping, weak=False)
        signals.worker_shutting_down.connect(self._on_shutting_down, weak=False)

    def start(self, parent: Any) -> None:
        """Hear of a cold shutdown before it cancels the children's tasks. They are running already."""
        _celery.before_cold_cancel(parent, lambda: self._say(_NOW))
        if self._metrics_folder is not None:
            self._listener = metrics.listen(FolderMetrics(Path(self._metrics_folder.name)), self._settings)

    def stop(self, parent: Any) -> None:
        del parent
        self._say(b"")
        self._stop_metrics()

    def terminate(self, parent: Any) -> None:
        del parent
        self._say(_NOW)
        self._stop_metrics()

    def _stop_metrics(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def info(self) -> dict[str, Any]:
        return {}

    # -- in the parent

    def _on_shutting_down(self, how: str = "", **_: Any) -> None:
        self._say(b"" if how == "Warm" else _NOW)

    def _say(self, word: bytes) -> None:
        """Tell all children at once. On a signal handler's stack: nothing here may block."""
        if self._says < 0:
            return
        says, self._says = self._says, -1
        if word:
            os.write(says, word * _MOST_CHILDREN)
        os.close(says)

    # -- in a child

    def _on_child_started(self, **_: Any) -> None:
        os.close(self._says)
        self._says = -1
        background = self._background = Background(
            self._settings,
            self._queues,
            pool="prefork",
            metrics_folder=None if self._metrics_folder is None else Path(self._metrics_folder.name),
        )
        runtime.provide(background.ready)
        loop = background_loop.background().loop
        loop.call_soon_threadsafe(loop.add_reader, self._hears, self._on_parent)
        if self._eager:
            background.start()

    def _on_parent(self) -> None:
        asyncio.get_running_loop().remove_reader(self._hears)
        assert self._background is not None
        if os.read(self._hears, 1) == _NOW:
            self._background.stop_segments()  # at once: SIGTERM comes, and would look like a revoke
        else:
            self._background.drain(self._settings.drain_s)

    def _on_child_stopping(self, **_: Any) -> None:
        if self._background is not None:
            self._background.stop()
