"""The fleet: worker and gateway processes that run the product's own code, and how they start, stop and die."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

from mainstem_api.gateway.sse import EventStream
from mainstem_api.gateway.state import Gateway
from mainstem_shared import errors
from mainstem_shared.model import cursors
from mainstem_shared.model.principals import LOCAL_USER, Principal
from mainstem_shared.settings import Settings
from mainstem_tasks.execution import segments
from mainstem_tasks.execution.runtime import StopCause
from mainstem_workers.housekeeping import Housekeeping
from simulation import seams
from simulation.broker import Broker, Consumer, Message
from simulation.loops import VirtualLoop
from simulation.network import Network
from simulation.timeline import Process, Timeline

SLOTS: Final = 8


def settings(**given: Any) -> Settings:
    """Return the settings of every process: the defaults, at the simulated addresses."""
    return Settings(
        **given,
        redis_url="redis://store:6379/0",  # type: ignore[arg-type]
        broker_url="redis://broker:6379/0",  # type: ignore[arg-type]
        engines="simulation.engines",
        concurrency=SLOTS,
        _env_file=None,  # type: ignore[call-arg]
    )


class Member:
    """A process of the fleet with its loop."""

    def __init__(self, timeline: Timeline, network: Network, name: str, *, number: int) -> None:
        self.failures: list[str] = []
        self.process = Process(timeline, name, number=number)
        seams.equip(self.process)
        self.loop = self.process.kept["loop"] = VirtualLoop(self.process, network)
        self.process.on_death.append(self._break_connections)
        self._network = network
        self.tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run something in the process; what it fails with is a failure of the history."""
        task = self.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, errors.Unavailable):
            self.failures.append(f"{self.process.name}: {task.get_coro().__qualname__}: {error!r}")

    def begin(self, main: Any) -> None:
        """Start the process's work when its turn comes."""
        timeline = self.process.timeline
        timeline.at(timeline.now, lambda: self.spawn(main()), self.process)

    def _break_connections(self) -> None:
        for wire in list(self._network.wires.values()):
            if wire.process is self.process:
                wire.hang_up()


class WorkerProcess(Member):
    """A worker: the product's housekeeping, and its segments for what the broker delivers."""

    def __init__(
        self,
        timeline: Timeline,
        network: Network,
        broker: Broker,
        name: str,
        *,
        number: int,
        configured: Settings,
    ) -> None:
        super().__init__(timeline, network, name, number=number)
        self._settings = configured
        self.broker = broker
        self.housekeeping: Housekeeping | None = None
        self._consumer = Consumer(process=self.process, slots=SLOTS, take=self._take)
        self.begin(self._main)

    async def _main(self) -> None:
        self.housekeeping = Housekeeping(self._settings, self.loop, slots=SLOTS)
        await self.housekeeping.start()
        self.broker.join(self._consumer)

    def _take(self, message: Message) -> None:
        self.spawn(self._execute(message))

    async def _execute(self, message: Message) -> None:
        assert self.housekeeping is not None
        try:
            outcome = await segments.execute(
                self.housekeeping.runtime, message.run_id, task_id=message.task_id
            )
            self._network.note("executed", self.process.name, message.run_id, outcome)
        finally:
            self._consumer.busy -= 1
            self.process.timeline.after(0.001, self.broker.deliver)

    def shut_down(self) -> None:
        """Stop as a warm shutdown does: take nothing more, hand over what runs, end."""
        self._consumer.is_deaf = True
        self.begin(self._shut_down)

    async def _shut_down(self) -> None:
        if self.housekeeping is None:
            self.process.kill()
            return
        here = self.housekeeping.runtime
        await asyncio.sleep(here.settings.drain_s / 10)
        while here.segments or self._consumer.busy:
            for segment in list(here.segments.values()):
                segment.stop(StopCause.SHUTDOWN)
            await asyncio.sleep(0.5)
        await self.housekeeping.stop()
        self._network.note("stopped", self.process.name)
        self.process.kill()


class GatewayProcess(Member):
    """A gateway: the product's, its HTTP server left out."""

    def __init__(
        self, timeline: Timeline, network: Network, name: str, *, number: int, configured: Settings
    ) -> None:
        super().__init__(timeline, network, name, number=number)
        self._settings = configured
        self.gateway: Gateway | None = None
        self._ready = asyncio.Event()
        self.begin(self._main)

    async def _main(self) -> None:
        self.gateway = Gateway(self._settings)
        self.gateway.start()
        self._ready.set()

    async def handle(self, method: str, arguments: dict[str, Any]) -> Any:
        """Serve a request."""
        await self._ready.wait()
        assert self.gateway is not None
        return await getattr(self.gateway.runs, method)(**arguments)

    async def stream(self, arguments: dict[str, Any], receive: Any, send: Any) -> None:
        """Serve an event stream, as the route does."""
        await self._ready.wait()
        assert self.gateway is not None
        here, after = self.gateway, arguments["after"]
        response = EventStream(
            here.tailer.subscribe(arguments["run_id"], after=cursors.parse(after) if after else None),
            principal=Principal(user_id=LOCAL_USER, tenant="default"),
            heartbeat_s=here.settings.heartbeat_s,
            max_age_s=here.settings.stream_max_s,
            metrics=here.metrics,
            outgoing=here.outgoing,
        )
        await response({"type": "http"}, receive, send)
