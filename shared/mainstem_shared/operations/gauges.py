"""Defines the gauges that workers and gateways both export: of store, broker, sweeps and due work."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from mainstem_shared.coordination.leases import Lease
from mainstem_shared.metrics.exposition import Exposition, Value
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations.census import STATES, Census
from mainstem_shared.operations.sweeping import Sweeper
from mainstem_shared.settings import Settings
from mainstem_shared.store.nodes import Node
from mainstem_shared.store.redaction import redacted


def install(exposition: Exposition, *, sweeper: Sweeper, lease: Lease) -> None:
    """Have an exposition read them."""
    exposition.read(
        lease_age_seconds=lambda: lease.age_s,
        sweep_age_seconds=lambda: time.monotonic() - sweeper.swept_at,
        due_backlog=lambda: {(work,): float(count) for work, (count, _) in sweeper.backlog.items()},
        due_lateness_seconds=lambda: {(work,): late_s for work, (_, late_s) in sweeper.backlog.items()},
        archive_lag_seconds=lambda: sweeper.archiver.lag_s,
        store_up=lambda: _by_node(sweeper, lambda node: float(node.is_up)),
        store_latency_seconds=lambda: _by_node(sweeper, lambda node: node.latency_s),
        store_round_trips=lambda: _by_node(sweeper, lambda node: float(node.round_trips)),
        store_errors=lambda: _by_node(sweeper, lambda node: float(node.errors)),
    )
    exposition.read(
        queue_places=_of_census(sweeper, lambda census: _places(census, sweeper.operations.settings))
    )
    for name, figure in _OF_CENSUS.items():
        exposition.read(**{name: _of_census(sweeper, figure)})


def _by_node(sweeper: Sweeper, figure: Callable[[Node], float]) -> Value:
    return {(redacted(node.url),): figure(node) for node in sweeper.servers}


def _of_census(sweeper: Sweeper, figure: Callable[[Census], Value]) -> Callable[[], Value]:
    def reading() -> Value:
        return {} if sweeper.census is None else figure(sweeper.census)

    return reading


def _since(at_ms: int | None) -> float:
    return 0.0 if at_ms is None else max(0, now_ms() - at_ms) / 1000


def _processes(census: Census) -> Mapping[tuple[str, ...], float]:
    return {(role, pool, version): float(count) for role, pool, version, count in census.processes}


def _places(census: Census, settings: Settings) -> Value:
    unnamed = {settings.queue: census.places.get("", 0)}
    return {(name,): float(census.places.get(name, 0) + unnamed.get(name, 0)) for name in settings.queues}


_OF_CENSUS: Mapping[str, Callable[[Census], Value]] = {
    "runs": lambda census: {(state,): float(census.runs.get(state, 0)) for state in STATES},
    "queue_oldest_seconds": lambda census: _since(census.queued_since_ms),
    "outbox_runs": lambda census: float(census.unpublished),
    "outbox_oldest_seconds": lambda census: _since(census.unpublished_since_ms),
    "census_age_seconds": lambda census: _since(census.at_ms),
    "census_complete": lambda census: float(census.complete),
    "callbacks_undelivered": lambda census: {(state,): float(n) for state, n in census.callbacks.items()},
    "processes": _processes,
    "store_memory_bytes": lambda census: float(census.memory_bytes),
    "store_memory_limit_bytes": lambda census: float(census.memory_limit_bytes),
}
