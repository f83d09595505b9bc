"""A process's one writer carries the events of all its runs, each to the server that has its log.

It has a `NodeWriter` for each server. When a slot has another owner, or a server cannot be reached, it looks
where each of the runs in doubt is now, and has them probed there. What was in flight stays in doubt until its
server has answered or the connection is lost: only then may a run's events go elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from mainstem_shared import transitions
from mainstem_shared.eventlog.writing.channels import Channel, Phase
from mainstem_shared.eventlog.writing.node_writers import RETRY_S, NodeWriter, Repair, WriterContext
from mainstem_shared.eventlog.writing.pacing import Pace
from mainstem_shared.model.contents import Content
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys, topologies
from mainstem_shared.store.client import Store
from mainstem_shared.store.failures import RedisError

logger = logging.getLogger(__name__)

__all__ = ["RETRY_S", "Writer"]


class Writer:
    """Carries channels. `start` and `stop` frame its life on one loop."""

    kind = NodeWriter

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        may_write: Callable[[], bool] = lambda: True,
        on_suspended: Callable[[], None] = lambda: None,
        on_reached: Callable[[], None] = lambda: None,
        before_probing: Callable[[], Awaitable[None]] | None = None,
        on_repaired: Callable[[Repair], None] = lambda _: None,
    ) -> None:
        """`on_reached` is called when the store is reached, and when it has lost acknowledged events.

        `before_probing` is awaited before channels ask a server that was reached what it has of them.
        `on_repaired` is told what was written anew.
        """
        self.store = store
        self._pace = Pace(settings.write_profile)
        self._context = WriterContext(
            store=store,
            settings=settings,
            pace=self._pace,
            may_write=may_write,
            on_suspended=on_suspended,
            on_reached=on_reached,
            before_probing=before_probing,
            on_repaired=on_repaired,
            on_connection=self._connection_changed,
            on_unreachable=self._unreachable,
            has_run_of=self._has_run_of,
            on_homeless=self._homeless,
        )
        self._writers: dict[str, NodeWriter] = {}
        self._unplaced: dict[Channel, None] = {}
        self._placing: asyncio.Task[None] | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        self._past = (0, 0)
        self.connected = asyncio.Event()

    async def start(self) -> None:
        """Begin to connect; events are accepted at once and wait for the connection."""
        if not self.store.topology.nodes:
            with contextlib.suppress(RedisError, OSError):
                await self.store.refresh()
        self.store.topology.changed.append(self._slots_changed)
        for url in self.store.topology.nodes:
            self._at(url)

    def _at(self, url: str) -> NodeWriter:
        found = self._writers.get(url)
        if found is None:
            found = self._writers[url] = self.kind(url, self._context)
            self._connection_changed()
            found.start()
        return found

    async def stop(self) -> None:
        """Close all connections. Channels must have been closed before: what they hold is dropped."""
        with contextlib.suppress(ValueError):  # it was never started
            self.store.topology.changed.remove(self._slots_changed)
        placing = () if self._placing is None else (self._placing,)
        for task in placing:
            task.cancel()
        await asyncio.gather(*placing, *self._retiring, return_exceptions=True)
        for writer in list(self._writers.values()):
            await writer.stop()

    def open(self, control: transitions.Control, fold: Content | None = None) -> Channel:
        """Return the channel of a run that was just claimed; `fold` is its content so far."""
        try:
            url = self.store.topology.node_of(keys.run(control.run_id).log)
        except topologies.Unlearned:  # on its way to another shard since it was claimed
            return self._opened_on_its_way(control, fold or Content())
        writer = self._at(url)
        channel = Channel(writer, control, fold or Content())
        writer.take(channel)
        return channel

    def _opened_on_its_way(self, control: transitions.Control, fold: Content) -> Channel:
        """Have any writer keep a channel until its run's server is known, which is then asked about it."""
        writer = next(iter(self._writers.values()))
        channel = Channel(writer, control, fold)
        writer.take(channel)
        channel.phase = Phase.PROBING
        self._homeless(channel)
        return channel

    def lose_all(self) -> None:
        """Drop every channel: this process was suspended, and its runs belong to others by now."""
        for channel in self._channels:
            channel.lose()

    # -- figures

    @property
    def _channels(self) -> list[Channel]:
        return [channel for writer in self._writers.values() for channel in writer.channels]

    @property
    def window_s(self) -> float:
        """How long events wait to be merged now."""
        return self._pace.window_s

    @property
    def buffered_bytes(self) -> int:
        """Bytes of all runs' events that wait to be acknowledged."""
        return sum(channel.buffered for channel in self._channels)

    @property
    def channel_count(self) -> int:
        """Runs whose events it carries."""
        return len(self._channels)

    @property
    def groups_sent(self) -> int:
        return self._past[0] + sum(writer.groups_sent for writer in self._writers.values())

    @property
    def bytes_sent(self) -> int:
        return self._past[1] + sum(writer.bytes_sent for writer in self._writers.values())

    # -- where runs are

    def _connection_changed(self) -> None:
        if self._writers and all(writer.is_connected for writer in self._writers.values()):
            self.connected.set()
        else:
            self.connected.clear()

    def _has_run_of(self, writer: NodeWriter, channel: Channel) -> bool:
        """Tell whether a writer's server has a run; a Cluster's node says itself if it has not."""
        topology = self.store.topology
        if topology.only is not None or topology.by_slot:
            return True
        try:
            return topology.node_of(channel.key) == writer.url
        except topologies.Unlearned:
            return False

    def _homeless(self, channel: Channel) -> None:
        """Find a channel in doubt its server, where there are several."""
        if self.store.topology.only is not None:
            channel.writer.probe(channel)
            return
        self._unplaced[channel] = None
        if self._placing is None:
            self._placing = asyncio.create_task(self._place_all(), name="mainstem-writer-placing")
            self._placing.add_done_callback(self._placed)

    def _unreachable(self, writer: NodeWriter) -> None:
        if self.store.topology.only is None:
            for channel in writer.channels:
                self._homeless(channel)

    def _placed(self, task: asyncio.Task[None]) -> None:
        self._placing = None
        if not task.cancelled() and (failure := task.exception()) is not None:
            logger.error("runs were not placed", extra={"action": "writer_lost_way"}, exc_info=failure)

    async def _place_all(self) -> None:
        """Look where slots are, then have every channel in doubt probed by the server that has its run."""
        while self._unplaced:
            with contextlib.suppress(RedisError, OSError):
                await self.store.refresh()
            unplaced, self._unplaced = self._unplaced, {}
            for channel in unplaced:
                if channel.phase is Phase.PROBING:
                    self._place(channel)
                    channel.writer.probe(channel)
        self._retire()

    def _place(self, channel: Channel) -> bool:
        """Give a channel that has nothing in flight to the server of its run; False if it is there."""
        try:
            url = self.store.topology.node_of(channel.key)
        except topologies.Unlearned:
            return False
        if channel.writer.url == url:
            return False
        channel.writer.forget(channel)
        self._at(url).take(channel)
        return True

    def _slots_changed(self) -> None:
        """Carry runs to where they are now; those with events in flight follow when they are refused."""
        here = self.store.topology.nodes
        for writer in list(self._writers.values()):
            if writer.url not in here:
                writer.give_up()  # what is in flight there is in doubt from now on
            for channel in writer.channels:
                if channel.phase is not Phase.IN_FLIGHT and self._place(channel):
                    channel.writer.probe(channel)
        self._retire()

    def _retire(self) -> None:
        """Let go of servers that have nothing of this store any more."""
        for url, writer in list(self._writers.items()):
            if url not in self.store.topology.nodes and writer.is_idle:
                del self._writers[url]
                self._past = (self._past[0] + writer.groups_sent, self._past[1] + writer.bytes_sent)
                task = asyncio.create_task(writer.stop())
                self._retiring.add(task)
                task.add_done_callback(self._retiring.discard)
        self._connection_changed()
