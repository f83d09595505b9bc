"""The runtime holds what a process needs to execute runs; its worker makes it, tasks find it here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from mainstem_shared import transitions
from mainstem_shared.coordination import mailboxes
from mainstem_shared.coordination.leases import Lease
from mainstem_shared.eventlog.writing.writer import Writer
from mainstem_shared.model.runs import Reason, Status
from mainstem_shared.operations import ending
from mainstem_shared.operations.performing import Operations
from mainstem_shared.settings import Settings
from mainstem_shared.store.client import Store
from mainstem_tasks.celery_support.publisher import CeleryPublisher

logger = logging.getLogger(__name__)


class StopCause(StrEnum):
    """Why a segment's engine is stopped."""

    REQUESTED = "requested"
    TIMED_OUT = "timed_out"
    SHUTDOWN = "shutdown"
    LOST = "lost"
    SUSPENDED = "suspended"


class SegmentHandle(Protocol):
    """What a runtime asks of the segments that it executes (`segments.SegmentHandle`)."""

    def stop(self, cause: StopCause) -> None: ...
    def stop_for(self, reason: Reason) -> None: ...
    def fetch_inputs(self) -> None: ...
    def check_clock(self) -> None: ...
    def silence_s(self) -> float: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """One per worker process. Everything in it belongs to `loop`, except for what says otherwise."""

    settings: Settings
    loop: asyncio.AbstractEventLoop
    store: Store
    writer: Writer
    lease: Lease
    publisher: CeleryPublisher
    operations: Operations
    segments: dict[str, SegmentHandle] = field(default_factory=dict[str, SegmentHandle])
    """The runs this process executes now, by run id."""
    claiming: dict[str, Reason | None] = field(default_factory=dict[str, Reason | None])
    """Runs whose claim is under way, and the stop that overtook its reply, if any."""
    addressed: set[str] = field(default_factory=set[str])
    """Runs whose claim is under way, and that users said something to meanwhile."""
    waiting_for_providers: set[object] = field(default_factory=set[object])
    """Provider calls of this process that wait for their turn."""
    tasks: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])
    """What `spawn` started and has not ended."""

    def deliver(self, message: mailboxes.Message) -> None:
        """Act on a message from the mailbox."""
        if isinstance(message, mailboxes.InputMessage):
            self._tell(message.run_id)
        elif not self._stop(message):
            self.spawn(self._end_orphan(message))

    def _tell(self, run_id: str) -> None:
        """Have a run's segment fetch its inputs; one that begins does so by itself."""
        if (segment := self.segments.get(run_id)) is not None:
            segment.fetch_inputs()
        elif run_id in self.claiming:
            self.addressed.add(run_id)

    def _stop(self, message: mailboxes.StopMessage) -> bool:
        """Stop the run if it is here, or about to be."""
        if (segment := self.segments.get(message.run_id)) is not None:
            segment.stop_for(message.reason)
        elif message.run_id in self.claiming:
            self.claiming[message.run_id] = message.reason
        else:
            return False
        return True

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something beside the segments; it ends with the process."""
        task = self.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a side task failed", extra={"action": "side_task_failed"}, exc_info=error)

    async def _end_orphan(self, message: mailboxes.StopMessage) -> None:
        """End a run that is ours by its record but that no segment here knows: its task died on the way."""
        run_id, owner = message.run_id, self.lease.owner
        if self.operations.recent_changes.is_repairing(run_id):
            return
        state = await transitions.read(self.store, run_id)
        if self._stop(message):
            return
        if isinstance(state, transitions.Gone) or state.status is not Status.RUNNING or state.owner != owner:
            logger.info("mail for a run that is not here", extra={"action": "mail_missed", "run_id": run_id})
            return
        await ending.take_and_end(
            self.operations, run_id, sealer=owner, reason=message.reason, expected_epoch=state.epoch
        )

    def suspended(self) -> None:
        """Let go of everything: this process did not run for longer than its lease."""
        self.writer.lose_all()

    def longest_silence_s(self) -> float:
        """For how long the most silent engine has emitted nothing."""
        return max((segment.silence_s() for segment in list(self.segments.values())), default=0.0)

    def check_clocks(self) -> None:
        """Stop the segments that are over their time, or silent for too long."""
        for segment in list(self.segments.values()):
            segment.check_clock()


_current: Runtime | None = None
_provider: Callable[[], Awaitable[Runtime]] | None = None


def install(runtime: Runtime | None) -> None:
    """Make `runtime` the process's one; None when it is over."""
    global _current  # noqa: PLW0603 - one worker per process
    _current = runtime


def current() -> Runtime:
    """Return the process's runtime.

    Raises:
        RuntimeError: this process is no Mainstem worker, or it has not started yet.
    """
    if _current is None:
        raise RuntimeError("No Mainstem runtime here: start the worker with `mainstem worker`.")
    return _current


def provide(start: Callable[[], Awaitable[Runtime]] | None) -> None:
    """Let `start` make the runtime when a task first needs it, on the loop that runs tasks; None: no more."""
    global _provider  # noqa: PLW0603 - one worker per process
    _provider = start


async def ready() -> Runtime:
    """Return the process's runtime, as soon as it is there.

    Raises:
        RuntimeError: this process is no Mainstem worker.
    """
    if _current is None and _provider is not None:
        return await _provider()
    return current()
