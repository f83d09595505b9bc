"""Recognises automatic retries of OpenAI's clients, so that a retry never starts a second run.

Their retries have no idempotency key, only a number (`x-stainless-retry-count`) and the same body. So the
first attempt notes which run it is about to start, before it does; a later one takes that up.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any, Final

from fastapi import Request

from mainstem_api.gateway.state import Gateway
from mainstem_shared.model import digests, ids
from mainstem_shared.model.principals import Principal
from mainstem_shared.store import keys

_REMEMBERED_MS: Final = 15 * 60_000
"""Longer than the longest timeout of these clients, ten minutes, and their pause before a retry."""
_COUNT: Final = "x-stainless-retry-count"


@dataclass(frozen=True, slots=True)
class Retry:
    """What a request starts: the same for all attempts at it."""

    unique: uuid.UUID

    def thread_id(self, prefix: str) -> str:
        """Return the thread of a request that names none."""
        return f"{prefix}-{self.unique}"

    def run_id(self, caller: Principal, thread_id: str) -> str:
        """Return the id of the run on this thread."""
        return ids.run_id(caller.tenant, thread_id, self.unique)


async def retry_of(
    gateway: Gateway, request: Request, body: Any, caller: Principal, *, idempotency_key: str | None = None
) -> Retry:
    """Return what a request starts: a new run, or that of the attempt before it.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    fresh = ids.uuid7()
    counted = request.headers.get(_COUNT)
    if counted is None and idempotency_key is None:
        return Retry(fresh)
    scope = [request.url.path, caller.tenant, caller.user_id, idempotency_key or body]
    digest = digests.of_json(scope)
    # Somewhere: all that is needed is that every attempt looks in the same place.
    key = keys.idempotency(ids.run_id(caller.tenant, "retries", uuid.UUID(digest[:32])), digest)
    value, ttl = str(fresh), ("PX", _REMEMBERED_MS)
    if counted == "0" and idempotency_key is None:
        await gateway.store.command("SET", key, value, *ttl)
        return Retry(fresh)
    before = await gateway.store.command("SET", key, value, *ttl, "NX", "GET")
    return Retry(fresh if before is None else uuid.UUID(before.decode()))
