"""Counts a gateway's requests and streams; `mainstem_shared.metrics.catalogue` declares the metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from mainstem_shared.coordination.leases import Lease
from mainstem_shared.eventlog.reading.tailer import Tailer
from mainstem_shared.metrics.catalogue import GATEWAY
from mainstem_shared.metrics.exposition import CONTENT_TYPE, Exposition
from mainstem_shared.operations import gauges
from mainstem_shared.operations.sweeping import Sweeper
from mainstem_tasks.celery_support.broker_watch import BrokerWatch

__all__ = ["CONTENT_TYPE", "Metrics"]


class Metrics:
    """Counts for one gateway, in plain numbers until they are scraped; belongs to the gateway's loop."""

    def __init__(self) -> None:
        self._exposition = Exposition(GATEWAY)
        self._requests = Counter[tuple[str, str, str]]()
        self._ends = Counter[str]()
        self._streams = self._sent_events = self._sent_bytes = 0
        self._exposition.read(
            gateway_requests=self._read_requests,
            gateway_streams=lambda: self._streams,
            gateway_streamed_events=lambda: self._sent_events,
            gateway_streamed_bytes=lambda: self._sent_bytes,
            gateway_stream_ends=self._read_ends,
        )

    def _read_requests(self) -> Mapping[tuple[str, ...], float]:
        return {labels: float(count) for labels, count in self._requests.items()}

    def _read_ends(self) -> Mapping[tuple[str, ...], float]:
        return {(end,): float(count) for end, count in self._ends.items()}

    def requested(self, method: str, route: str, status: str) -> None:
        """Count an answered request."""
        self._requests[method, route, status] += 1

    def stream_began(self) -> None:
        """Count an event stream that is open now."""
        self._streams += 1

    def stream_ended(self) -> None:
        """Count it no more."""
        self._streams -= 1

    def ended_by(self, end: str) -> None:
        """Count how a stream ended."""
        self._ends[end] += 1

    def sent(self, events: int, size: int) -> None:
        """Count events sent to a reader."""
        self._sent_events += events
        self._sent_bytes += size

    def observe(self, tailer: Tailer) -> None:
        """Report a tailer's figures from now on."""
        self._exposition.read(
            tailer_topics=lambda: tailer.followed_runs,
            tailer_feeds=lambda: tailer.subscriptions,
            tailer_shards=lambda: tailer.tail_connections,
            tailer_events=lambda: tailer.events,
            tailer_reads=lambda: tailer.reads,
        )

    def observe_housekeeping(self, *, sweeper: Sweeper, lease: Lease, broker: BrokerWatch) -> None:
        """Report the figures of what goes on beside requests from now on."""
        gauges.install(self._exposition, sweeper=sweeper, lease=lease)
        self._exposition.read(
            broker_up=lambda: float(broker.is_up), broker_latency_seconds=lambda: broker.latency_s
        )

    def text(self) -> bytes:
        """Return the exposition, in the text format."""
        return self._exposition.text()
