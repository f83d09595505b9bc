"""A lease proves that a process is alive; a thread renews it.

One key with a TTL per process, renewed by a thread, so that neither a busy loop nor a garbage collection
lets it lapse. The thread also notices when the process itself was suspended (SIGSTOP, a paused virtual
machine): others may have taken its runs meanwhile, so it must let go of everything and begin anew.
"""

# redis-py's types are partly unknown.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import secrets
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import quote, unquote

from mainstem_shared.coordination import clocks
from mainstem_shared.metrics import catalogue as metrics
from mainstem_shared.model import time
from mainstem_shared.model.time import now_ms
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.blocking import BlockingStore
from mainstem_shared.store.failures import RedisError

logger = logging.getLogger(__name__)

BEATS_PER_LEASE: Final = 3
"""Two beats may be lost before the lease lapses."""
PULSES_PER_LEASE: Final = 12
TIMEOUT_S: Final = 2.0
"""A beat takes a millisecond: a server silent for so long is asked anew, maybe of another one."""
WORKER: Final = "worker"
GATEWAY: Final = "gateway"
CLIENT: Final = "client"
RETRY_S: Final = 0.5
"""After a failed beat: a store that comes back sees the lease before any sweeper looks twice."""
BEATS_AFTER_MOVE: Final = 10
"""Beats, RETRY_S apart, each over a new connection: Sentinels tell each other of a promotion in two seconds.
The one that is asked first may still name the former primary, which acknowledges what will be lost."""


def incarnation() -> str:
    """Name a process's current life: readable for operators, never used twice."""
    host = "".join(c if c.isalnum() or c in "-." else "-" for c in socket.gethostname())[:40]
    return f"{host}-{os.getpid()}-{secrets.token_hex(4)}"


def _version() -> str:
    try:
        return importlib.metadata.version("mainstem")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"  # run from a copy of the sources


class Lease:
    """Holds a process's lease. `owner` names it; a new name begins after every suspension."""

    def __init__(
        self,
        url: str,
        settings: Settings,
        *,
        role: str = WORKER,
        pool: str = "",
        places: int = 0,
        queues: Sequence[str] = (),
        on_suspended: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare a lease; `start` takes it.

        `role` and `pool` are what operators are shown: gateways hold leases too, for runs that they end.
        `places` says how many runs the process executes at once, `queues` which queues they are from.
        """
        self._settings = settings
        named = ",".join(quote(name, safe="") for name in queues)
        self._about = f"{role} {pool} {_version()} {places} {named}".rstrip()
        self.beaten_at = clocks.now()
        self._on_suspended = on_suspended
        timeout_s = min(TIMEOUT_S, settings.lease_s / BEATS_PER_LEASE)
        self._store = BlockingStore(url, timeout_s=timeout_s)
        self._wakeup = threading.Event()
        self._stopped = threading.Event()
        self._moved = False
        self._beats_anew = 0
        self._threads: list[threading.Thread] = []
        self._ticked = clocks.now()
        self.owner = incarnation()

    def start(self) -> None:
        """Take the lease and keep it; an unavailable store is tried again until it answers."""
        self._ticked = clocks.now()
        self._beat()
        self.start_soon()

    def start_soon(self) -> None:
        """Take the lease from the beat thread, without waiting for the store here."""
        self._ticked = clocks.now()
        for name, loop in (("mainstem-lease", self._keep), ("mainstem-pulse", self._notice_suspensions)):
            self._threads.append(threading.Thread(target=loop, name=name, daemon=True))
            self._threads[-1].start()

    def beat_soon(self, *, moved: bool = False) -> None:
        """Renew the lease at once, from the beat thread; over a new connection if the primary has `moved`.

        For whoever reaches the store again: it may be another server, with a lease that has nearly expired.
        """
        self._moved = self._moved or moved
        self._wakeup.set()

    def stop(self) -> None:
        """Give the lease up, at once and for everybody to see."""
        self._stopped.set()
        self._wakeup.set()
        for thread in self._threads:
            thread.join()
        self._release(self.owner)
        self._store.close()

    @property
    def age_s(self) -> float:
        """Since the lease was last renewed."""
        return clocks.now() - self.beaten_at

    @property
    def may_write(self) -> bool:
        """Whether this process has certainly not been suspended for longer than its lease.

        A thread's pulse is the evidence, not the success of beats: an unavailable store takes runs from
        nobody, however long a beat waits for it, but a process that did not run may have lost them.
        """
        return clocks.now() - self._ticked <= self._settings.lease_s

    def _keep(self) -> None:
        delay = 0.0
        while True:
            self._wakeup.wait(delay)
            if self._stopped.is_set():
                return
            self._wakeup.clear()
            if self._moved:
                self._moved, self._beats_anew = False, BEATS_AFTER_MOVE
            if self._beats_anew:
                self._beats_anew -= 1
                self._store.disconnect()
            has_beaten = self._beat()
            settled = has_beaten and not self._beats_anew
            delay = self._settings.lease_s / BEATS_PER_LEASE if settled else RETRY_S

    def _notice_suspensions(self) -> None:
        while not self._stopped.wait(self._settings.lease_s / PULSES_PER_LEASE):
            if not self.may_write:
                self._begin_anew()
            self._ticked = clocks.now()

    def _begin_anew(self) -> None:
        logger.error(
            "this process was suspended for longer than its lease; dropping all its runs",
            extra={"action": "lease_suspended", "owner": self.owner},
        )
        metrics.LEASE_SUSPENSIONS.inc()
        former, self.owner = self.owner, incarnation()
        self._on_suspended()
        self._release(former)
        self.beat_soon()

    def _beat(self) -> bool:
        try:
            self._store.commands(
                ("SET", keys.lease(self.owner), self._about, "PX", int(self._settings.lease_s * 1000)),
                ("ZADD", keys.WORKERS, now_ms(), self.owner),
            )
        except (RedisError, OSError) as error:
            logger.warning(
                "cannot renew the lease", extra={"action": "lease_beat_failed", "error": repr(error)}
            )
            self._store.disconnect()  # the server behind it may be no primary any more
            metrics.LEASE_BEATS.labels("failed").inc()
            return False
        metrics.LEASE_BEATS.labels("ok").inc()
        self.beaten_at = clocks.now()
        self._learn_time()
        return True

    def _learn_time(self) -> None:
        with contextlib.suppress(RedisError, OSError):  # one who may not ask goes by this machine's clock
            client, asked_ns = self._store.client(self._store.nodes()[0]), time.steady_ns()
            seconds, micros = client.time()
            time.CLOCK.learn(seconds, micros, asked_ns=asked_ns)

    def _release(self, owner: str) -> None:
        try:
            _, owns = self._store.commands(("DEL", keys.lease(owner)), ("EXISTS", keys.owned(owner)))
            # Listed, it is swept. It was already, if a claim that was under way began the set anew.
            listed = ("ZADD", keys.WORKERS, "NX", now_ms(), owner) if owns else ("ZREM", keys.WORKERS, owner)
            self._store.commands(listed)
        except (RedisError, OSError):
            pass  # it lapses by itself


def queues_of(lease: str, settings: Settings) -> Sequence[str]:
    """Return the queues that the process of a lease takes runs from; earlier versions name none."""
    role, _, _, _, queues, *_ = [*lease.split(" "), "", "", "", ""]
    if role != WORKER:
        return ()
    return [unquote(name) for name in queues.split(",")] if queues else [settings.queue]
