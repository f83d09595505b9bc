"""Engines that do to their worker's event loop what no engine should; a worker loads them by MAINSTEM_ENGINES."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any

from mainstem_tasks import engine
from mainstem_tasks.sdk.context import RunContext


async def _exit() -> None:
    sys.exit(2)


@engine("wild")
async def wild(run: RunContext[dict[str, Any]]) -> None:
    """Do what the input names, between two words."""
    await run.text("x")
    loop = asyncio.get_running_loop()
    match run.input["does"]:
        case "exit":
            sys.exit(3)
        case "interrupt":
            raise KeyboardInterrupt
        case "stray exit":
            loop.create_task(_exit())  # noqa: RUF006 - stray, as libraries start them
        case "callback exit":
            loop.call_soon(sys.exit, 2)
        case "callback from a thread":
            threading.Thread(target=lambda: loop.call_soon_threadsafe(sys.exit, 2)).start()
        case "stop":
            loop.stop()
        case "cancel all":
            housekeeping = [task for task in asyncio.all_tasks() if task.get_name().startswith("mainstem-")]
            for task in housekeeping:
                task.cancel()
        case _:
            raise AssertionError
    await asyncio.sleep(0.5)
    await run.text("y")
