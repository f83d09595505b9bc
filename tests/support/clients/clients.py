"""Starts `AsyncRuns` on a live system, without HTTP, and runs the demo engine to its end."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from mainstem_api import AsyncRuns
from mainstem_shared.model.runs import Run


@contextlib.asynccontextmanager
async def client(system: Any) -> AsyncIterator[AsyncRuns]:
    """An `AsyncRuns` of the live system."""
    async with AsyncRuns(system.settings()) as runs:
        yield runs


async def finished(
    runs: AsyncRuns, thread_id: str, demo_input: dict[str, Any], *, timeout_s: float = 20, **options: Any
) -> Run:
    """Start a demo run and wait for its end."""
    started = await runs.start(thread_id, "demo", demo_input, **options)
    return await runs.wait(started.run_id, timeout=timeout_s)
