"""Stops a pool in a fixed order. Runs on the loop; `TaskPool` waits for it in the main thread.

1. nothing starts any more; what waits for a slot goes back to the broker
2. running jobs may end, for the grace time
3. the rest is cancelled with the cause SHUTDOWN and gets the cancel grace for its cleanup
4. what still runs is abandoned, and named in the log
5. shutdown hooks run, last registered first, each bounded: flush writers, release leases
6. (in `TaskPool`) the last callbacks are delivered, the loop stops, its thread ends
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from mainstem_tasks.celery_support.cancellation import CancelCause
from mainstem_workers.pool.options import PoolOptions
from mainstem_workers.pool.slots import Slots

logger = logging.getLogger(__name__)

Hook = Callable[[], Awaitable[Any]]


class ShutdownHooks:
    """What runs on the loop after the last job and before the loop stops. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hooks: list[Hook] = []

    def add(self, hook: Hook) -> None:
        with self._lock:
            self._hooks.append(hook)

    def __len__(self) -> int:
        return len(self._hooks)

    async def run(self, timeout: float) -> None:  # noqa: ASYNC109 - per hook, not for all
        """Run all, last registered first. A failing hook does not keep the others from running."""
        with self._lock:
            hooks, self._hooks = self._hooks, []
        for hook in reversed(hooks):
            try:
                async with asyncio.timeout(timeout):
                    await hook()
            except Exception:  # each hook cleans up something else
                logger.exception(
                    "pool shutdown hook failed", extra={"action": "pool_hook", "hook": repr(hook)}
                )


class Drain:
    """One stop of the pool. Made on the loop."""

    def __init__(self, slots: Slots, hooks: ShutdownHooks, options: PoolOptions) -> None:
        self._slots = slots
        self._hooks = hooks
        self._options = options
        self._hurry = asyncio.Event()

    def hurry(self) -> None:
        """End the grace time now (a cold shutdown during a warm one)."""
        self._hurry.set()

    async def run(self, grace: float) -> None:
        slots = self._slots
        slots.close()
        if not await self._idle_within(grace):
            for job in list(slots.running):
                job.cancel(CancelCause.SHUTDOWN)
            await self._all_ended()
        await self._hooks.run(self._options.hook_timeout_s)

    async def _idle_within(self, grace: float) -> bool:
        idle = asyncio.ensure_future(self._slots.idle.wait())
        hurry = asyncio.ensure_future(self._hurry.wait())
        try:
            await asyncio.wait({idle, hurry}, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
            return self._slots.idle.is_set()
        finally:
            idle.cancel()
            hurry.cancel()

    async def _all_ended(self) -> None:
        try:
            async with asyncio.timeout(self._options.cancel_grace_s):
                await self._slots.idle.wait()
        except TimeoutError:
            abandoned = [job.call.task_id for job in self._slots.running]
            logger.error(  # noqa: TRY400 - the traceback would be this function's
                "tasks did not end at shutdown and are abandoned",
                extra={"action": "pool_abandon", "task_ids": abandoned},
            )
