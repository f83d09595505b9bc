"""Performs transitions of a run as its owner, and repeats them if the store lost the owner's last writes.

A verb that is refused says that somebody else has control, or that the store has forgotten what its owner
had. The channel finds out which, as it does for events, and repairs the log; then the verb is tried again.
Engines' checkpoints and effects come here, and segments that let go of their run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from mainstem_shared import errors, transitions
from mainstem_shared.eventlog.writing.channels import Channel
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.operations.performing import AttemptLimit
from mainstem_tasks.execution.last_resort import FINISH_PATIENCE_S
from mainstem_tasks.execution.runtime import Runtime

R = TypeVar("R")
Attempt = Callable[[transitions.Control, Cursor], Awaitable[R]]
"""Performs a verb under a control, of a run whose log ends there."""


async def let_go(runtime: Runtime, channel: Channel, attempt: Attempt[R], *, patience_s: float) -> R:
    """Perform the transition by which a segment leaves its run, after all events of its engine.

    The caller has the channel `leave` afterwards.

    Raises:
        Fenced: somebody else has the run.
        StoreUnavailable, TimeoutError: performed or not.
    """
    async with asyncio.timeout(patience_s):
        top = await channel.complete()
    return await _as_owner(runtime, channel, attempt, top=top, patience_s=patience_s)


async def as_owner(runtime: Runtime, channel: Channel, attempt: Attempt[R]) -> R:
    """Perform a transition of a run that this segment goes on executing.

    Raises:
        Fenced: somebody else has the run.
        StoreUnavailable: performed or not.
    """
    top = await channel.flush()
    return await _as_owner(runtime, channel, attempt, top=top, patience_s=FINISH_PATIENCE_S)


async def _as_owner(
    runtime: Runtime, channel: Channel, attempt: Attempt[R], *, top: Cursor, patience_s: float
) -> R:
    rounds = AttemptLimit()
    while True:
        rounds.begin()
        control = channel.control
        answer = await attempt(control, top)
        if not _is_refused(answer):
            return answer
        found = await _verified(runtime, channel, patience_s=patience_s)
        if (channel.control, found) == (control, top):
            return answer
        top = found


async def _verified(runtime: Runtime, channel: Channel, *, patience_s: float) -> Cursor:
    """Have the store asked who has the run; returns the log's top, after a repair if one was needed."""
    try:
        async with asyncio.timeout(patience_s):
            await runtime.operations.recent_changes.check()  # the claim may be lost, too
            return await channel.verified()
    except TimeoutError as error:
        raise errors.StoreUnavailable from error


def _is_refused(answer: object) -> bool:
    """Tell whether the record, or the log, is not what the caller took it for."""
    return answer is False or isinstance(answer, transitions.Refused | transitions.Moved)
