"""Defines the gateway's Prometheus metrics, in a registry of each gateway's own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from mainstem_shared.eventlog.reading.tailer import Tailer
from mainstem_shared.operations.sweeping import Sweeper

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """What one gateway counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self.requests = Counter(
            "mainstem_gateway_requests",
            "HTTP requests by method, route and status.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.streams = Gauge("mainstem_gateway_streams", "Open event streams.", registry=self.registry)
        self._streamed = Counter(
            "mainstem_gateway_streamed_events", "Events sent to readers.", registry=self.registry
        )
        self._streamed_bytes = Counter(
            "mainstem_gateway_streamed_bytes", "Bytes of events sent to readers.", registry=self.registry
        )
        self.ends = Counter(
            "mainstem_gateway_stream_ends",
            "Streams that ended: finished, gone, closed (left or drained), store_unavailable, error.",
            ["end"],
            registry=self.registry,
        )
        self._topics = Gauge("mainstem_tailer_topics", "Runs that are followed.", registry=self.registry)
        self._feeds = Gauge("mainstem_tailer_feeds", "Readers that follow runs.", registry=self.registry)
        self._shards = Gauge("mainstem_tailer_shards", "Connections that read.", registry=self.registry)
        self._events = Counter(
            "mainstem_tailer_events", "Entries read live, once for all readers.", registry=self.registry
        )
        self._reads = Counter("mainstem_tailer_reads", "Blocking reads answered.", registry=self.registry)
        self._backlog = Gauge(
            "mainstem_due_backlog",
            "Work of the whole store that was due when this gateway last swept: checks, compactions.",
            ["work"],
            registry=self.registry,
        )
        self._lateness = Gauge(
            "mainstem_due_lateness_seconds",
            "For how long the oldest of that work had been due.",
            ["work"],
            registry=self.registry,
        )
        self._sent_events = self._sent_bytes = 0
        self._sweeper: Sweeper | None = None

    def observe_sweeps(self, sweeper: Sweeper) -> None:
        """Report a sweeper's figures from now on."""
        self._sweeper = sweeper

    def sent(self, events: int, size: int) -> None:
        """Count events sent to a reader. Plain numbers until somebody looks: counters lock."""
        self._sent_events += events
        self._sent_bytes += size

    def observe(self, tailer: Tailer) -> None:
        """Report a tailer's figures from now on."""
        self._topics.set_function(lambda: tailer.followed_runs)
        self._feeds.set_function(lambda: tailer.subscriptions)
        self._shards.set_function(lambda: tailer.tail_connections)
        self._tailer = tailer

    def text(self) -> bytes:
        """Return the exposition, in the text format."""
        backlog = {} if self._sweeper is None else self._sweeper.backlog
        for work, (count, lateness_s) in backlog.items():
            self._backlog.labels(work).set(count)
            self._lateness.labels(work).set(lateness_s)
        self._catch_up(self._events, self._tailer.events)
        self._catch_up(self._reads, self._tailer.reads)
        self._catch_up(self._streamed, self._sent_events)
        self._catch_up(self._streamed_bytes, self._sent_bytes)
        return generate_latest(self.registry)

    @staticmethod
    def _catch_up(counter: Counter, value: int) -> None:
        counter.reset()
        counter.inc(value)
