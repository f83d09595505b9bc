"""A worker in the test's process that dies after so many commands to its store, and what finds its runs then.

`mortal` is a runtime whose store ends with its life (`dying_process`); `survive` does what a fleet does after a
death: the lease runs out, sweeps hand the run over, another worker takes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mainstem_shared.coordination.leases import Lease
from mainstem_shared.eventlog.writing.writer import Writer
from mainstem_shared.operations.performing import Operations
from mainstem_shared.operations.sweeping import Sweeper
from mainstem_shared.settings import Settings
from mainstem_shared.store import endpoints, keys
from mainstem_shared.store.client import Store
from mainstem_tasks.celery_support.publisher import CeleryPublisher
from mainstem_tasks.execution import segments
from mainstem_tasks.execution.runtime import Runtime
from support.models import listed
from support.processes.dying_process import Died, Life, store

PLENTY = 1_000_000


@asynccontextmanager
async def mortal(settings: Settings, commands: int) -> AsyncIterator[tuple[Runtime, Life]]:
    """A worker's runtime that lives for so many commands. Afterwards nothing of it is left but what it wrote."""
    url, life = endpoints.store_url(settings), Life(commands)
    lease = Lease(url, settings)
    await asyncio.to_thread(lease.start)
    mine = store(url, life)
    publisher = CeleryPublisher(endpoints.broker_url(settings), queue=settings.queue)
    runtime = Runtime(
        settings=settings,
        loop=asyncio.get_running_loop(),
        store=mine,
        writer=Writer(mine, settings),
        lease=lease,
        publisher=publisher,
        operations=Operations(store=mine, settings=settings, publisher=publisher),
    )
    await runtime.writer.start()
    try:
        yield runtime, life
    finally:
        await runtime.writer.stop()
        await asyncio.to_thread(lease.stop)
        await publisher.aclose()
        life.left = PLENTY
        await mine.close()


async def dies(settings: Settings, run_id: str, *, after: int) -> bool:
    """Have a worker execute a run until it dies; True if it lived to the segment's end."""
    async with mortal(settings, after) as (runtime, _):
        try:
            await segments.execute(runtime, run_id, task_id="task")
        except Died:
            return False
    return True


async def sweep(settings: Settings, connected: Store, operations: Operations) -> None:
    """Let what is due within the next minutes be looked at: a death is believed in the second sweep."""
    client = connected.client
    sweeper = Sweeper(operations=operations, owner=lambda: "healer")
    await client.set(keys.lease("healer"), "worker", px=60_000)
    for _ in range(2):
        await listed.put(client, "active", dict.fromkeys(await listed.scores(client, "active"), 0))
        await client.delete(keys.SWEEP)
        await sweeper.sweep()
    del settings
