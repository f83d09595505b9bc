"""The faults: each kills, freezes, cuts or repeats something real, and counts itself."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import random
from collections.abc import Awaitable, Callable

import httpx
from celery import Celery
from redis.exceptions import RedisError

from chaos.load import Load
from chaos.system import LEASE_S, START_S, System, worker_is_ready
from mainstem_api import AsyncRuns
from mainstem_shared import errors
from mainstem_shared.store import keys, shard_moves, topologies
from mainstem_shared.store.shard_moves import Mover
from support.processes.fleets import Fleet
from support.processes.processes import Child
from support.processes.servers import ValkeyProcess
from support.waiting import wait_until_async

FROZEN_WORKER_S = (LEASE_S + 1.0, LEASE_S + 3.0)
PAUSE_S = (0.2, 1.2)
LONG_PAUSE_S = (0.5, 2.5)
DUPLICATES = 5


class Faults:
    """Injects faults into a system under load. One instance per test."""

    def __init__(
        self, system: System, load: Load, runs: AsyncRuns, dice: random.Random, *, broker_frozen_s: float
    ) -> None:
        self.injected: collections.Counter[str] = collections.Counter()
        self._system, self._load, self._runs, self._dice = system, load, runs, dice
        self._broker_frozen_s = broker_frozen_s
        self._store = asyncio.Lock()
        self._broker = asyncio.Lock()
        self._workers = asyncio.Semaphore(2)  # one of three is always left alone
        self._down: set[Child] = set()

    @property
    def kinds(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Every fault, by the name it is counted under."""
        return {
            "worker killed": self.worker_killed,
            "worker frozen longer than its lease": self.worker_frozen,
            "worker terminated": self.worker_terminated,
            "gateway killed": self.gateway_killed,
            "store connections cut": lambda: self.connections_cut(self._store_server(), self._store),
            "broker connections cut": lambda: self.connections_cut(self._system.broker, self._broker),
            "store killed": lambda: self.server_killed(self._store_server(), self._store),
            **self._of_this_store,
            "broker killed": lambda: self.server_killed(self._system.broker, self._broker),
            "broker frozen": self.broker_frozen,
            "messages published twice": self.messages_twice,
            "run aborted": self.run_aborted,
            "run replaced": lambda: self.run_joined("replace"),
            "run enqueued": lambda: self.run_joined("enqueue"),
        }

    @property
    def _of_this_store(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Faults that only a store of several servers can have."""
        store = self._system.store
        if not isinstance(store, Fleet):
            return {}
        if store.is_cluster:
            return {"store failed over": self.failed_over, "slots moved": self.slots_moved}
        return {"buckets moved": self.buckets_moved}

    def _store_server(self) -> ValkeyProcess:
        return self._dice.choice(self._system.store_servers)

    async def inject(self, rounds: int) -> None:
        """Inject every fault `rounds` times, in random order, some while others last.

        A frozen broker is rarer: nothing starts while it lasts, and Celery takes its time to come back.
        """
        plan = [
            name for name in self.kinds for _ in range(-(-rounds // 4) if name == "broker frozen" else rounds)
        ]
        self._dice.shuffle(plan)
        async with asyncio.TaskGroup() as group:
            for name in plan:
                group.create_task(self._inject(name))
                await asyncio.sleep(self._dice.uniform(*(PAUSE_S if rounds == 1 else LONG_PAUSE_S)))

    async def _inject(self, name: str) -> None:
        await self.kinds[name]()
        self.injected[name] += 1

    # -- processes

    def _pick(self) -> Child:
        """Choose a worker that is well: the one with the most runs, if the store can say."""
        well = [child for child in self._system.workers if child not in self._down]
        with contextlib.suppress(RedisError), self._system.store.client() as client:
            owned = {key: client.scard(key) for key in client.scan_iter("ms:{w:*:runs", count=1000)}
            return max(well, key=lambda child: sum(n for key, n in owned.items() if f"-{child.pid}-" in key))
        return self._dice.choice(well)

    async def worker_killed(self) -> None:
        async with self._workers:
            child = self._pick()
            self._system.workers.remove(child)
            child.sigkill()
            await self._replaced()

    async def worker_terminated(self) -> None:
        async with self._workers:
            child = self._pick()
            self._system.workers.remove(child)
            child.terminate()
            replacing = asyncio.create_task(self._replaced())
            await asyncio.to_thread(child.wait, 60)
            await replacing

    async def _replaced(self) -> None:
        child = self._system.add_worker()
        self._down.add(child)
        await wait_until_async(
            lambda: worker_is_ready(child), description=f"{child.name} to be ready", timeout_s=START_S
        )
        self._down.discard(child)

    async def worker_frozen(self) -> None:
        async with self._workers:
            child = self._pick()
            self._down.add(child)
            child.freeze()
            try:
                await asyncio.sleep(self._dice.uniform(*FROZEN_WORKER_S))
            finally:
                child.thaw()
                self._down.discard(child)

    async def gateway_killed(self) -> None:
        child = self._dice.choice(self._system.gateways)
        child.sigkill()
        child.start()

    # -- servers

    async def server_killed(self, server: ValkeyProcess, lock: asyncio.Lock) -> None:
        async with lock:
            server.sigkill()
            await asyncio.sleep(self._dice.uniform(0, 1))
            await asyncio.to_thread(server.start)

    async def failed_over(self) -> None:
        """A replica takes its primary's place, as an operator asks it to."""
        fleet = self._system.store
        assert isinstance(fleet, Fleet)
        async with self._store:
            former = self._dice.choice(fleet.in_charge())
            await asyncio.to_thread(fleet.fail_over, former)

    async def slots_moved(self) -> None:
        """The slots of runs that are at work go to another node."""
        fleet = self._system.store
        assert isinstance(fleet, Fleet)
        async with self._store:
            for run in self._load.live[:3]:
                slot = topologies.slot_of(keys.run(run.run_id).record)
                source = fleet.owner_of(slot)
                target = self._dice.choice([it for it in fleet.in_charge() if it is not source])
                await asyncio.to_thread(fleet.move_slot, slot, target)

    async def buckets_moved(self) -> None:
        """A third of all buckets go to another shard."""
        async with self._store:
            await asyncio.to_thread(self._move_buckets, self._dice.randrange(3))

    def _move_buckets(self, target: int) -> None:
        first = self._dice.randrange(700)
        with Mover(url=self._system.store.url()) as mover:
            mover.run(shard_moves.chosen(mover.map, range(first, first + 300), target))

    async def broker_frozen(self) -> None:
        async with self._broker:
            self._system.broker.freeze()
            try:
                await asyncio.sleep(self._broker_frozen_s)
            finally:
                self._system.broker.thaw()

    async def connections_cut(self, server: ValkeyProcess, lock: asyncio.Lock) -> None:
        """Cut all connections, or a random half of them."""
        async with lock:
            with server.client() as client:
                if self._dice.random() < 0.5:
                    client.client_kill_filter(_type="normal", skipme=True)
                    return
                mine = client.client_id()
                for other in client.client_list():
                    if int(other["id"]) != mine and self._dice.random() < 0.5:
                        client.client_kill_filter(_id=other["id"])

    # -- what users and brokers do

    async def messages_twice(self) -> None:
        """Publish the messages of running and of finished runs again."""
        known = self._load.started
        some = self._dice.sample(known, min(DUPLICATES, len(known)))
        async with self._broker:
            await asyncio.to_thread(self._publish, [run.run_id for run in some])

    def _publish(self, run_ids: list[str]) -> None:
        with Celery(broker=self._system.broker.url(0), set_as_current=False) as app:
            for run_id in run_ids:
                for _ in range(2):
                    app.send_task("mainstem.generate", kwargs={"run_id": run_id})

    async def run_aborted(self) -> None:
        live = self._load.live
        if not live:
            return
        run = self._dice.choice(live)
        while True:
            try:
                reached = await self._runs.abort(run.run_id, wait=self._dice.choice((0, 2)))
            except (errors.Unavailable, RedisError, OSError, httpx.TransportError):
                await asyncio.sleep(0.1)
            else:
                run.abort_reached = reached.outcome
                return

    async def run_joined(self, if_active: str) -> None:
        """Start another run on the thread of a live one."""
        live = self._load.live
        thread = self._dice.choice(live).thread_id if live else "thread-idle"
        await self._load.start(thread, if_active)
