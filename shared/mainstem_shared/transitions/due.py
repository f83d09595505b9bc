"""The transition of an index of due work: take_due."""

from __future__ import annotations

from typing import Final

from mainstem_shared.model.time import now_ms
from mainstem_shared.store.client import Script, Store

TAKE_DUE: Final = Script("take_due")


async def take_due(store: Store, index: str, *, limit: int, hold_ms: int) -> list[tuple[str, int]]:
    """Take entries of an index that are due, oldest first; returns run ids, and since when each was (ms).

    They are due again after `hold_ms`, unless the caller moves or removes them.
    """
    reply = await store.verb(TAKE_DUE, [index], [now_ms(), limit, hold_ms])
    members = reply[1]
    return [(run_id.decode(), int(at)) for run_id, at in zip(members[::2], members[1::2], strict=True)]
