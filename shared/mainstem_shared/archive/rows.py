"""Converts a finished run between the store's form and a row of the archive."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from mainstem_shared.model import cursors, jsontext, usage
from mainstem_shared.model.events import Entry, Type
from mainstem_shared.model.record import Record, declared
from mainstem_shared.model.time import now_ms

_OWN_COLUMN: Final = ("spec", "input")
_SIZED: Final = ("spec", "input", "record", "final", "messages")
_MOST: Final = 10**12
"""The most tokens of one model that a run counts with in sums: those of many runs fit into 64 bits."""
_DECLARED: Final = frozenset(field.name for field in declared())
CONTENT: Final = ("spec", "input", "record", "final_id", "final")
"""The columns from which a run is built again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """A finished run as the store has it: all fields of its record, and its last event if there is one."""

    run_id: str
    fields: dict[str, bytes]
    final: Entry | None

    @property
    def nonce(self) -> str:
        """The nonce of the change that ended the run."""
        return self.fields.get(Record.nonce.name, b"").decode(errors="replace")

    def record(self) -> Record:
        """Return the record with all fields that are declared."""
        return Record(self.fields, _DECLARED | self.fields.keys())


def row_of(run: StoredRun, *, read_ms: int | None = None, messages: bytes | None = None) -> dict[str, Any]:
    """Return the row of a finished run that was read from the store at that time (default: now).

    `messages` are those that it adds to its thread, if they are kept ready.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: the record is damaged, or of a later version.
    """
    record, data = run.record(), b"" if run.final is None else run.final.data
    spec, reason = record.spec, record.reason
    rest = {name: _text(value) for name, value in run.fields.items() if name not in _OWN_COLUMN}
    row: dict[str, Any] = {
        "run_id": run.run_id,
        "tenant": spec.tenant,
        "user_id": spec.user_id,
        "thread_id": spec.thread_id,
        "engine": spec.engine,
        "status": record.status.value,
        "reason": reason and reason.value,
        "created_ms": spec.created_ms,
        "finished_ms": record.finished_ms,
        "epoch": record.epoch,
        "usage": _usage(data),
        "spec": run.fields["spec"],
        "input": run.fields.get("input", b"{}"),
        "record": json.dumps(rest).encode(),
        "final_id": None if run.final is None else str(run.final.cursor),
        "final": data or None,
        "archived_ms": now_ms() if read_ms is None else read_ms,
        "deleted_ms": None,
        "messages": messages,
    }
    return {**row, "size": sum(len(row[name] or b"") for name in _SIZED)}


def run_of(run_id: str, row: Mapping[str, Any]) -> StoredRun:
    """Return what the store had, from the columns of CONTENT."""
    rest: dict[str, str] = json.loads(row["record"])
    fields = {name: value.encode(errors="surrogateescape") for name, value in rest.items()}
    final = None
    if row["final_id"] is not None:
        final = Entry(
            cursor=cursors.parse(row["final_id"]), type=Type.FINISHED, data=bytes(row["final"] or b"{}")
        )
    return StoredRun(
        run_id=run_id,
        fields={**fields, "spec": bytes(row["spec"]), "input": bytes(row["input"])},
        final=final,
    )


def described(record: bytes, changes: Mapping[str, bytes | None]) -> bytes:
    """Return a row's `record` with other members of its description; None removes one."""
    fields: dict[str, str] = json.loads(record)
    for name, value in changes.items():
        fields.pop(name, None)
        if value is not None:
            fields[name] = _text(value)
    return json.dumps(fields).encode()


def _text(value: bytes) -> str:
    return value.decode(errors="surrogateescape")


def _usage(final: bytes) -> dict[str, Any] | None:
    """Return what a run used, for queries: its counts, and `models`; None if there is nothing to be read."""
    try:
        found: Any = jsontext.loads(final).get("usage") if final else None
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    named = cast("dict[str, Any]", found)
    counts = {name: value for name, value in named.items() if isinstance(value, int)}
    models = [_model(one) for one in usage.rows(named, run_id="", tenant="", user_id="", day="")]
    return {**counts, **({"models": models} if models else {})} or None


def _model(one: usage.UsageRow) -> dict[str, Any]:
    """Return what a run used of one model, so that every database can add it up."""
    tokens = {name: value for name, value in one._asdict().items() if name.endswith("_tokens")}
    return {
        "provider": _queryable(one.provider),
        "model": _queryable(one.model),
        **{name: min(value, _MOST) for name, value in {"calls": one.calls, **tokens}.items()},
        "cost_usd": None if one.cost_usd is None else usage.decimal_text(one.cost_usd),
    }


def _queryable(name: str) -> str:
    """Return a name without what PostgreSQL refuses to take out of JSON: a NUL, half of a surrogate pair."""
    return jsontext.well_formed(name).replace("\0", "\ufffd")
