"""Recognises a run that version 1 kept, when it is not where this version keeps its own.

Processes learn which threads are left when they begin and in each sweep (`operations.migration`); this is for
what happens in between: a process of version 1 started a run, or a sweeper moved a thread.
"""

from __future__ import annotations

from typing import Final

from mainstem_shared import errors
from mainstem_shared.model import ids
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store

LOOKS: Final = 3
"""How often a run is looked for that seems to be where it was not found."""


async def recognise(store: Store, run_id: str, *, looks: int) -> bool:
    """Look where a run is that was not found; True if it is elsewhere than was thought: look again.

    `looks`: how many more looks the caller has.

    Raises:
        StoreUnavailable: it is where it was not found, again and again. Connections of this process lead to
            servers that do not agree, such as a primary that was demoted and lags.
    """
    if store.topology.only is None:
        return False  # version 1 knew one server
    tag, _ = ids.split(run_id)
    listed, is_here = await store.commands(
        ("ZSCORE", keys.FIRST_INDEXES.recent, run_id), ("HEXISTS", keys.run(run_id).record, "status")
    )
    is_old = listed is not None
    if is_old == (tag in keys.FIRST_VERSION):
        if is_here and looks <= 0:
            raise errors.StoreUnavailable
        return bool(is_here)  # it was moved here after it was looked for
    if is_old:
        keys.FIRST_VERSION.add(tag)
    else:
        keys.FIRST_VERSION.discard(tag)
    return True
