"""The transition `copy` creates a run that is over: a copy of another thread's, which nobody executes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from mainstem_shared.model import jsontext, memories, runs
from mainstem_shared.model.descriptions import Description
from mainstem_shared.model.runs import Reason, Spec
from mainstem_shared.model.time import now_ms
from mainstem_shared.store import keys
from mainstem_shared.store.client import Script, Store

COPY: Final = Script("copy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """What is copied of a run: what it was given and has produced, how it ended, what people say of it."""

    run_input: bytes
    state: dict[str, Any]
    """Its dumped content."""
    reason: Reason
    error: runs.ErrorInfo | None
    decisions: list[dict[str, Any]]
    description: Description
    memory: memories.Changes | None = None
    """What its engine keeps on the thread, if this run was the last to change it."""


async def copy(
    store: Store,
    spec: Spec,
    original: Original,
    *,
    nonce: str,
    previous: str,
    retention_ms: int,
    compact_after_ms: int,
) -> bool:
    """Create a copy after the one before it (`previous`, '' for the first); False if the thread is taken."""
    k, now, reason = keys.run(spec.run_id), now_ms(), original.reason
    failure = original.error.model_dump() if original.error else None
    body = {"status": reason.status, "reason": reason, "error": failure, "at": now, **original.state}
    about = original.description
    reply = await store.verb(
        COPY,
        [k.record, k.log, k.thread, k.thread_runs, k.recent, k.compact,
         keys.memory(spec.run_id, original.memory)],
        [
            now, nonce, spec.run_id, spec.model_dump_json(), original.run_input, jsontext.dumps(body),
            reason.status.value, reason.value, _json(failure), _json(original.decisions or None),
            _json(about.title), _json(about.labels), _json(about.metadata), retention_ms,
            now + compact_after_ms, spec.v, previous, *memories.arguments(original.memory),
        ],
    )  # fmt: skip
    return reply[0] == b"copied"


def _json(value: Any) -> bytes:
    return b"" if value is None else jsontext.dumps(value)
