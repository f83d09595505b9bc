"""Decides which queued runs are published, so that no user's burst delays others (MAINSTEM_FAIR_SHARE).

A pair across slots of the store: the run's record is the truth, the window a count of runs that workers may
have. Order: the record first, then the window, then the message. A crash in between leaves a queued run
without a message, which a sweeper offers again, or a place of a run that is over, which one takes back.
Off by default (MAINSTEM_FAIR_SHARE): every run is published at once, and workers take the oldest first.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Final

from mainstem_shared import transitions
from mainstem_shared.coordination import leases
from mainstem_shared.model import ids, runs
from mainstem_shared.model.runs import Spec, Status
from mainstem_shared.model.time import now_ms
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from mainstem_shared.transitions import Admitted, Wanted

logger = logging.getLogger(__name__)

HEADROOM: Final = 1.2
"""Runs admitted per place of a worker: a worker that has ended one finds the next in its broker already."""
WINDOW_S: Final = 1.0
"""How long a process goes by the workers that it counted."""
SETTLED_MS: Final = 5_000
"""A place that is younger may belong to a run whose record this sweep has not seen yet."""
CLASSES: Final[Mapping[runs.Priority, float]] = {"interactive": 1.0, "batch": 0.25}
"""Weights of the classes of runs, where MAINSTEM_FAIR_SHARE_CLASSES names no other."""
_AT_WORK: Final = frozenset({Status.QUEUED, Status.RUNNING})


class Admission:
    """The window of one queue, as one process sees it. Every method may raise StoreUnavailable."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._windows: dict[str, int] = {}
        self._counted_at = -math.inf

    async def offer(self, spec: Spec, *, had_turn: bool = False) -> Admitted:
        """Ask for a place for a queued run; others that waited may get one in the same call.

        `had_turn`: a worker had the run already, so it comes before all that did not have a turn yet.
        """
        user = ids.user_tag(spec.tenant, spec.user_id)
        if spec.priority == "batch":
            user += ":batch"  # a turn of its own: a user's batch must not delay what the user waits for
        share = 1 / weight_of(self._settings, spec)
        wanted = Wanted(run_id=spec.run_id, user=user, share=share, had_turn=had_turn)
        return await self._admit(self._settings.queue_of(spec.engine), wanted=wanted)

    async def leave(self, run_ids: Sequence[str]) -> Sequence[str]:
        """Give the places of runs back; returns the runs that get them."""
        return [name for queue in self._settings.queues for name in await self._leave(queue, run_ids)]

    async def _leave(self, queue: str, run_ids: Sequence[str]) -> Sequence[str]:
        return (await self._admit(queue, over=run_ids)).fresh

    async def verify(self) -> Sequence[str]:
        """Take back the places of runs that are over or gone; returns the runs that get them."""
        return [name for queue in self._settings.queues for name in await self._verify(queue)]

    async def _verify(self, queue: str) -> Sequence[str]:
        admitted, waiting, _ = keys.admission(queue)
        flat = await self._store.command("ZRANGE", admitted, 0, -1, "WITHSCORES", large=True)
        waits = await self._store.command("ZRANGE", waiting, 0, await self.window(queue), large=True)
        before = now_ms() - SETTLED_MS
        listed = [raw.decode() for raw, at in zip(flat[::2], flat[1::2], strict=True) if int(at) < before]
        listed += [raw.decode() for raw in waits]
        records = await transitions.read_many(self._store, listed)
        over = [
            run_id
            for run_id, record in zip(listed, records, strict=True)
            if isinstance(record, transitions.Gone) or record.status not in _AT_WORK
        ]
        if over:
            logger.info("took back places", extra={"action": "places_verified", "dropped": len(over)})
        return await self._leave(queue, over)

    async def _admit(self, queue: str, *, wanted: Wanted | None = None, over: Sequence[str] = ()) -> Admitted:
        return await transitions.admit(
            self._store,
            queue,
            window=await self.window(queue),
            live_ttl_ms=self._settings.live_ttl_ms,
            wanted=wanted,
            over=over,
        )

    async def window(self, queue: str) -> int:
        """Return how many of a queue's runs may be published; at least one, for the first worker to find.

        A worker of several queues counts with all its places for each: what one does not need, others use.
        """
        if time.monotonic() - self._counted_at >= WINDOW_S:
            alive = await self._leases()
            self._windows = {
                name: max(1, math.ceil(sum(places_of(one, self._settings, name) for one in alive) * HEADROOM))
                for name in self._settings.queues
            }
            self._counted_at = time.monotonic()
        return self._windows[queue]

    async def _leases(self) -> list[str]:
        owners = await self._store.command("ZRANGE", keys.WORKERS, 0, -1, large=True)
        wanted = (("GET", keys.lease(owner.decode())) for owner in owners)
        answers = await self._store.commands(*wanted, large=True)
        return [answer.decode() for answer in answers if answer is not None]


def places_of(lease: str, settings: Settings, queue: str) -> int:
    """Return how many of a queue's runs the process of a lease executes at once; old ones did not say."""
    _, _, _, places, *_ = [*lease.split(" "), "", "", ""]
    if queue not in leases.queues_of(lease, settings):
        return 0
    return int(places) if places.isdecimal() else settings.concurrency


def weight_of(settings: Settings, spec: Spec) -> float:
    """Return the weight of a user's runs: with 2, twice as many runs as one with 1 while both wait.

    It is the tenant's, times that of the run's class.
    """
    weights = settings.fair_share_weights or {}
    of_tenant = weights.get(spec.tenant, weights.get("*", 1.0))
    return of_tenant * {**CLASSES, **(settings.fair_share_classes or {})}[spec.priority or "interactive"]
