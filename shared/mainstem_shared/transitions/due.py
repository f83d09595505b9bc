"""The transition `take_due` takes due entries of an index for one sweeper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from mainstem_shared.model.time import now_ms
from mainstem_shared.store.client import Script, Store

TAKE_DUE: Final = Script("take_due")


async def take_due(store: Store, index: str, *, limit: int, hold_ms: int) -> list[tuple[str, int]]:
    """Take entries of an index that are due, oldest first; returns run ids, and since when each was (ms).

    They are due again after `hold_ms`, unless the caller moves or removes them.
    """
    return _taken(await store.verb(TAKE_DUE, [index], [now_ms(), limit, hold_ms]))


async def take_due_of(
    store: Store, indexes: Sequence[str], *, limit: int, hold_ms: int
) -> list[list[tuple[str, int]]]:
    """Take due entries of several indexes, at most `limit` of each; returns them by index."""
    now = now_ms()
    replies = await store.verbs(TAKE_DUE, [((index,), (now, limit, hold_ms)) for index in indexes])
    return [_taken(reply) for reply in replies]


def _taken(reply: list[Any]) -> list[tuple[str, int]]:
    members = reply[1]
    return [(run_id.decode(), int(at)) for run_id, at in zip(members[::2], members[1::2], strict=True)]
