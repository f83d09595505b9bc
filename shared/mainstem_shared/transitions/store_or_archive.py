"""Reads a run from the store, or else from the archive. Who changes runs asks the store alone.

A run is committed to the archive before the store lets go of it, so whoever asks in this order misses none,
also in the moment of moving. Without an archive these are the reads of the same names in `log` and `records`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mainstem_shared.archive.rows import StoredRun
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.fields import Field
from mainstem_shared.model.record import Record
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from mainstem_shared.transitions import log, records
from mainstem_shared.transitions.log import Page, State
from mainstem_shared.transitions.results import Gone


async def find(store: Store, run_id: str) -> State | Gone:
    """Read a run as of now, wherever it is.

    Raises:
        NotFound: it cannot be a run id.
        StoreUnavailable, ArchiveUnavailable: nobody can tell.
    """
    state = await log.read(store, run_id)
    if not isinstance(state, Gone) or store.archive is None:
        return state
    kept = await store.archive.get(run_id)
    return Gone() if kept is None else state_of(kept)


async def find_page(store: Store, run_id: str, *, after: Cursor) -> Page | Gone:
    """Read the entries after a cursor, wherever they are: the archive has the last one.

    Raises:
        NotFound: it cannot be a run id.
        StoreUnavailable, ArchiveUnavailable: nobody can tell.
    """
    page = await log.page(store, run_id, after=after)
    if not isinstance(page, Gone) or store.archive is None:
        return page
    kept = await store.archive.get(run_id)
    if kept is None:
        return page
    state = state_of(kept)
    return Page(
        status=state.status,
        epoch=state.epoch,
        top=state.top,
        spec=state.spec,
        entries=[entry for entry in state.entries if entry.cursor > after],
    )


async def find_fields(store: Store, run_id: str, *fields: Field[Any]) -> Record | Gone:
    """Read some fields of a run's record, wherever it is.

    Raises:
        NotFound: it cannot be a run id.
        StoreUnavailable, ArchiveUnavailable: nobody can tell.
    """
    record = await records.read_fields(store, run_id, *fields)
    if not isinstance(record, Gone) or store.archive is None:
        return record
    kept = await store.archive.get(run_id)
    return Gone() if kept is None else kept.record()


async def find_many(store: Store, run_ids: Sequence[str], *fields: Field[Any]) -> list[Record | Gone]:
    """Read the same fields of many runs, wherever they are, in their order.

    Raises:
        NotFound: one of them cannot be a run id.
        StoreUnavailable, ArchiveUnavailable: nobody can tell.
    """
    found = await records.read_many(store, run_ids, *fields)
    if store.archive is None:
        return found
    missing = [run_id for run_id, record in zip(run_ids, found, strict=True) if isinstance(record, Gone)]
    if all(field is Record.spec for field in fields):
        kept = await store.archive.get_specs(missing)
    else:
        kept = {run_id: run.record() for run_id, run in (await store.archive.get_many(missing)).items()}
    return [
        kept[run_id] if isinstance(record, Gone) and run_id in kept else record
        for run_id, record in zip(run_ids, found, strict=True)
    ]


async def find_archived(store: Store, run_ids: Sequence[str]) -> dict[str, StoredRun]:
    """Return those of a thread's runs that only the archive has, in two round trips: `find` asks for each.

    Raises:
        NotFound: one of them cannot be a run id.
        StoreUnavailable, ArchiveUnavailable: nobody can tell.
    """
    if store.archive is None or not run_ids:
        return {}
    missing = list(run_ids)
    # A thread's keys are in one slot: one command tells that the store has none of them, the usual case.
    if await store.command("EXISTS", *(keys.run(run_id).record for run_id in run_ids)):
        found = await records.read_many(store, run_ids)
        missing = [run_id for run_id, record in zip(run_ids, found, strict=True) if isinstance(record, Gone)]
    return await store.archive.get_many(missing)


def state_of(kept: StoredRun) -> State:
    """Return the state of an archived run, as `read` returns that of a finished one."""
    return State(
        record=kept.record(),
        snapshot_cursor=None,
        snapshot_state=b"",
        entries=[] if kept.final is None else [kept.final],
    )


__all__ = ["find", "find_archived", "find_fields", "find_many", "find_page", "state_of"]
