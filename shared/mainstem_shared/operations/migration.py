"""Migrates what version 1 kept, while both versions serve: threads under their own hash tags, three indexes.

A thread of version 1 stays under its keys until none of its runs is unfinished: whoever works on it, follows
it or ends it, of either version, meets the others there. Then a sweeper moves it to its bucket, at once.
Processes learn from the old indexes which threads are left (`keys.FIRST_VERSION`), before they serve and in
each sweep; once they are empty this costs three looks a sweep. See docs/upgrading.md.
"""

from __future__ import annotations

import logging
import time
from typing import Final

from mainstem_shared import transitions
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store

logger = logging.getLogger(__name__)

BUDGET_S: Final = 1.0
"""For how long a sweep moves threads: some thousands of them."""


async def learn(store: Store) -> dict[str, list[str]]:
    """Learn which threads are still under the keys of version 1; returns their listed runs by tag.

    Raises:
        StoreUnavailable: the store does not answer; what was known stays.
    """
    if store.topology.only is None:
        return {}  # version 1 knew one server
    sizes = await store.commands(*(("ZCARD", index) for index in keys.FIRST_INDEXES))
    listed: dict[str, list[str]] = {}
    if any(sizes):
        commands = (("ZRANGE", index, 0, -1) for index in keys.FIRST_INDEXES)
        for found in await store.commands(*commands, large=True):
            for raw in found:
                run_id = raw.decode()
                listed.setdefault(run_id.partition("_")[0], []).append(run_id)
    keys.FIRST_VERSION.clear()
    keys.FIRST_VERSION.update(listed)
    return listed


async def move(store: Store, listed: dict[str, list[str]]) -> int:
    """Move threads at rest to their buckets, for a while; returns how many were."""
    until, moved = time.monotonic() + BUDGET_S, 0
    for tag, run_ids in listed.items():
        if time.monotonic() > until:
            break
        if await transitions.move(store, tag, run_ids):
            keys.FIRST_VERSION.discard(tag)
            moved += 1
    if moved:
        noted = {"action": "threads_moved", "moved": moved, "left": len(listed) - moved}
        logger.info("moved threads of version 1 to their buckets", extra=noted)
    return moved
