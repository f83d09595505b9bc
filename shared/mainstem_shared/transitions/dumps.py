"""Reads everything that is stored of a run at one moment: what `model.verification` verifies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from mainstem_shared.model import cursors, events
from mainstem_shared.model.verification import Dump
from mainstem_shared.store import keys
from mainstem_shared.store.client import Script, Store
from mainstem_shared.transitions.results import Gone

DUMP: Final = Script("dump", large=True)


async def dump(store: Store, run_id: str) -> Dump | Gone:
    """Read a run's record, its whole log and its snapshot, as of one moment.

    Raises:
        NotFound: it cannot be a run id.
        StoreUnavailable: the store does not answer.
    """
    names = keys.run(run_id)
    return dumped(run_id, await store.verb(DUMP, [names.record, names.log, names.snapshot]))


def dumped(run_id: str, reply: Sequence[Any]) -> Dump | Gone:
    """Read the verb's reply."""
    if not reply:
        return Gone()
    record, entries, snapshot = reply
    state = _fields(snapshot)
    return Dump(
        run_id=run_id,
        record=_fields(record),
        entries=[events.entry(raw_id, fields) for raw_id, fields in entries],
        snapshot=(cursors.parse(state["cursor"]), state["state"]) if state else None,
    )


def _fields(flat: Sequence[bytes]) -> dict[str, bytes]:
    return {name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}
