"""Starts one run for each user message, however often a client sends it.

Frontends send the same message again on a double click, a retry, or from a second tab. Their protocols have
no idempotency keys; what is said has an id. Simultaneous requests are decided by the verb that starts runs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Final, NamedTuple

from mainstem_api.gateway.state import Gateway
from mainstem_shared import transitions
from mainstem_shared.model.runs import Status

_ATTEMPTS: Final = 100
"""So often the same thing can be said anew within a day; then it is the last answer that counts."""


class Started(NamedTuple):
    """What a start came to; `replayed`: the run was there before."""

    run_id: str
    replayed: bool


async def start_once(
    gateway: Gateway, start: Callable[[str], Awaitable[Started]], *, key: str, keeps: Collection[Status]
) -> str:
    """Return the run that answers what `key` stands for: one whose status is in `keeps`, or a new one.

    `start` starts a run under an idempotency key.
    """
    started = await start(f"{key}:0")
    for attempt in range(1, _ATTEMPTS):
        if not started.replayed or await _status(gateway, started.run_id) in keeps:
            break
        started = await start(f"{key}:{attempt}")
    return started.run_id


async def _status(gateway: Gateway, run_id: str) -> Status | None:
    seen = await transitions.find_fields(gateway.store, run_id)
    return None if isinstance(seen, transitions.Gone) else seen.status
