"""The transition `describe` changes title, labels and metadata of a run or a thread, never its status."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mainstem_shared.model import jsontext
from mainstem_shared.model.descriptions import Description
from mainstem_shared.model.time import now_ms
from mainstem_shared.store import keys
from mainstem_shared.store.client import Script, Store
from mainstem_shared.transitions.results import Gone

DESCRIBE: Final = Script("describe")
NAMES: Final = ("title", "labels", "metadata")


async def describe(
    store: Store, target: Sequence[str], *, change: Description, again: tuple[str, int] | None = None
) -> Description | Gone:
    """Change a description, and return what it is then; `target` is what `of_run` and `of_thread` return.

    `again`: a run's id, and for how long (ms) it waits in the store to be archived once more.
    """
    changes = [change.change(name) for name in NAMES]
    run_id, keep_ms = again or ("", 0)
    reply = await store.verb(DESCRIBE, target, [*changes, run_id, now_ms(), keep_ms])
    return parsed(reply[1:]) if reply[0] == b"described" else Gone()


def of_run(run_id: str) -> tuple[str, str, str, str]:
    """Return where a run's description is, what must be there, and what an archived one needs besides."""
    k = keys.run(run_id)
    return k.record, k.record, k.log, k.compact


def of_thread(tenant: str, thread_id: str) -> tuple[str, str]:
    """Return where a thread's description is, and what must be there."""
    return keys.thread(tenant, thread_id), keys.thread_runs(tenant, thread_id)


def parsed(values: Sequence[bytes | None]) -> Description:
    """Return the description that these fields are, in the order of NAMES."""
    given = {n: jsontext.loads(value) for n, value in zip(NAMES, values, strict=True) if value}
    return Description.model_validate(given)


def changed(change: Description) -> dict[str, bytes | None]:
    """Return what a change gives, as the archive keeps it; None clears."""
    given = {name: change.change(name) for name in NAMES if name in change.model_fields_set}
    return {name: None if value == b"null" else value for name, value in given.items()}
