"""Gives an engine its memory of the thread, read from the store when it is first asked for."""

from __future__ import annotations

from mainstem_shared import transitions
from mainstem_shared.model.runs import Spec
from mainstem_tasks.execution.runtime import Runtime
from mainstem_tasks.sdk.memory import Memory


def of(runtime: Runtime, spec: Spec) -> Memory:
    """Return the memory that a run's engine has of its thread."""
    settings = runtime.settings

    async def load() -> dict[str, bytes]:
        return await transitions.recall(
            runtime.store, spec.run_id, engine=spec.engine, ttl_ms=settings.thread_ttl_ms
        )

    return Memory(load, engine=spec.engine, settings=settings)
