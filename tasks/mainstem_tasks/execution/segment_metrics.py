"""Counts and names what becomes of a segment: its begin, the run's first content, and how it ended."""

from __future__ import annotations

import time
from typing import Final

from mainstem_shared import transitions
from mainstem_shared.eventlog.writing.channels import Channel
from mainstem_shared.metrics import catalogue as metrics
from mainstem_shared.metrics import labels
from mainstem_shared.model.time import now_ms

_HOWS: Final = frozenset({"paused", "handed_over", "lost", "unfinished"})
"""How a segment ends that does not end its run."""


def names_of(claimed: transitions.Claimed) -> dict[str, object]:
    """Return what log lines and spans of a segment say about it."""
    spec = claimed.spec
    return {
        "run_id": spec.run_id,
        "thread_id": spec.thread_id,
        "user_id": spec.user_id,
        "engine": spec.engine,
        "segment": claimed.segment,
    }


class SegmentMetrics:
    """The metrics of one segment. Called about once a second, and not on the way of a token."""

    def __init__(self, claimed: transitions.Claimed) -> None:
        self._engine = labels.engine(claimed.spec.engine)
        self._created_ms = claimed.spec.created_ms
        self._is_first = claimed.segment == 1
        self._saw_content = not self._is_first

    def begin(self) -> None:
        """Count a run that nobody had begun, and how long it waited."""
        if self._is_first:
            metrics.RUNS_STARTED.labels(self._engine).inc()
            metrics.QUEUE_WAIT.labels(self._engine).observe(self._since_creation_s(now_ms()))

    def watch(self, channel: Channel) -> None:
        """Count the time to the run's first content, once it is there."""
        if self._saw_content or not channel.first_emit:
            return
        self._saw_content = True
        at_ms = now_ms() - (time.monotonic() - channel.first_emit) * 1000
        metrics.FIRST_TOKEN.labels(self._engine).observe(self._since_creation_s(at_ms))

    def end(self, channel: Channel, outcome: str) -> None:
        """Count the segment's end, by what its execution returned."""
        how = outcome.replace(" ", "_")
        self.watch(channel)
        metrics.SEGMENTS_ENDED.labels(self._engine, how if how in _HOWS else "ended").inc()

    def _since_creation_s(self, at_ms: float) -> float:
        return max(0.0, at_ms - self._created_ms) / 1000
