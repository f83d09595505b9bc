"""What chaos is brought upon: three workers, two gateways, a store and a broker, each a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import httpx

from mainstem_shared.settings import Settings
from support.paths import TESTS
from support.processes import topologies
from support.processes.fleets import Fleet
from support.processes.processes import Child, gateway, worker
from support.processes.servers import ValkeyProcess, free_port
from support.waiting import wait_until_async

LEASE_S = 3.0
SWEEP_S = 1.0
WORKERS = 3
GATEWAYS = 2
START_S = 120.0
ENVIRONMENT = {
    "MAINSTEM_LEASE_S": str(LEASE_S),
    "MAINSTEM_SWEEP_S": str(SWEEP_S),
    "MAINSTEM_DRAIN_S": "1",
    "MAINSTEM_HEARTBEAT_S": "1",
    "MAINSTEM_COMPACT_AFTER_S": "3600",  # the logs are read afterwards
    "MAINSTEM_ENGINES": "support.engines.engines",
    "PYTHONPATH": str(TESTS),
}


class System:
    """A live system. `stack` ends all of its processes, however the test ends."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack, *, workers: int = WORKERS) -> None:
        self.directory, self.stack = directory, stack
        self._first_workers = workers
        self.store = stack.enter_context(topologies.store(directory / "store"))
        self._fail_over_on_demand()
        self.broker = stack.enter_context(ValkeyProcess(directory / "broker"))
        self.env = {
            **ENVIRONMENT,
            "MAINSTEM_REDIS_URL": self.store.url(0),
            "MAINSTEM_BROKER_URL": self.broker.url(0),
        }
        self.workers: list[Child] = []
        self.gateways: list[Child] = []
        self.ports = [free_port() for _ in range(GATEWAYS)]
        self._named = 0

    @property
    def store_servers(self) -> list[ValkeyProcess]:
        """The servers that runs are written to now."""
        return self.store.in_charge() if isinstance(self.store, Fleet) else [self.store]

    def _fail_over_on_demand(self) -> None:
        """Have no replica take over by itself: what was acknowledged a moment ago may be lost then, visibly.

        Such fail-overs are tests/integration/store/test_fleet_faults.py's; here every event must be there.
        """
        if isinstance(self.store, Fleet) and self.store.is_cluster:
            for server in self.store.servers:
                with server.client() as client:
                    client.config_set("cluster-replica-no-failover", "yes")

    def settings(self) -> Settings:
        return Settings(redis_url=self.store.url(0), broker_url=self.broker.url(0))

    async def start(self) -> None:
        """Start everything and wait until all of it is ready."""
        for _ in range(self._first_workers):
            self.add_worker()
        for number, port in enumerate(self.ports):
            child = gateway(self.env, self.directory, port, f"gateway{number}")
            self.gateways.append(self.stack.enter_context(child))
        await self.ready()

    async def ready(self) -> None:
        """Wait until every worker and gateway is ready."""
        for child in self.workers:
            await wait_until_async(
                lambda c=child: worker_is_ready(c), description=f"{child.name} to be ready", timeout_s=START_S
            )
        async with httpx.AsyncClient(trust_env=False) as client:
            for port in self.ports:
                await wait_until_async(
                    lambda p=port: gateway_is_ready(client, p), description="a gateway", timeout_s=START_S
                )

    def add_worker(self) -> Child:
        self._named += 1
        child = worker(self.env, self.directory, f"worker{self._named}")
        self.workers.append(self.stack.enter_context(child))
        return child

    async def end_workers(self) -> None:
        """Stop all workers as a deployment does, at once."""
        await asyncio.gather(*(asyncio.to_thread(child.stop) for child in (*self.workers, *self.gateways)))

    def complaints(self) -> list[str]:
        """What no fault excuses: lines of the processes' logs that tell of a mistake in the program."""
        found: list[str] = []
        for path in sorted(self.directory.glob("*.log")):
            lines = path.read_text(errors="replace").splitlines()
            found += [f"{path.name}: {line}" for line in lines if "Traceback" in line]
        return found

    def tracebacks(self) -> str:
        """The last traceback of each gateway: what an internal error was."""
        logs = [child.log for child in self.gateways]
        return "\n".join(log[log.rindex("Traceback") :][:4000] for log in logs if "Traceback" in log)


def worker_is_ready(child: Child) -> bool:
    assert child.running, f"{child.name} ended:\n{child.log[-9000:]}"
    return "@test ready" in child.log


async def gateway_is_ready(client: httpx.AsyncClient, port: int) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return (await client.get(f"http://127.0.0.1:{port}/readyz")).is_success
    return False
