"""`uncancelled` runs work to its end although its caller is cancelled: no claim or end stops halfway."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

logger = logging.getLogger(__name__)


async def uncancelled(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end although the caller may be cancelled; the cancel comes through afterwards."""
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise
            cancelled = True
        except BaseException as error:  # noqa: BLE001 - the task's own failure, raised by `result` below
            if not task.done():  # injected
                logger.info("stopped during finalisation: %r", error, extra={"action": "stop_deferred"})
    if cancelled and task.exception() is None:
        logger.info("cancelled during finalisation", extra={"action": "cancel_deferred"})
    return task.result()
