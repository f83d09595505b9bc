"""A worker in the test's process that dies after so many commands to its store, and what finds its runs then.

`mortal` is a runtime whose store ends with its life (`dying_process`); `survive` does what a fleet does after a
death: the lease runs out, sweeps hand the run over, another worker takes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mainstem_shared import transitions
from mainstem_shared.coordination.leases import Lease
from mainstem_shared.eventlog.writing.node_writers import NodeWriter
from mainstem_shared.eventlog.writing.writer import Writer
from mainstem_shared.model.runs import Status
from mainstem_shared.operations import recovery
from mainstem_shared.operations.performing import Operations
from mainstem_shared.operations.sweeping import Sweeper
from mainstem_shared.settings import Settings
from mainstem_shared.store import endpoints, keys
from mainstem_shared.store.client import Store
from mainstem_tasks.celery_support.publisher import CeleryPublisher
from mainstem_tasks.execution import segments
from mainstem_tasks.execution.runtime import Runtime
from support.models import listed
from support.processes.dying_process import Died, KilledLife, Life, store

PLENTY = 1_000_000


@asynccontextmanager
async def mortal(
    settings: Settings, commands: int, kind: type[Life] = Life
) -> AsyncIterator[tuple[Runtime, Life]]:
    """A worker's runtime that lives for so many commands. Afterwards nothing of it is left but what it wrote.

    To a `KilledLife` life the writer's groups of events count, too: there they can be its end.
    """
    url, life = endpoints.store_url(settings), kind(commands)
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
    if isinstance(life, KilledLife):
        runtime.writer.kind = _mortal_writer(life)
    await runtime.writer.start()
    try:
        yield runtime, life
    finally:
        await runtime.writer.stop()
        await asyncio.to_thread(lease.stop)
        await publisher.aclose()
        life.left = PLENTY
        await mine.close()


def _mortal_writer(life: Life) -> type[NodeWriter]:
    class Mortal(NodeWriter):
        """Writes for as long as the life lasts."""

        def _send(self) -> None:
            life.act()
            super()._send()

    return Mortal


async def dies(settings: Settings, run_id: str, *, after: int, kind: type[Life] = Life) -> bool:
    """Have a worker execute a run until it dies; True if it lived to the segment's end."""
    async with mortal(settings, after, kind) as (runtime, _):
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


async def take_over(connected: Store, operations: Operations, run_id: str) -> None:
    """Do to one run what a sweep does that believes in its owner's death; nothing, if nobody has it."""
    await connected.client.set(keys.lease("healer"), "worker", px=60_000)
    state = await transitions.read(connected, run_id)
    if isinstance(state, transitions.State) and state.status is Status.RUNNING:
        await recovery.recover(operations, run_id, state, sealer="healer")
