"""The transition `move` moves a thread that version 1 kept to the keys of its bucket."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mainstem_shared.store import keys
from mainstem_shared.store.client import Script, Store

MOVE: Final = Script("move")


async def move(store: Store, tag: str, run_ids: Sequence[str]) -> bool:
    """Move a thread at rest to the keys of its bucket; False if one of its runs is unfinished.

    `run_ids`: those of its runs that the indexes of version 1 list.
    """
    old, new = keys.of_first_version(tag), keys.of_bucket(tag)
    reply = await store.verb(
        MOVE,
        [f"{old.thread}:runs", f"{new.thread}:runs"],
        [old.thread, new.thread, old.indexes, new.indexes, " ".join(run_ids)],
    )
    return reply[0] == b"moved"
