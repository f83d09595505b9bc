"""Transitions of a thread: promote its queue, forget a finished run, recall and erase an engine's memory.

Taking and handing on a thread is part of `start` and `finish`; these two are for sweepers and deletion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mainstem_shared.model import ids
from mainstem_shared.model.time import now_ms
from mainstem_shared.store import keys
from mainstem_shared.store.client import Script, Store
from mainstem_shared.transitions import check_times

PROMOTE: Final = Script("promote")
FORGET: Final = Script("forget")
ERASE: Final = Script("erase")


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The thread is not free."""

    active: str


async def promote(store: Store, run_id: str, *, live_ttl_ms: int, thread_ttl_ms: int) -> str | Held | None:
    """Look after a run that waits for its thread; returns who holds the thread now, if that is new.

    None: the run does not wait for its thread (any more).
    """
    k, now = keys.run(run_id), now_ms()
    reply = await store.verb(
        PROMOTE,
        [k.record, k.log, k.thread, k.thread_queue, k.active],
        [now, run_id, live_ttl_ms, thread_ttl_ms, now + check_times.MESSAGE_MS],
    )
    match reply[0]:
        case b"promoted":
            return reply[1].decode()
        case b"held":
            return Held(active=reply[1].decode())
        case _:
            return None


async def recall(
    store: Store, run_id: str, *, engine: str, ttl_ms: int, patience_s: float | None = None
) -> dict[str, bytes]:
    """Return what an engine keeps on the thread of a run; it lives for `ttl_ms` from now on, or longer."""
    key = keys.memory_of(run_id, engine)
    kept, _ = await store.commands(
        ("HGETALL", key), ("PEXPIRE", key, ttl_ms, "GT"), patience_s=patience_s, large=True
    )
    return {key.decode(): value for key, value in kept.items()}  # a connection of its own: redis-py's reply


async def left_by(store: Store, run_id: str, *, engine: str) -> dict[str, bytes]:
    """Return what an engine keeps on a thread if this run was the last to change it; else nothing."""
    _, unique = ids.split(run_id)
    kept, wrote = await store.commands(
        ("HGETALL", keys.memory_of(run_id, engine)),
        ("HGET", keys.run(run_id).thread, f"wrote:{engine}"),  # second: nobody changed what was read
        large=True,
    )
    if wrote is None or wrote.decode() != unique:
        return {}
    return {key.decode(): value for key, value in kept.items()}


async def erase(store: Store, tenant: str, thread_id: str) -> None:
    """Remove what the engines of a thread keep on it, unless runs of it are there."""
    await store.verb(ERASE, list(keys.thread_keys(tenant, thread_id)))


async def forget(store: Store, run_id: str, *, keep_memory: bool = False) -> bool:
    """Remove a finished run's keys, log and content included; False if it is not over.

    The thread's last run takes along what engines keep on the thread, unless `keep_memory`.
    """
    k = keys.run(run_id)
    reply = await store.verb(
        FORGET,
        [
            k.record, k.log, k.snapshot, k.checkpoint, k.thread, k.thread_runs, k.thread_queue, k.active,
            k.recent, k.compact, k.effects,
        ],
        [run_id, int(keep_memory)],
    )  # fmt: skip
    return reply[0] == b"forgotten"
