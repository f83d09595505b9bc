"""The simulated broker: a queue of messages "execute this run", each delivered at most once, or lost, or doubled.

Workers acknowledge early, as the product's tasks do: a message that a worker had is gone with the worker.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from mainstem_shared import errors
from simulation import loops
from simulation.network import Network
from simulation.timeline import Process, Timeline

TIMEOUT_S: Final = 2.0


@dataclass(slots=True, kw_only=True)
class Message:
    """A message of the broker. `run_id` is to be executed."""

    run_id: str
    task_id: str


@dataclass(slots=True, kw_only=True)
class Consumer:
    """A worker as the broker sees it."""

    process: Process
    slots: int
    take: Callable[[Message], None]
    busy: int = 0
    is_deaf: bool = False

    @property
    def has_room(self) -> bool:
        return self.process.is_alive and not self.is_deaf and self.busy < self.slots


class Broker:
    """One queue. Its consumers take in turn."""

    ADDRESS: Final = "broker"

    def __init__(self, timeline: Timeline, network: Network) -> None:
        self.timeline = timeline
        self.network = network
        self.is_up = True
        self.lost = 0.0
        """Share of messages that it loses."""
        self.doubled = 0.0
        """Share of messages that it delivers twice."""
        self.delivered = 0
        self._queue: deque[Message] = deque()
        self._consumers: list[Consumer] = []
        self._revoked: set[str] = set()
        self._random = timeline.random("broker")

    def join(self, consumer: Consumer) -> None:
        self._consumers.append(consumer)
        consumer.process.on_death.append(lambda: self.leave(consumer))
        self.deliver()

    def leave(self, consumer: Consumer) -> None:
        if consumer in self._consumers:
            self._consumers.remove(consumer)

    def publish(self, message: Message) -> None:
        for _ in range(1 + self.network.loses(self.doubled)):
            if not self.network.loses(self.lost):
                self._queue.append(message)
        self.deliver()

    def revoke(self, task_id: str) -> None:
        self._revoked.add(task_id)

    def deliver(self) -> None:
        """Hand messages to consumers with room."""
        while self.is_up and self._queue:
            free = [it for it in self._consumers if it.has_room and not self.is_cut(it.process)]
            if not free:
                return
            message = self._queue.popleft()
            if message.task_id in self._revoked:
                continue
            consumer = self._random.choice(free)
            consumer.busy += 1
            self.delivered += 1
            delay_s = self.network.latency_s(consumer.process.name, self.ADDRESS)
            self.network.note("deliver", consumer.process.name, message.run_id)
            self.timeline.after(delay_s, lambda c=consumer, m=message: c.take(m), consumer.process)

    def is_cut(self, process: Process) -> bool:
        return self.network.is_cut(process.name, self.ADDRESS)


class Publisher:
    """What processes have in place of `CeleryPublisher`: the same methods, the simulated broker behind them."""

    broker: Broker
    """Of the history that runs now."""

    def __init__(self, broker_url: str, *, queue: str = "celery", **_: Any) -> None:
        self.broker_url = broker_url
        self.queue = queue
        self._process = loops.process_of_caller()

    async def apublish(self, run_id: str, **_: Any) -> str:
        task_id = str(uuid.UUID(int=self._process.random.getrandbits(128), version=4))
        message = Message(run_id=run_id, task_id=task_id)
        await self._sent(lambda: Publisher.broker.publish(message))
        return task_id

    async def acall(self, task: str, **_: Any) -> None:
        await self._sent(lambda: None)

    async def arevoke(self, task_id: str, *, terminate: bool = True) -> None:
        await self._sent(lambda: Publisher.broker.revoke(task_id))

    async def aping(self) -> None:
        await self._sent(lambda: None)

    async def aclose(self) -> None:
        """Nothing is open."""

    async def _sent(self, act: Callable[[], None]) -> None:
        broker = Publisher.broker
        latency_s = broker.network.latency_s(self._process.name, broker.ADDRESS)
        if not broker.is_up or broker.is_cut(self._process):
            await asyncio.sleep(TIMEOUT_S)
            raise errors.BrokerUnavailable
        broker.timeline.after(latency_s, act)
        await asyncio.sleep(2 * latency_s)
