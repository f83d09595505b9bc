"""A process that executes a run of an agent (`ordering_agents`) and is killed by the kernel at one of its writes."""

from __future__ import annotations

import asyncio

from mainstem_shared.settings import Settings
from mainstem_tasks.sdk import registry, tools
from support.engines import builtin_engines, ordering_agents
from support.processes import dying_worker
from support.processes.dying_process import KilledLife


def serve(column: str, settings: Settings, url: str) -> Settings:
    """Serve a column's agent on a provider; returns what its worker is set to."""
    if column in ordering_agents.SERVE:
        ordering_agents.SERVE[column](url)
        return settings
    tools._tools.update(ordering_agents.TOOLS)
    return settings.model_copy(update=builtin_engines.settings(column, url))


def execute_and_be_killed(column: str, given: dict[str, str], url: str, run_id: str, writes: int) -> None:
    """Execute a run until this process is killed in place of the write after so many, or the segment ends."""

    async def execute() -> None:
        settings = serve(column, Settings(**given), url)  # type: ignore[arg-type]
        try:
            await dying_worker.dies(settings, run_id, after=writes, kind=KilledLife)
        finally:
            await registry.aclose()

    asyncio.run(execute())
