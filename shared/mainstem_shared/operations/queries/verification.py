"""Verifies stored runs, one by one or a thread's, and writes and reads dumps of them as JSON.

A dump holds what users said and what models answered: it is as confidential as the store.
"""

from __future__ import annotations

from typing import Any

from mainstem_shared import errors, transitions
from mainstem_shared.model import cursors, events, jsontext
from mainstem_shared.model.verification import Dump
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from mainstem_shared.transitions.results import Gone


async def dump(store: Store, run_id: str) -> Dump:
    """Read what is stored of a run.

    Raises:
        NotFound: there is no such run.
        StoreUnavailable: the store does not answer.
    """
    found = await transitions.dump(store, run_id)
    if isinstance(found, Gone):
        raise errors.NotFound(f"No such run: {run_id}.")
    return found


async def thread_run_ids(store: Store, tenant: str, thread_id: str) -> list[str]:
    """Return the ids of a thread's runs that the store still has, oldest first.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    found: list[bytes] = await store.command("ZRANGE", keys.thread_runs(tenant, thread_id), 0, -1, large=True)
    return [run_id.decode() for run_id in found]


def encode(found: Dump) -> bytes:
    """Write a dump as one line of JSON; `decode` reads it. Payloads stay texts, byte for byte."""
    snapshot = found.snapshot and [str(found.snapshot[0]), _text(found.snapshot[1])]
    return jsontext.dumps(
        {
            "run_id": found.run_id,
            "record": {name: _text(value) for name, value in found.record.items()},
            "entries": [[str(entry.cursor), entry.type, _text(entry.data)] for entry in found.entries],
            "snapshot": snapshot or None,
        }
    )


def decode(text: bytes) -> Dump:
    """Read what `encode` wrote.

    Raises:
        ValueError: it is not a dump.
    """
    try:
        stored: dict[str, Any] = jsontext.loads(text)
        state = stored["snapshot"]
        return Dump(
            run_id=stored["run_id"],
            record={name: _bytes(value) for name, value in stored["record"].items()},
            entries=[
                events.Entry(cursors.parse(cursor), kind, _bytes(data))
                for cursor, kind, data in stored["entries"]
            ],
            snapshot=(cursors.parse(state[0]), _bytes(state[1])) if state else None,
        )
    except (ValueError, KeyError, TypeError, AttributeError, errors.InvalidCursor) as error:
        raise ValueError(f"this is not a dump of a run: {error!r}") from error


def _text(stored: bytes) -> str:
    return stored.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
