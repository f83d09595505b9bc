"""Finds a thread's active run, for protocols that name threads and not runs."""

from __future__ import annotations

from typing import Final

from mainstem_shared import transitions
from mainstem_shared.model.principals import Principal
from mainstem_shared.model.record import Record
from mainstem_shared.model.runs import Spec
from mainstem_shared.operations.queries import listings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store

_NEWEST: Final = 9
"""Runs of a thread that are looked at: one is active, few wait, more are history."""


async def newest_active(store: Store, thread_id: str, caller: Principal) -> Spec | None:
    """Return the newest run of a thread that is not over and is the caller's.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    index = keys.thread_runs(caller.tenant, thread_id)
    newest = await store.command("ZREVRANGE", index, 0, _NEWEST)
    for run_id in (raw_id.decode() for raw_id in newest):
        record = await transitions.read_fields(store, run_id, Record.spec)
        known = None if isinstance(record, transitions.Gone) else listings.spec_and_status(run_id, record)
        if known is not None and not known[1].is_terminal and caller.owns(known[0]):
            return known[0]
    return None
