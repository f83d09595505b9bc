"""The gateway's state holds what its process shares: store, tailer, client, sweeper; routes depend on it.

Opened by the app's lifespan; mounted into another app, whose server runs no lifespan of ours, on first use.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from fastapi import Request

from mainstem_api.client.async_runs import AsyncRuns
from mainstem_api.gateway import uvicorn_internals
from mainstem_api.gateway.auth.stream_tokens import StreamTokens
from mainstem_api.gateway.metrics import Metrics
from mainstem_api.gateway.outgoing import Outgoing
from mainstem_shared import archive, errors
from mainstem_shared.coordination.leases import GATEWAY, Lease
from mainstem_shared.eventlog.reading.joined_reads import JoinedReads
from mainstem_shared.eventlog.reading.tailer import Tailer
from mainstem_shared.operations import migration
from mainstem_shared.operations.courier import Courier
from mainstem_shared.operations.performing import Operations
from mainstem_shared.operations.sweeping import Sweeper
from mainstem_shared.settings import Settings
from mainstem_shared.store import endpoints, readiness, server_checks
from mainstem_shared.store.client import Store
from mainstem_shared.store.primary_watch import PrimaryWatch
from mainstem_tasks.celery_support.broker_watch import BrokerWatch
from mainstem_tasks.celery_support.publisher import CeleryPublisher

_WATCH_S: Final = 0.2


class Gateway:
    """One gateway's connections. Everything belongs to one event loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = Store(endpoints.store_url(settings), archive=archive.connect(settings))
        self.tailer = Tailer(self.store)
        self.publisher = CeleryPublisher(
            endpoints.broker_url(settings), queue=settings.queue, engine_queues=settings.engine_queues
        )
        self.operations = Operations(store=self.store, settings=settings, publisher=self.publisher)
        self.runs = AsyncRuns(
            settings,
            store=self.store,
            publisher=self.publisher,
            operations=self.operations,
            tailer=self.tailer,
            sealer=self._sealer,
            private_threads=True,
        )
        self.tokens = StreamTokens(self.store, lifetime_s=settings.stream_token_s)
        self.documents = JoinedReads()
        """Runs as JSON, read once for all who ask at the same time."""
        self.outgoing = Outgoing(settings.max_unread_mb * 2**20)
        self.metrics = Metrics()
        self.metrics.observe(self.tailer)
        self._tasks: list[asyncio.Task[None]] = []
        self._lease: Lease | None = None
        self.sweeper: Sweeper | None = None
        uvicorn_internals.expect_resets()

    def start(self) -> None:
        """Begin what goes on beside requests."""
        # Who seals runs must be seen alive: a gateway that dies while it ends a run is swept too.
        lease = self._lease = Lease(self.store.url, self.settings, role=GATEWAY)
        lease.start_soon()
        sweeper = Sweeper(operations=self.operations, owner=lambda: lease.owner, on_unseen=lease.beat_soon)
        broker = BrokerWatch(self.publisher)
        self.sweeper = sweeper
        self.metrics.observe_housekeeping(sweeper=sweeper, lease=lease, broker=broker)
        primary = PrimaryWatch(self.store, on_moved=lambda: lease.beat_soon(moved=True))
        self._tasks = [
            asyncio.create_task(primary.run(), name="gateway-primary"),
            asyncio.create_task(self.operations.recent_changes.run(), name="gateway-recent-changes"),
            asyncio.create_task(sweeper.run(), name="gateway-sweeper"),
            asyncio.create_task(broker.run(), name="gateway-broker-watch"),
            asyncio.create_task(Courier(self.operations).run(), name="gateway-callbacks"),
            asyncio.create_task(self._drain_with_server(), name="gateway-drain"),
            asyncio.create_task(
                server_checks.watch_start(self.store.url, endpoints.broker_url(self.settings)),
                name="gateway-server-checks",
            ),
        ]

    def _sealer(self) -> str:
        return "" if self._lease is None else self._lease.owner

    def drain(self) -> None:
        """Reset all event streams, so that their readers reconnect elsewhere; accept no new ones."""
        self.tailer.drain()

    async def close(self) -> None:
        """Drain and close everything, in the order of use."""
        self.drain()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.tailer.close()
        await self.runs.aclose()
        await self.publisher.aclose()
        if self._lease is not None:
            await asyncio.to_thread(self._lease.stop)
        await self.store.close()

    async def _drain_with_server(self) -> None:
        """Drain as soon as the uvicorn that runs us begins to stop.

        uvicorn waits for open responses before it tells the app: a stream that waits for its run would hold
        it for ever.
        """
        server = uvicorn_internals.running_server()
        if server is None or hasattr(server, "drains_itself"):
            return  # run in a thread, or by another server: whoever runs us calls `drain`, or cuts us off
        while not server.should_exit:  # noqa: ASYNC110 - a signal handler sets it, there is no event
            await asyncio.sleep(_WATCH_S)
        self.drain()


class Holder:
    """Opens an app's gateway once, and closes it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._gateway: Gateway | None = None

    @property
    def gateway(self) -> Gateway:
        if self._gateway is None:
            self._gateway = Gateway(self.settings)
        return self._gateway

    async def check_servers(self) -> None:
        """Make sure, before anything is served, that runs can be kept on these servers at all.

        Raises:
            ClusterUnsupported: store or broker is a node of a Cluster.
            Misconfigured: the store's servers are not those that its address means.
        """
        urls = endpoints.store_url(self.settings), endpoints.broker_url(self.settings)
        await asyncio.to_thread(readiness.check_servers, *urls)
        with contextlib.suppress(errors.StoreUnavailable):
            await migration.learn(self.gateway.store)

    def drain(self) -> None:
        if self._gateway is not None:
            self._gateway.drain()

    async def close(self) -> None:
        gateway, self._gateway = self._gateway, None
        if gateway is not None:
            await gateway.close()


def gateway_of(request: Request) -> Gateway:
    """Return the gateway that serves a request: a FastAPI dependency."""
    holder: Holder = request.app.state.holder
    return holder.gateway
