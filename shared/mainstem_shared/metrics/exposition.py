"""Serves this process's metrics in Prometheus's text format: counters, and gauges read at the moment.

A gateway answers at its own `/metrics`; a worker listens at MAINSTEM_METRICS_PORT. Processes that cannot
listen themselves (children of prefork) leave their figures in a folder, which their parent serves.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from mainstem_shared.metrics.catalogue import COUNTED, METRICS, exported_by

logger = logging.getLogger(__name__)

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
PORTS: Final = 32
"""How many ports from MAINSTEM_METRICS_PORT on a worker tries: all workers of a machine have one setting."""
Value = float | Mapping[tuple[str, ...], float]
"""A reading: one number, or one for each tuple of label values."""


class Exposition(Collector):
    """The metrics of one worker or gateway."""

    def __init__(self, process: str) -> None:
        self._declared = exported_by(process)
        self._readings: dict[str, Callable[[], Value]] = {}
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def read(self, **readings: Callable[[], Value]) -> None:
        """Read these metrics, by their names without `mainstem_`, when somebody asks."""
        for name, reading in readings.items():
            self._readings[self._declared[f"mainstem_{name}"].name] = reading

    def describe(self) -> Iterable[Family]:
        """Return nothing: whoever registers us must not read what has not begun."""
        return ()

    def collect(self) -> Iterator[Family]:
        """Yield the declared metrics, each with what is known of it."""
        for family in COUNTED.collect():
            if family.name in self._declared:
                # When a series was created, which is as much again, tells nobody anything here.
                family.samples = [one for one in family.samples if not one.name.endswith("_created")]
                yield family
        for name, row in self._declared.items():
            if (reading := self._readings.get(name)) is not None:
                make = CounterMetricFamily if row.kind == "counter" else GaugeMetricFamily
                family = make(name, row.meaning, labels=row.labels)
                for values, value in _by_labels(reading).items():
                    family.add_metric(values, value)
                yield family

    def text(self) -> bytes:
        """Return the exposition."""
        return generate_latest(self.registry)


def _by_labels(reading: Callable[[], Value]) -> Mapping[tuple[str, ...], float]:
    value = reading()
    return value if isinstance(value, Mapping) else {(): value}


# -- a worker's own listener


class Listener:
    """Listens for scrapes in a thread of its own, so that a busy event loop is seen and not suspected."""

    def __init__(self, registry: Collector, *, host: str, port: int) -> None:
        """Listen.

        Raises:
            OSError: neither at this port nor at one of the next.
        """
        self._server, self._thread = _listen(registry, host, port)
        self.port: int = self._server.server_port
        told = {"action": "metrics_served", "host": host, "port": self.port}
        logger.info("metrics are served", extra=told)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _listen(registry: Any, host: str, port: int) -> tuple[WSGIServer, threading.Thread]:
    for candidate in range(port, port + (PORTS if port else 1)):
        with contextlib.suppress(OSError):
            return start_http_server(candidate, addr=host, registry=registry)
    raise OSError(f"no port from {port} to {port + PORTS - 1} of {host} is free for metrics")


# -- processes whose figures another one serves


def leave(exposition: Exposition, folder: Path) -> None:
    """Write a process's figures to a file for its parent; the file stays after the process has ended."""
    path = folder / f"{os.getpid()}.prom"
    draft = path.with_suffix(".draft")
    draft.write_bytes(exposition.text())
    draft.replace(path)


class FolderMetrics(Collector):
    """Adds up the figures that processes left in a folder: totals of all, gauges of those that live."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def describe(self) -> Iterable[Family]:
        """Return nothing: there are no figures yet."""
        return ()

    def collect(self) -> Iterator[Family]:
        """Yield each metric once. Of the store's gauges, which all report alike, the highest counts."""
        sums: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
        for path in sorted(self._folder.glob("*.prom")):
            lives = _lives(int(path.stem))
            for family in text_string_to_metric_families(path.read_text()):
                if family.type == "gauge" and not lives:
                    continue
                into = sums.setdefault(family.name, {})
                for sample in family.samples:
                    key = (sample.name, tuple(sorted(sample.labels.items())))
                    into[key] = _joined(family.name, into.get(key), sample.value)
        for name, samples in sums.items():
            if (row := METRICS.get(name)) is None:
                continue
            family = Family(name, row.meaning, row.kind)
            for (sample, labels), value in samples.items():
                family.add_sample(sample, dict(labels), value)
            yield family


_OF_EACH: Final = frozenset(
    {
        "mainstem_worker_slots",
        "mainstem_worker_slots_used",
        "mainstem_writer_buffered_bytes",
        "mainstem_writer_channels",
    }
)
"""Gauges that add up. Others are the store's, or tell of the worst."""
_WORST_IS_LOW: Final = frozenset({"mainstem_writer_connected", "mainstem_store_up", "mainstem_broker_up"})


def _joined(name: str, known: float | None, value: float) -> float:
    if known is None:
        return value
    if METRICS[name].kind != "gauge" or name in _OF_EACH:
        return known + value
    return min(known, value) if name in _WORST_IS_LOW else max(known, value)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
