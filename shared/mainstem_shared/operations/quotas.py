"""Quotas limit the active runs of a user (MAINSTEM_MAX_ACTIVE_RUNS_PER_USER; 0: any number).

A pair across slots of the store: the run's record is the truth, the user's ZSET a count of it. Order: the
slot first, then the run. A crash in between leaves a slot of a run that never came to be; a lost release
leaves one of a run that is over. Both are found when somebody is refused: every refusal is verified against
the records first. A run that waits for a human holds no slot.
"""

from __future__ import annotations

import logging
from typing import Final

from mainstem_shared import errors, transitions
from mainstem_shared.model import ids
from mainstem_shared.model.runs import Spec, Status
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations import indexes
from mainstem_shared.settings import Settings
from mainstem_shared.store.client import Store

logger = logging.getLogger(__name__)

START_GRACE_MS: Final = 15_000
"""A slot without a record belongs to a start under way for this long: longer than a start has patience."""
RETRY_AFTER_S: Final = 2
ROUNDS: Final = 3
"""Others may take what a verification freed."""
_AT_WORK: Final = frozenset({Status.QUEUED, Status.RUNNING})


async def take(store: Store, settings: Settings, spec: Spec, *, replacing: bool = False) -> None:
    """Take a slot for a run before it is started or resumed. `replacing`: its thread's runs do not count.

    Raises:
        TooManyRuns: as many of the user are at work as may be; ask again after its `retry_after_s`.
    """
    limit = settings.max_active_runs_per_user
    if limit == 0:
        return
    tag = ids.split(spec.run_id)[0] if replacing else ""
    for _ in range(ROUNDS):
        taken = await transitions.take_slot(
            store,
            tenant=spec.tenant,
            user_id=spec.user_id,
            run_id=spec.run_id,
            limit=limit,
            live_ttl_ms=settings.live_ttl_ms,
            replacing_tag=tag,
        )
        if taken is None:
            return
        if not await drop_stale(store, spec, taken):
            break
    raise errors.TooManyRuns(retry_after_s=RETRY_AFTER_S)


async def drop_stale(store: Store, spec: Spec, taken: dict[str, int]) -> int:
    """Drop those slots of the user that belong to runs which are not at work; returns how many."""
    records, now = await transitions.read_many(store, list(taken)), now_ms()
    stale = [
        run_id
        for (run_id, taken_ms), record in zip(taken.items(), records, strict=True)
        if (
            now - taken_ms > START_GRACE_MS
            if isinstance(record, transitions.Gone)
            else record.status not in _AT_WORK
        )
    ]
    if stale:
        logger.info("dropped stale slots", extra={"action": "slots_verified", "dropped": len(stale)})
        await indexes.drop_slots(store, spec, stale)
    return len(stale)
