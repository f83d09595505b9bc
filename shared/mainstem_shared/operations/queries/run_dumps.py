"""Reads a run's dump from store or archive, and encodes and decodes it, for `mainstem verify`.

A dump holds what users said and what models answered: it is as confidential as the store.
"""

from __future__ import annotations

from typing import Any, Final

from mainstem_shared import errors, transitions
from mainstem_shared.model import cursors, events, jsontext
from mainstem_shared.model.verification import Dump
from mainstem_shared.operations.queries import listings
from mainstem_shared.store.client import Store
from mainstem_shared.transitions.results import Gone

RUNS: Final = 100_000
"""Runs of a thread that are verified, the newest ones."""


async def dump(store: Store, run_id: str) -> Dump:
    """Read what is stored of a run, here or in the archive.

    Raises:
        NotFound: there is no such run.
        StoreUnavailable, ArchiveUnavailable: nobody can tell.
    """
    found = await transitions.dump(store, run_id)
    if not isinstance(found, Gone):
        return found
    kept = None if store.archive is None else await store.archive.get(run_id)
    if kept is None:
        raise errors.NotFound(f"No such run: {run_id}.")
    entries = [] if kept.final is None else [kept.final]
    return Dump(run_id=run_id, record=kept.fields, entries=entries, snapshot=None)


async def thread_run_ids(store: Store, tenant: str, thread_id: str) -> list[str]:
    """Return the ids of a thread's newest runs, oldest first.

    Raises:
        StoreUnavailable, ArchiveUnavailable: nobody can tell.
    """
    return (await listings.newest_of_thread(store, tenant, thread_id, limit=RUNS))[::-1]


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
