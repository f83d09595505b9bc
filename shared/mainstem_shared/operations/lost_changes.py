"""Repeats this process's transitions of the last minute if a fail-over or a power cut lost them.

A power cut costs a store its last second, a fail-over what the new primary had not heard. What a process was
told is so, it has told others: a run that clients saw end must not end otherwise. Every change is a
compare-and-set on the epoch that it was made from, and epochs do not repeat: made again, it takes effect
exactly if the store has gone back to before it, and in the order of their epochs all of them do.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

from mainstem_shared import errors, transitions
from mainstem_shared.coordination import suspicions
from mainstem_shared.model.contents import Content
from mainstem_shared.model.runs import Status
from mainstem_shared.store import failures
from mainstem_shared.store.client import Store

logger = logging.getLogger(__name__)

KEPT_S: Final = 60.0
"""How long a change is remembered: an append-only file loses two seconds, a lagging replica some more."""
KEPT_CHANGES: Final = 5_000
KEPT_BYTES: Final = 64 * 1024 * 1024
POLL_S: Final = 0.25
REPAIR_S: Final = 20.0
"""How long changes are tried that cannot be made yet: those that they follow may be other processes'."""
GRACE_S: Final = 2.0
"""How long nobody claims runs of a store that went back: who had them first shall say so."""
NOT_REPEATED: Final = {
    "start": "made again, it would bring back a run that was deleted meanwhile",
    "copy": "as of starts; who forks may ask again",
    "promote": "sweepers do it whenever it is due",
}


Notify = Callable[[Any], Awaitable[None]]


class Repeatable(Protocol):
    """What is remembered of a change: `performing.BoundTransition`."""

    @property
    def name(self) -> str: ...
    @property
    def run_id(self) -> str: ...
    @property
    def arguments(self) -> dict[str, Any]: ...
    @property
    def bound(self) -> Callable[..., Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change that took effect. `epoch`: what it opened; None for one that opens none."""

    change: Repeatable
    notify: Notify
    epoch: int | None
    at: float
    size: int


class RecentChanges:
    """Remembers one process's transitions of the last minute, as long as `run` watches the store."""

    def __init__(self, store: Store, perform: Callable[[Any, Notify], Awaitable[Any]]) -> None:
        """Remember for one process; `perform` performs a transition, as `Operations.perform` does."""
        self._store = store
        self._perform = perform
        self._changes: deque[Change] = deque()
        self._size = 0
        self._left: list[Change] = []
        self._watched = False
        self._server: str | None = None
        self._losses = 0
        self._went_back = -GRACE_S
        self._tried = 0.0
        self._lock = asyncio.Lock()
        self.repeated = 0
        """Changes that a store had lost and has again."""

    def note(self, change: Repeatable, answer: object, notify: Notify) -> None:
        """Remember a change, if its answer says that it took effect."""
        if not self._watched or change.name in NOT_REPEATED or not took_effect(answer):
            return
        now = time.monotonic()
        noted = Change(
            change=change, notify=notify, epoch=_epoch_of(answer), at=now, size=_size_of(change.arguments)
        )
        self._changes.append(noted)
        self._size += noted.size
        while self._changes and (
            self._changes[0].at < now - KEPT_S or len(self._changes) > KEPT_CHANGES or self._size > KEPT_BYTES
        ):
            self._size -= self._changes.popleft().size

    def repaired(self, change: Repeatable, *, former: int, epoch: int) -> None:
        """Remember that an owner wrote its run's log anew from a former epoch: what came after is lost."""
        lost = [noted for noted in self._changes if _is_after(noted, change.run_id, former)]
        for noted in lost:
            self._changes.remove(noted)
            self._size -= noted.size
        self.note(change, epoch, _nobody)

    def is_repairing(self, run_id: str) -> bool:
        """Whether a change of this run is about to be made again: who sees it meanwhile sees the past."""
        return any(left.change.run_id == run_id for left in self._left)

    async def begin(self) -> None:
        """Learn which server it is, and remember from now on."""
        self._watched = True
        await self.check(force=True)

    async def run(self) -> None:
        """Watch until cancelled."""
        await self.begin()
        while True:
            await asyncio.sleep(POLL_S)
            await self.check()
            if self._left and time.monotonic() - self._tried > min(2.0, self._repairing_s / 2):
                await self._try_again()

    async def wait_for_repairs(self) -> None:
        """Wait, if the store has just lost writes, until the owners of its runs had time to repair them."""
        await self.check()
        wait_s = self._went_back + GRACE_S - time.monotonic()
        if wait_s > 0:
            await asyncio.sleep(wait_s)

    async def check(self, *, force: bool = False) -> None:
        """Make lost changes again, if the store may be another one. Asks nobody while connections hold."""
        if not self._watched or not (force or self._store.losses != self._losses):
            return
        async with self._lock:
            losses = self._store.losses
            try:
                server = await suspicions.server_of(self._store)
            except (failures.RedisError, OSError):
                return  # asked again: the losses are still unexplained
            if server.is_replica:
                return
            self._losses = losses
            former, self._server = self._server, server.identity
            if former is None or (former and former == server.identity):
                return
            self._went_back = time.monotonic()
            self._left = list(self._changes)
            await self._repeat()

    @property
    def _repairing_s(self) -> float:
        return time.monotonic() - self._went_back

    async def _try_again(self) -> None:
        async with self._lock:
            await self._repeat()
            if self._left and self._repairing_s > REPAIR_S:
                lost = sorted({left.change.run_id for left in self._left})
                noted = {"action": "history_overtaken", "runs": lost}
                logger.warning("changes of the past do not fit the store any more", extra=noted)
                self._left = []

    async def _repeat(self) -> None:
        """Make again what the store has not got, run by run, in order."""
        self._tried = time.monotonic()
        runs: dict[str, list[Change]] = {}
        for left in self._left:
            runs.setdefault(left.change.run_id, []).append(left)
        after: list[Change] = []
        for run_id, changes in runs.items():
            try:
                after += await self._repeat_run(run_id, changes)
            except (errors.Unavailable, failures.RedisError, OSError):
                after += changes
            except Exception:  # one run must not keep the others from being repaired
                noted = {"action": "history_failed", "run_id": run_id}
                logger.exception("a change cannot be made again", extra=noted)
        self._left = after

    async def _repeat_run(self, run_id: str, changes: list[Change]) -> list[Change]:
        """Return what could not be made again yet."""
        for index, noted in enumerate(changes):
            found = await transitions.peek(self._store, run_id)
            if isinstance(found, transitions.Peek) and noted.epoch is not None and found.epoch >= noted.epoch:
                continue  # the store has it, or is past it
            if not await self._repeat_one(noted, found):
                return changes[index:]
        return []

    async def _repeat_one(self, noted: Change, found: transitions.Peek | transitions.Gone) -> bool:
        change = noted.change
        if change.name == "claim" and not _precedes(found, noted):
            return False
        answer = await self._perform(change, noted.notify)
        if isinstance(answer, transitions.Moved) and answer.top < change.arguments["top"]:
            # The store lost acknowledged events as well; whoever ends or pauses a run writes all of it.
            answer = await self._perform(change.bound(top=answer.top), noted.notify)
        if isinstance(answer, transitions.Already | transitions.Decided):
            return True
        if took_effect(answer) and noted.epoch is not None:
            self.repeated += 1
            lost = {"action": "history_repeated", "run_id": change.run_id, "operation": change.name}
            logger.error("the store lost a change of a run; it was made again", extra=lost)
        return took_effect(answer)


def took_effect(answer: object) -> bool:
    """Tell by a verb's answer whether the record is as the caller wanted it."""
    if isinstance(answer, bool):
        return answer
    return isinstance(
        answer,
        int
        | transitions.Claimed
        | transitions.Control
        | transitions.Finished
        | transitions.Paused
        | transitions.Resolved
        | transitions.Intended
        | transitions.Accepted,
    )


async def _nobody(_: object) -> None:
    """Notify nobody: a repair asks nothing of others."""


def _is_after(noted: Change, run_id: str, epoch: int) -> bool:
    return noted.change.run_id == run_id and noted.epoch is not None and noted.epoch > epoch


def _epoch_of(answer: object) -> int | None:
    if isinstance(answer, int):
        return None if isinstance(answer, bool) else answer
    return None if isinstance(answer, transitions.Intended) else getattr(answer, "epoch", None)


def _precedes(found: transitions.Peek | transitions.Gone, noted: Change) -> bool:
    """Tell whether a run is as it was before a claim: queued by the same change, in the same epoch."""
    if isinstance(found, transitions.Gone) or found.status is not Status.QUEUED or noted.epoch is None:
        return False
    return found.epoch + transitions.step_of(noted.change.arguments["nonce"]) == noted.epoch


def _size_of(value: object) -> int:
    """Estimate what a change's arguments hold on to."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, Content):
        return value.size
    if isinstance(value, Mapping):
        return 64 + sum(_size_of(item) for item in cast("Mapping[str, object]", value).values())
    if isinstance(value, Sequence):
        return 64 + sum(_size_of(item) for item in cast("Sequence[object]", value))
    return 64
