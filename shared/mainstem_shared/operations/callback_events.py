"""Makes what is told about a run: the event as it was noted, and the run as it is now, wherever it is.

A run that was deleted since, or is too long for a message, is left out; what names it is always there.
"""

from __future__ import annotations

from typing import Any, Final

from pydantic import ValidationError

from mainstem_shared import errors
from mainstem_shared.eventlog.reading import run_states
from mainstem_shared.model import jsontext
from mainstem_shared.model.actions import Action
from mainstem_shared.model.callbacks import PAYLOAD_LIMIT
from mainstem_shared.model.runs import Spec, rfc3339
from mainstem_shared.store.client import Store
from mainstem_shared.transitions.callbacks import Due

DELETED: Final = "deleted"
TOO_LARGE: Final = "too_large"


async def message(store: Store, due: Due) -> dict[str, Any]:
    """Return what a target is told; nearly the same in all attempts, for the run is read anew.

    Raises:
        StoreUnavailable, ArchiveUnavailable: nobody can tell what the run is.
    """
    event: dict[str, Any] = jsontext.loads(due.event)
    run, omitted = await _run(store, due.delivery.run_id)
    return {
        "id": due.delivery.event_id,
        "type": event.get("type"),
        "timestamp": rfc3339(int(event.get("at", 0))),
        "data": {**_about(due), **_happened(event), "run": run, "run_omitted": omitted},
    }


def _about(due: Due) -> dict[str, Any]:
    """Return whose run it is, and what its start said of it."""
    about: dict[str, Any] = {"run_id": due.delivery.run_id}
    try:
        spec = Spec.model_validate_json(due.spec)
    except ValidationError:
        return about  # damaged: the id says which it is
    return {
        **about,
        "thread_id": spec.thread_id,
        "user_id": spec.user_id,
        "tenant": spec.tenant,
        "engine": spec.engine,
        "metadata": spec.metadata,
        "created_at": rfc3339(spec.created_ms),
    }


def _happened(event: dict[str, Any]) -> dict[str, Any]:
    if "action" in event:
        return {"action": Action.model_validate(event["action"]).public()}
    return {"status": event.get("status"), "reason": event.get("reason"), "error": event.get("error")}


async def _run(store: Store, run_id: str) -> tuple[dict[str, Any] | None, str | None]:
    try:
        run = await run_states.get_run(store, run_id)
    except errors.NotFound:
        return None, DELETED
    text = run.model_dump_json()
    if len(text) > PAYLOAD_LIMIT:
        return None, TOO_LARGE
    return jsontext.loads(text), None
