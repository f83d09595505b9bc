"""Reads fields of runs' records: for whoever needs no content, of one run or of many in one round trip.

`read` returns record, snapshot and log of one moment; this is the cheap look. Fields are declared, and typed,
in `model.record`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mainstem_shared.model.fields import Field
from mainstem_shared.model.record import Record
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from mainstem_shared.transitions.first_version import LOOKS, recognise
from mainstem_shared.transitions.results import Gone


async def read_fields(store: Store, run_id: str, *fields: Field[Any], looks: int = LOOKS) -> Record | Gone:
    """Read some fields of a run's record, and its status.

    Raises:
        NotFound: it cannot be a run id.
        StoreUnavailable: the store does not answer.
    """
    names = _names(fields)
    large = any(field.large for field in fields)
    record = _record(names, await store.command("HMGET", keys.run(run_id).record, *names, large=large))
    if isinstance(record, Gone) and await recognise(store, run_id, looks=looks):
        return await read_fields(store, run_id, *fields, looks=looks - 1)
    return record


async def read_many(store: Store, run_ids: Sequence[str], *fields: Field[Any]) -> list[Record | Gone]:
    """Read the same fields of many runs, in one round trip, in the order of the runs.

    Raises:
        NotFound: one of them cannot be a run id.
        StoreUnavailable: the store does not answer.
    """
    names = _names(fields)
    commands = (("HMGET", keys.run(run_id).record, *names) for run_id in run_ids)
    is_large = any(
        field.large or field is Record.spec for field in fields
    )  # kilobytes of metadata, times many
    return [_record(names, values) for values in await store.commands(*commands, large=is_large)]


def _names(fields: Sequence[Field[Any]]) -> list[str]:
    """Return what to ask for; the status always, so that a record that is there is never taken for gone."""
    return list(dict.fromkeys([Record.status.name, *(field.name for field in fields)]))


def _record(names: Sequence[str], values: Sequence[bytes | None]) -> Record | Gone:
    stored = {name: value for name, value in zip(names, values, strict=True) if value is not None}
    return Record(stored, names) if stored else Gone()
