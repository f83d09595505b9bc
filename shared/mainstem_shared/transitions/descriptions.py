"""The transition `describe` changes what people say about a run or a thread, and nothing about its life."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mainstem_shared.model import jsontext
from mainstem_shared.model.descriptions import Description
from mainstem_shared.store import keys
from mainstem_shared.store.client import Script, Store
from mainstem_shared.transitions.results import Gone

DESCRIBE: Final = Script("describe")
NAMES: Final = ("title", "labels", "metadata")


async def describe(store: Store, target: tuple[str, str], *, change: Description) -> Description | Gone:
    """Change a description, and return what it is then; `target` is what `of_run` and `of_thread` return."""
    reply = await store.verb(
        DESCRIBE, list(target), [change.change("title"), change.change("labels"), change.change("metadata")]
    )
    return parsed(reply[1:]) if reply[0] == b"described" else Gone()


def of_run(run_id: str) -> tuple[str, str]:
    """Return where a run's description is, and what must be there."""
    record = keys.run(run_id).record
    return record, record


def of_thread(tenant: str, thread_id: str) -> tuple[str, str]:
    """Return where a thread's description is, and what must be there."""
    return keys.thread(tenant, thread_id), keys.thread_runs(tenant, thread_id)


def parsed(values: Sequence[bytes | None]) -> Description:
    """Return the description that these fields are, in the order of NAMES."""
    given = {n: jsontext.loads(value) for n, value in zip(NAMES, values, strict=True) if value}
    return Description.model_validate(given)
