"""Counts a segment's events for metrics: its begin, the run's first content, and how it ended."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Generator
from typing import Final

from mainstem_shared import log_lines, tracing, transitions
from mainstem_shared.eventlog.writing.channels import Channel
from mainstem_shared.metrics import catalogue as metrics
from mainstem_shared.metrics import labels
from mainstem_shared.model.runs import Reason, Status
from mainstem_shared.model.time import now_ms
from mainstem_tasks.celery_support.publisher import GENERATE

logger = logging.getLogger(__name__)

SILENT_S: Final = 120.0
"""After which an engine's silence is logged: the alert `MainstemEngineSilent` waits for as long."""
_FAILURES: Final = frozenset(reason.value for reason in Reason if reason.status is Status.FAILED)
_HOWS: Final = frozenset({"paused", "handed_over", "lost", "unfinished"})
"""How a segment ends that does not end its run."""


class SegmentSpans:
    """The spans of one segment: its Celery task's, and its engine's inside."""

    def __init__(self, *spans: tracing.Span) -> None:
        self._spans = spans

    def ended(self, outcome: str) -> str:
        """Note how the segment ended; returns it."""
        for span in self._spans:
            span.note(mainstem__outcome=outcome)
            if outcome in _FAILURES:
                span.failed(outcome)
        return outcome


@contextlib.contextmanager
def observed(claimed: transitions.Claimed, *, task_id: str) -> Generator[SegmentSpans]:
    """Have log lines name the run, and spans tell of it, in the trace that the run was started in."""
    spec = claimed.spec
    about: tracing.Attributes = {
        "mainstem.run.id": spec.run_id,
        "mainstem.segment": claimed.segment,
        "gen_ai.conversation.id": spec.thread_id,
    }
    task: tracing.Attributes = {
        "messaging.system": "celery",
        "messaging.operation.type": "process",
        "messaging.message.id": task_id,
    }
    agent: tracing.Attributes = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": spec.engine}
    names = {"thread_id": spec.thread_id, "user_id": spec.user_id, "engine": spec.engine}
    with (
        log_lines.bound(run_id=spec.run_id, **names, segment=claimed.segment),
        tracing.span(
            f"process {GENERATE}", kind="CONSUMER", parent=spec.traceparent, attributes=about | task
        ) as outer,
        tracing.span(f"invoke_agent {spec.engine}", attributes=about | agent) as inner,
    ):
        yield SegmentSpans(outer, inner)


class SegmentMetrics:
    """The metrics of one segment. Called about once a second, and not on the way of a token."""

    def __init__(self, claimed: transitions.Claimed) -> None:
        self._engine = labels.engine(claimed.spec.engine)
        self._run_id = claimed.spec.run_id
        self._silent_since: float | None = None
        self._created_ms = claimed.spec.created_ms
        self._is_first = claimed.segment == 1
        self._saw_content = not self._is_first

    def begin(self) -> None:
        """Count a run that nobody had begun, and how long it waited."""
        if self._is_first:
            metrics.RUNS_STARTED.labels(self._engine).inc()
            metrics.QUEUE_WAIT.labels(self._engine).observe(self._since_creation_s(now_ms()))

    def watch(self, channel: Channel) -> None:
        """Count the time to the run's first content, once it is there; log each silence of its engine."""
        self._tell_of_silence(channel.last_emit)
        if self._saw_content or not channel.first_emit:
            return
        self._saw_content = True
        at_ms = now_ms() - (time.monotonic() - channel.first_emit) * 1000
        metrics.FIRST_TOKEN.labels(self._engine).observe(self._since_creation_s(at_ms))

    def _tell_of_silence(self, last_emit: float) -> None:
        """Name the run of a silent engine: the alert has only its worker."""
        silent_s = time.monotonic() - last_emit
        if silent_s > SILENT_S and last_emit != self._silent_since:
            self._silent_since = last_emit
            noted = {"action": "engine_silent", "run_id": self._run_id, "engine": self._engine}
            logger.warning("an engine has emitted nothing for %.0f s", silent_s, extra=noted)

    def end(self, channel: Channel, outcome: str) -> None:
        """Count the segment's end, by what its execution returned."""
        how = outcome.replace(" ", "_")
        self.watch(channel)
        metrics.SEGMENTS_ENDED.labels(self._engine, how if how in _HOWS else "ended").inc()

    def _since_creation_s(self, at_ms: float) -> float:
        return max(0.0, at_ms - self._created_ms) / 1000
