"""A worker's runtime in the test's own process, without Celery around it: for tests of segments and of what they cost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mainstem_shared.settings import Settings
from mainstem_tasks.execution.runtime import Runtime
from mainstem_workers.housekeeping import Housekeeping


@asynccontextmanager
async def working(settings: Settings) -> AsyncIterator[Runtime]:
    """A started runtime in the running loop; stopped in the end."""
    housekeeping = Housekeeping(settings, asyncio.get_running_loop())
    await housekeeping.start()
    try:
        yield housekeeping.runtime
    finally:
        await housekeeping.stop()
