"""What a process needs to execute runs: made by its worker on the loop, found here by tasks."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mainstem_shared import mail
from mainstem_shared.finalisation import Finaliser
from mainstem_shared.leases import Lease
from mainstem_shared.settings import Settings
from mainstem_shared.store import Store
from mainstem_shared.writer import Writer
from mainstem_tasks.dispatch import Dispatcher

if TYPE_CHECKING:
    from mainstem_tasks.segments import Segment

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """One per worker process. Everything in it belongs to `loop`, except for what says otherwise."""

    settings: Settings
    loop: asyncio.AbstractEventLoop
    store: Store
    writer: Writer
    lease: Lease
    dispatcher: Dispatcher
    finaliser: Finaliser
    segments: dict[str, Segment] = field(default_factory=dict[str, "Segment"])
    """The runs this process executes now, by run id."""

    def deliver(self, message: mail.Message) -> None:
        """Act on a message from the mailbox."""
        segment = self.segments.get(message.run_id)
        if segment is None:
            logger.info(
                "mail for a run that is not here", extra={"action": "mail_missed", "run_id": message.run_id}
            )
            return
        segment.stop_for(message.reason)

    def suspended(self) -> None:
        """Let go of everything: this process did not run for longer than its lease."""
        self.writer.lose_all()

    def check_clocks(self) -> None:
        """Stop the segments that are over their time, or silent for too long."""
        for segment in list(self.segments.values()):
            segment.check_clock()


_current: Runtime | None = None


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
