"""The transition `take_slot` takes a slot of a user's quota."""

from __future__ import annotations

from typing import Final

from mainstem_shared.model.time import now_ms
from mainstem_shared.store import keys
from mainstem_shared.store.client import Script, Store

TAKE_SLOT: Final = Script("take_slot")


async def take_slot(
    store: Store, *, tenant: str, user_id: str, run_id: str, limit: int, live_ttl_ms: int, replacing_tag: str
) -> dict[str, int] | None:
    """Take a slot of the user's quota for a run.

    `replacing_tag`: the tag of a thread whose runs do not count, or "". Returns None if the slot is taken,
    else the runs that hold all `limit` slots, and when each took its own (ms).
    """
    reply = await store.verb(
        TAKE_SLOT,
        [keys.user_slots(tenant, user_id)],
        [now_ms(), run_id, limit, live_ttl_ms, replacing_tag],
    )
    if reply[0] == b"taken":
        return None
    return {run.decode(): int(at) for run, at in zip(reply[1][::2], reply[1][1::2], strict=True)}
