"""The seams through which a simulation comes: clocks, entropy, threads and sockets of the modules that use them.

The product has no switches for this. It reads clocks and entropy through the standard library's modules, so these
functions are replaced while a history runs, and every process finds its own clock and its own random numbers.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import time
from collections.abc import Generator
from types import SimpleNamespace
from typing import Any, Final

import redis.connection

from mainstem_api.gateway import state
from mainstem_shared.coordination import leases
from mainstem_shared.model import time as store_time
from mainstem_shared.store import blocking, connections
from mainstem_tasks.execution import runtime
from mainstem_workers import housekeeping, loop_watchdog
from simulation import loops
from simulation.broker import Publisher
from simulation.network import Network
from simulation.timeline import Process, Timeline


class Seams:
    """What simulated code gets instead of the machine's clocks, entropy, threads and sockets."""

    def __init__(self, timeline: Timeline, network: Network) -> None:
        self._timeline = timeline
        self._network = network
        self._nobody = timeline.random("nobody")

    # -- clocks

    def monotonic(self) -> float:
        return self._timeline.now

    def monotonic_ns(self) -> int:
        return int(self._timeline.now * 1e9)

    def wall_s(self) -> float:
        process = self._timeline.current
        return self._timeline.wall_s if process is None else process.wall_s

    def wall_ns(self) -> int:
        return int(self.wall_s() * 1e9)

    # -- entropy

    @property
    def _random(self) -> random.Random:
        process = self._timeline.current
        return self._nobody if process is None else process.random

    def bytes(self, size: int | None = None) -> bytes:
        return self._random.randbytes(32 if size is None else size)

    def drawing(self, name: str) -> Any:
        def draw(*args: Any, **options: Any) -> Any:
            return getattr(self._random, name)(*args, **options)

        return draw

    # -- sockets

    def connect_blocking(self, url: str, *, timeout_s: float) -> Any:
        client = connections.connect_blocking(url, timeout_s=timeout_s)
        seams = self

        class Connection(redis.connection.Connection):
            def _connect(self) -> Any:
                return seams._network.connect_socket(
                    loops.process_of_caller(), self.host, self.socket_connect_timeout
                )

            def can_read(self, timeout: float = 0) -> bool:
                """Tell whether something came that nobody asked for: the end of the connection."""
                del timeout
                if self._sock is None:
                    self.connect()
                if self._sock.has_ended:
                    raise redis.exceptions.ConnectionError("Connection closed by server.")
                return False

        client.connection_pool.connection_class = Connection
        return client

    # -- all of it

    def replacements(self) -> list[tuple[Any, str, Any]]:
        """Return what is replaced: owner, name, by what."""
        machine = SimpleNamespace(getpid=lambda: loops.process_of_caller().number, _exit=self._exit)
        host = SimpleNamespace(gethostname=lambda: loops.process_of_caller().name)
        return [
            (time, "monotonic", self.monotonic),
            (time, "perf_counter", self.monotonic),
            (time, "monotonic_ns", self.monotonic_ns),
            (time, "clock_gettime", lambda _: self.monotonic()),
            (time, "clock_gettime_ns", lambda _: self.monotonic_ns()),
            (time, "time", self.wall_s),
            (time, "time_ns", self.wall_ns),
            (os, "urandom", self.bytes),
            (secrets, "token_bytes", self.bytes),
            (secrets, "randbits", self.drawing("getrandbits")),
            (secrets, "randbelow", self.drawing("randrange")),
            *(
                (random, name, self.drawing(name))
                for name in ("uniform", "random", "randint", "sample", "choice")
            ),
            (asyncio, "wait_for", _wait_for),
            (leases, "os", machine),
            (leases, "socket", host),
            (leases, "threading", loops.Threading),
            (leases, "_version", lambda: "simulated"),
            (loop_watchdog, "threading", loops.Threading),
            (loop_watchdog, "os", machine),
            (blocking, "connect_blocking", self.connect_blocking),
            (housekeeping, "CeleryPublisher", Publisher),
            (state, "CeleryPublisher", Publisher),
        ]

    def _exit(self, _: int) -> None:
        loops.process_of_caller().kill()


async def _wait_for(future: Any, timeout: float | None) -> Any:  # noqa: ASYNC109 - asyncio's name
    """Wait as Python 3.12 does: before, `wait_for` made a task, which took a turn of the loop more."""
    async with asyncio.timeout(timeout):
        return await future


@contextlib.contextmanager
def sewn(timeline: Timeline, network: Network) -> Generator[None]:
    """Let simulated code run meanwhile; everything is as it was afterwards."""
    replaced = [
        (owner, name, getattr(owner, name), by) for owner, name, by in Seams(timeline, network).replacements()
    ]
    kept = (store_time.CLOCK, runtime._current)
    loops.begin(timeline)
    for owner, name, _, by in replaced:
        setattr(owner, name, by)
    try:
        yield
    finally:
        for owner, name, former, _ in replaced:
            setattr(owner, name, former)
        loops.end()
        store_time.CLOCK, runtime._current = kept  # type: ignore[misc]


_CLOCK: Final = "clock"
_RUNTIME: Final = "runtime"


def equip(process: Process) -> None:
    """Give a process module variables of its own: the product has one process's in each."""
    process.kept[_CLOCK] = store_time.StoreClock()
    process.kept[_RUNTIME] = None

    def switch(to: Process) -> None:
        former = process.timeline.current
        if former is not None:
            former.kept[_RUNTIME] = runtime._current
        store_time.CLOCK = to.kept[_CLOCK]  # type: ignore[misc]
        runtime._current = to.kept[_RUNTIME]

    process.switch = switch
