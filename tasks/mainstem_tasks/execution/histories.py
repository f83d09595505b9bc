"""Reads, for a segment's engine, what was said on its thread before."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from mainstem_shared.model.messages import Message
from mainstem_shared.model.runs import Spec
from mainstem_shared.operations.queries import conversations
from mainstem_tasks.execution.runtime import Runtime


def of(runtime: Runtime, spec: Spec) -> Callable[[int], Awaitable[list[Message]]]:
    """Return what reads the last messages before a run, on its branch, of its user."""
    query = conversations.Query(tenant=spec.tenant, thread_id=spec.thread_id, user_id=spec.user_id)

    async def read(limit: int) -> list[Message]:
        return await conversations.history(runtime.store, query, leaf=spec.run_id, limit=limit)

    return read
