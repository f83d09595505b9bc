"""Housekeeping runs what a worker process does beside tasks: lease, writer, mailbox, sweeps, watchdog.

A pool host (`pool_hosts`) starts it with the pool and stops it, in this order, after the pool's last job has
ended: mailbox and sweeps, then the writer, then the lease. Until then everything runs on: a draining worker
still hears aborts and renews its lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from mainstem_shared import archive, errors
from mainstem_shared.coordination.leases import Lease
from mainstem_shared.eventlog.writing.node_writers import Repair
from mainstem_shared.eventlog.writing.writer import Writer
from mainstem_shared.model import jsontext
from mainstem_shared.operations import migration
from mainstem_shared.operations.courier import Courier
from mainstem_shared.operations.performing import Operations, repair
from mainstem_shared.operations.sweeping import Sweeper
from mainstem_shared.settings import Settings
from mainstem_shared.store import endpoints, keys, server_checks
from mainstem_shared.store.client import Store
from mainstem_shared.store.primary_watch import PrimaryWatch
from mainstem_tasks.celery_support.broker_watch import BrokerWatch
from mainstem_tasks.celery_support.publisher import CeleryPublisher
from mainstem_tasks.execution import orphans, runtime
from mainstem_tasks.execution.runtime import Runtime
from mainstem_tasks.sdk import registry
from mainstem_workers.loop_watchdog import Watchdog
from mainstem_workers.mailbox_reader import MailboxReader
from mainstem_workers.metrics import LEAVE_S, WorkerMetrics
from mainstem_workers.recycling import CHECK_S as RECYCLING_S
from mainstem_workers.recycling import Recycling
from mainstem_workers.revocations import Revocations

logger = logging.getLogger(__name__)

CLOCK_S: Final = 1.0
"""How often running segments are checked against their limits."""
STRANDED_SWEEPS: Final = 4
"""Sweep intervals between two looks for runs that are ours and that nobody executes: it is rare."""
RESTART_S: Final = 0.1
"""Pause before a loop that ended is started again: one that fails at once must not take the core."""
ANNOUNCE_S: Final = 60.0
"""How often the engines are announced again: a store that was emptied learns them soon."""


class Housekeeping:
    """A worker process's runtime and the loops that keep it. Made and used on one loop."""

    def __init__(
        self,
        settings: Settings,
        loop: asyncio.AbstractEventLoop,
        *,
        pool: str = "asyncio",
        slots: int | None = None,
        queues: Sequence[str] | None = None,
        metrics_folder: Path | None = None,
    ) -> None:
        """Prepare it; `start` connects.

        Args:
            settings: of the worker.
            loop: that it runs on.
            pool: the name of Celery's pool, for operators.
            slots: how many runs the process executes at once; by default as the settings say.
            queues: those that it takes runs from; by default all.
            metrics_folder: where its metrics go if another process serves them (`metrics`).
        """
        url = endpoints.store_url(settings)
        store = Store(url, archive=archive.connect(settings))
        publisher = CeleryPublisher(
            endpoints.broker_url(settings), queue=settings.queue, engine_queues=settings.engine_queues
        )
        places = slots or settings.concurrency
        lease = Lease(
            url,
            settings,
            pool=pool,
            places=places,
            queues=settings.queues if queues is None else queues,
            on_suspended=self._suspended_elsewhere,
        )
        self.runtime = Runtime(
            settings=settings,
            loop=loop,
            store=store,
            writer=Writer(
                store,
                settings,
                may_write=lambda: lease.may_write,
                on_suspended=self._suspended,
                on_reached=lease.beat_soon,
                before_probing=self._repair,
                on_repaired=self._repaired,
            ),
            lease=lease,
            publisher=publisher,
            operations=Operations(store=store, settings=settings, publisher=publisher),
        )
        self._watchdog = Watchdog(loop)
        self._metrics = WorkerMetrics(self.runtime, slots=places, folder=metrics_folder)
        self._revocations = Revocations(self.runtime)
        self._recycling = Recycling(settings, pool=pool)
        self._loops: dict[str, asyncio.Task[None]] = {}
        self._stopping = False

    async def _repair(self) -> None:
        """Make what a replaced store lost again, before runs are judged by what it has."""
        await self.runtime.operations.recent_changes.check(force=True)

    def _repaired(self, done: Repair) -> None:
        """Remember it with what comes after it: ends are made from the control that it opened."""
        here = self.runtime
        change = repair(
            done.control, nonce=done.nonce, state=done.state, live_ttl_ms=here.settings.live_ttl_ms
        )
        here.operations.recent_changes.repaired(change, former=done.control.epoch, epoch=done.epoch)

    def _suspended_elsewhere(self) -> None:
        self.runtime.loop.call_soon_threadsafe(self._suspended)

    def _suspended(self) -> None:
        self.runtime.suspended()

    async def start(self) -> None:
        """Take the lease, connect, and start the loops. An unavailable store delays runs, not the start."""
        here = self.runtime
        # asyncio's own has a few threads more than cores, which one run's blocking tools would fill.
        threads = ThreadPoolExecutor(here.settings.blocking_threads, "mainstem-blocking")
        here.loop.set_default_executor(threads)
        registry.load_modules(here.settings.engines)
        await asyncio.to_thread(here.lease.start)
        with contextlib.suppress(errors.StoreUnavailable):
            await migration.learn(here.store)
        await here.writer.start()
        mailbox = MailboxReader(here.store, lambda: here.lease.owner, here.deliver)
        sweeper = Sweeper(
            operations=here.operations, owner=lambda: here.lease.owner, on_unseen=here.lease.beat_soon
        )
        primary = PrimaryWatch(here.store, on_moved=lambda: here.lease.beat_soon(moved=True))
        broker = BrokerWatch(here.publisher)
        clock_s = min(CLOCK_S, here.settings.idle_timeout_s / 4)
        for name, loop in (
            ("mailbox", mailbox.run),
            ("sweeps", sweeper.run),
            ("callbacks", Courier(here.operations).run),
            ("primary", primary.run),
            ("recent_changes", here.operations.recent_changes.run),
            ("clock", functools.partial(_every, clock_s, here.check_clocks)),
            ("recycling", functools.partial(_every, RECYCLING_S, self._recycling.check)),
            ("announce", self._announce),
            ("orphans", self._end_orphans),
            ("broker watch", broker.run),
            ("metrics", functools.partial(_every, LEAVE_S, self._metrics.leave)),
        ):
            self._keep(name, loop)
        checks = server_checks.watch_start(here.store.url, endpoints.broker_url(here.settings))
        self._loops["server checks"] = asyncio.create_task(checks, name="mainstem-server checks")
        runtime.install(here)
        self._revocations.start()
        self._watchdog.start()
        self._metrics.start(sweeper=sweeper, lease=here.lease, broker=broker, watchdog=self._watchdog)
        logger.info("ready for runs", extra={"action": "worker_ready", "owner": here.lease.owner})

    async def stop(self) -> None:
        """Stop everything; the pool's last job has ended."""
        here = self.runtime
        self._watchdog.stop()
        self._revocations.stop()
        self._stopping = True
        going = [*self._loops.values(), *here.tasks]
        for task in going:
            task.cancel()
        await asyncio.gather(*going, return_exceptions=True)
        await registry.aclose()
        await here.writer.stop()
        await asyncio.to_thread(here.lease.stop)
        await asyncio.to_thread(self._metrics.stop)
        await here.publisher.aclose()
        await here.store.close()
        runtime.install(None)

    def _keep(self, name: str, loop: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a loop that only `stop` may cancel: an engine may cancel every task that it finds."""
        task = self._loops[name] = asyncio.create_task(loop(), name=f"mainstem-{name}")

        def ended(task: asyncio.Task[None]) -> None:
            if self._stopping or not (task.cancelled() or task.exception()):
                return  # it is over, or has nothing (more) to do
            failure = None if task.cancelled() else task.exception()
            noted = {"action": "loop_ended", "loop": name}
            logger.critical("a loop of the worker ended; starting it again", extra=noted, exc_info=failure)
            asyncio.get_running_loop().call_later(RESTART_S, lambda: self._stopping or self._keep(name, loop))

        task.add_done_callback(ended)

    async def _end_orphans(self) -> None:
        while True:
            await asyncio.sleep(STRANDED_SWEEPS * self.runtime.settings.sweep_s)
            try:
                await orphans.end_all(self.runtime)
            except errors.StoreUnavailable:
                logger.warning("orphaned runs wait for the store", extra={"action": "orphans_later"})
            except Exception:  # the loop's boundary: whatever it was, the next round is due
                logger.exception("orphaned runs were not settled", extra={"action": "orphans_failed"})

    async def _announce(self) -> None:
        while True:
            pause = ANNOUNCE_S if await self._announced() else 1.0
            await asyncio.sleep(pause)

    async def _announced(self) -> bool:
        schemas = [(name, jsontext.dumps(schema)) for name, schema in registry.describe().items()]
        try:
            await self.runtime.store.command("HSET", keys.ENGINES, *itertools.chain(*schemas), large=True)
        except errors.StoreUnavailable:
            return False
        return True


async def _every(seconds: float, call: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(seconds)
        call()
