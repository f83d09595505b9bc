"""Transitions of what runs wait for: `keep_event` when an event comes, `enlist` before a run waits.

They change no run; `operations.waits` wakes those that wait.
"""

from __future__ import annotations

from typing import Final

from mainstem_shared.store import keys
from mainstem_shared.store.client import Script, Store

KEEP_EVENT: Final = Script("keep_event")
ENLIST: Final = Script("enlist")
KEPT_EVENTS: Final = 100
"""Events of one key that are kept; older ones go first."""


async def keep_event(
    store: Store, kept: keys.EventKeys, *, event_id: str, entry: bytes, ttl_ms: int
) -> list[str]:
    """Keep an event, once; returns the runs that are listed as waiting for it."""
    reply = await store.verb(KEEP_EVENT, list(kept), [event_id, entry, ttl_ms, KEPT_EVENTS])
    return [raw.decode() for raw in reply[1]]


async def enlist(store: Store, listed: str, *, run_id: str, ttl_ms: int) -> None:
    """List a run under a key: as waiting for an event, or as the child of another."""
    await store.verb(ENLIST, [listed], [run_id, ttl_ms])
