"""Declares the metrics: `reference/metrics.md` is made from this table; tests compare processes with it.

Counters and histograms are counted where something happens, by the objects here, once per process. Gauges
(and the totals of objects that count by themselves) are read when somebody asks (`Exposition.read`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter, Histogram

Kind = Literal["counter", "gauge", "histogram"]
WORKER: Final = "worker"
GATEWAY: Final = "gateway"
BOTH: Final = (WORKER, GATEWAY)
"""Each of them sweeps, holds a lease and ends runs."""

SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
"""From a token's way to the longest run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One row of the table."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    meaning: str
    exported_by: tuple[str, ...]

    @property
    def exposed_name(self) -> str:
        """The name of its samples, but for a histogram's suffixes."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


METRICS: Final[dict[str, Metric]] = {}
"""Every metric by its name."""
COUNTED: Final = CollectorRegistry(auto_describe=True)
"""What this process has counted. A process is one worker or one gateway; tests have several in one."""


def _declare(kind: Kind, name: str, meaning: str, labels: str = "", by: tuple[str, ...] = BOTH) -> Metric:
    row = METRICS[name] = Metric(
        name=name, kind=kind, labels=tuple(labels.split()), meaning=meaning, exported_by=by
    )
    return row


def _counter(name: str, meaning: str, labels: str = "", by: tuple[str, ...] = BOTH) -> Counter:
    row = _declare("counter", name, meaning, labels, by)
    return Counter(name, meaning, row.labels, registry=COUNTED)


def _histogram(name: str, meaning: str, labels: str = "", by: tuple[str, ...] = BOTH) -> Histogram:
    row = _declare("histogram", name, meaning, labels, by)
    return Histogram(name, meaning, row.labels, registry=COUNTED, buckets=SECONDS)


_W: Final = (WORKER,)
_G: Final = (GATEWAY,)

# -- runs
RUNS_STARTED: Final = _counter(
    "mainstem_runs_started", "Runs that a worker began: claims of runs that nobody had begun.", "engine", _W
)
RUNS_ENDED: Final = _counter("mainstem_runs_ended", "Runs that this process ended.", "engine result reason")
SEGMENTS_ENDED: Final = _counter(
    "mainstem_segments_ended",
    "Executions of a run by this worker that ended: ended, paused, handed_over, lost (to another owner), "
    "unfinished (the end could not be written).",
    "engine outcome",
    _W,
)
RUNS_RECOVERED: Final = _counter(
    "mainstem_runs_recovered",
    "Runs whose owner died, by what became of them: handed_over to another worker, or ended.",
    "outcome",
)
QUEUE_WAIT: Final = _histogram(
    "mainstem_run_queue_wait_seconds",
    "From a run's creation until a worker began it; a wait for its thread is part of it.",
    "engine",
    _W,
)
FIRST_TOKEN: Final = _histogram(
    "mainstem_run_first_token_seconds",
    "From a run's creation until its engine's first content.",
    "engine",
    _W,
)
RUN_DURATION: Final = _histogram(
    "mainstem_run_duration_seconds", "From a run's creation to its end, pauses included.", "engine result"
)
_declare(
    "gauge", "mainstem_runs", "Unfinished runs of the whole store, by state, as of its last census.", "state"
)
_declare(
    "gauge",
    "mainstem_queue_oldest_seconds",
    "For how long the oldest queued run of the store waits for a worker.",
)
_declare(
    "gauge",
    "mainstem_queue_places",
    "Runs that living workers can execute at once, by queue; 0: nobody takes this queue's runs.",
    "queue",
)
_declare(
    "gauge", "mainstem_outbox_runs", "Queued runs of the store whose message the broker does not have yet."
)
_declare("gauge", "mainstem_outbox_oldest_seconds", "For how long the oldest of those waits for its message.")
_declare(
    "gauge", "mainstem_census_age_seconds", "Age of the census that these figures of the store are from."
)
_declare(
    "gauge",
    "mainstem_census_complete",
    "1, or 0 if the store has more unfinished runs than a census looks at: it then counts the most overdue.",
)

# -- providers
TOKENS: Final = _counter(
    "mainstem_tokens",
    "Tokens that providers reported: input, output, cached_input, reasoning (parts of the former two).",
    "model kind",
    _W,
)
COST: Final = _counter(
    "mainstem_cost_usd", "What provider calls cost, as far as their models have a price.", "model", _W
)
UNPRICED_CALLS: Final = _counter(
    "mainstem_unpriced_calls", "Provider calls whose cost is unknown: their model has no price.", "model", _W
)
BUDGET_REFUSALS: Final = _counter(
    "mainstem_budget_refusals",
    "Provider calls that were not made, by whose budget had no room: run, user, tenant.",
    "whose",
    _W,
)
PROVIDER_CALLS: Final = _counter(
    "mainstem_provider_calls",
    "Calls of providers by how they ended: ok, failed, cancelled.",
    "model result",
    _W,
)
PROVIDER_ERRORS: Final = _counter(
    "mainstem_provider_errors",
    "Calls that failed, by HTTP status; `none`: no answer, or a broken one.",
    "model status",
    _W,
)
PROVIDER_RETRIES: Final = _counter(
    "mainstem_provider_retries", "Calls that were repeated because the one before failed.", "model", _W
)
PROVIDER_SECONDS: Final = _histogram(
    "mainstem_provider_call_seconds",
    "How long calls of providers took, to the end of the answer.",
    "model",
    _W,
)

_declare(
    "gauge",
    "mainstem_provider_waiting",
    "Runs of this worker in the state waiting for provider: their call may not be made yet.",
    "",
    _W,
)
PROVIDER_WAIT: Final = _histogram(
    "mainstem_provider_wait_seconds",
    "How long calls that may not be made at once waited for their turn.",
    "model",
    _W,
)

# -- leases, sweeps, outbox
LEASE_BEATS: Final = _counter(
    "mainstem_lease_beats", "Renewals of this process's lease: ok, failed.", "result"
)
LEASE_SUSPENSIONS: Final = _counter(
    "mainstem_lease_suspensions",
    "How often this process stood still for longer than its lease, and lost its runs.",
)
_declare("gauge", "mainstem_lease_age_seconds", "Since the lease was renewed; it lapses at MAINSTEM_LEASE_S.")
SWEEPS: Final = _counter("mainstem_sweeps", "Sweeps of this process: ok, failed.", "result")
ARCHIVED: Final = _counter(
    "mainstem_archive_runs",
    "Finished runs: archived; unavailable: the archive did not answer; refused: it takes others, not these.",
    "result",
)
_declare(
    "gauge",
    "mainstem_archive_lag_seconds",
    "Since the end of the oldest run that an unavailable archive did not take; 0: it takes them.",
)
_declare("gauge", "mainstem_sweep_age_seconds", "Since this process's last complete sweep, or its start.")
_declare(
    "gauge",
    "mainstem_due_backlog",
    "Work of the whole store that was due when this process last swept: checks, compactions, callbacks.",
    "work",
)
_declare(
    "gauge", "mainstem_due_lateness_seconds", "For how long the oldest of that work had been due.", "work"
)
PUBLISHED: Final = _counter(
    "mainstem_outbox_messages", "Messages of runs given to the broker by this process: ok, failed.", "result"
)

CALLBACKS: Final = _counter(
    "mainstem_callbacks",
    "This process's attempts to deliver callbacks: delivered, failed (tried again), given_up.",
    "target result",
)
CALLBACK_DELAY: Final = _histogram(
    "mainstem_callback_delay_seconds", "From an event of a run until its callback was delivered.", "target"
)
_declare(
    "gauge",
    "mainstem_callbacks_undelivered",
    "Callbacks of the whole store that are not delivered: waiting, given_up; as of the last census.",
    "state",
)

# -- the fleet, store and broker
_declare(
    "gauge",
    "mainstem_processes",
    "Living processes of the fleet, by role, pool and version, as of the last census.",
    "role pool version",
)
_declare(
    "gauge", "mainstem_store_up", "1 if a server of the store answered this process last, else 0.", "node"
)
_declare("gauge", "mainstem_store_latency_seconds", "How long it took to answer a sweep's ping.", "node")
_declare("counter", "mainstem_store_round_trips", "Round trips of this process's calls to a server.", "node")
_declare("counter", "mainstem_store_errors", "Those of them that were not answered, or were refused.", "node")
_declare("gauge", "mainstem_store_memory_bytes", "Memory the store uses, as of the last census.")
_declare("gauge", "mainstem_store_memory_limit_bytes", "Its maxmemory; 0: no limit.")
_declare("gauge", "mainstem_broker_up", "1 if the broker took this process's last probe, else 0.")
_declare("gauge", "mainstem_broker_latency_seconds", "How long the broker took for it.")

# -- the worker's process
_declare("gauge", "mainstem_worker_slots", "Runs that this worker executes at most at once.", "", _W)
_declare("gauge", "mainstem_worker_slots_used", "Runs that it executes now.", "", _W)
_declare("gauge", "mainstem_writer_connected", "1 while the event writer has its connection.", "", _W)
_declare(
    "gauge", "mainstem_writer_window_seconds", "How long events wait to be merged, at this load.", "", _W
)
_declare("gauge", "mainstem_writer_buffered_bytes", "Bytes of events that wait to be acknowledged.", "", _W)
_declare("gauge", "mainstem_writer_channels", "Runs whose events it carries.", "", _W)
_declare("counter", "mainstem_writer_groups", "Groups of events sent.", "", _W)
_declare("counter", "mainstem_writer_bytes", "Bytes of events sent.", "", _W)
LOOP_STALLS: Final = _counter("mainstem_loop_stalls", "Blockages of the event loop of over a second.", "", _W)
_declare(
    "gauge",
    "mainstem_loop_lag_seconds",
    "How late the event loop is now: all runs of a blocked loop stand.",
    "",
    _W,
)

_declare(
    "gauge",
    "mainstem_engine_silence_seconds",
    "For how long the most silent of its engines has emitted nothing.",
    "",
    _W,
)

# Series that alerts watch for their first increase: one that begins with 1 never grew.
for _result in ("ok", "failed"):
    LEASE_BEATS.labels(_result)
    SWEEPS.labels(_result)
    PUBLISHED.labels(_result)
for _result in ("archived", "unavailable", "refused"):
    ARCHIVED.labels(_result)
for _target in ("task", "webhook"):
    for _result in ("delivered", "failed", "given_up"):
        CALLBACKS.labels(_target, _result)
for _outcome in ("handed_over", "ended"):
    RUNS_RECOVERED.labels(_outcome)

# -- the gateway's process
_declare(
    "counter",
    "mainstem_gateway_requests",
    "HTTP requests by method, route and status.",
    "method route status",
    _G,
)
_declare("gauge", "mainstem_gateway_streams", "Open event streams.", "", _G)
_declare("counter", "mainstem_gateway_streamed_events", "Events sent to readers.", "", _G)
_declare("counter", "mainstem_gateway_streamed_bytes", "Bytes of events sent to readers.", "", _G)
_declare(
    "counter",
    "mainstem_gateway_stream_ends",
    "Streams that ended: finished, gone, closed (left or drained), store_unavailable, error.",
    "end",
    _G,
)
_declare("gauge", "mainstem_tailer_topics", "Runs that are followed.", "", _G)
_declare("gauge", "mainstem_tailer_feeds", "Readers that follow runs.", "", _G)
_declare("gauge", "mainstem_tailer_shards", "Connections that read.", "", _G)
_declare("counter", "mainstem_tailer_events", "Entries read live, once for all readers.", "", _G)
_declare("counter", "mainstem_tailer_reads", "Blocking reads answered.", "", _G)


def exported_by(process: str) -> Mapping[str, Metric]:
    """Return the metrics that a kind of process exports."""
    return {name: row for name, row in METRICS.items() if process in row.exported_by}
