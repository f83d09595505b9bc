"""Tools for tests; workers find them with MAINSTEM_ENGINES=support.engines.toolshed."""

from __future__ import annotations

import time

from mainstem_tasks.sdk.tools import ToolCall, tool


@tool(ask=True)
async def transfer(amount: int, to: str, call: ToolCall) -> dict[str, object]:
    """Transfer money."""
    return {"sent": amount, "to": to, "key": call.idempotency_key}


@tool()
def weather(city: str, days: int = 1) -> str:
    """Tell the weather."""
    return f"sun in {city} for {days}"


@tool()
async def fails() -> None:
    """Fail."""
    raise LookupError("nothing there")


@tool(timeout_s=0.05)
def slow() -> None:
    """Take long."""
    time.sleep(0.3)  # a thread that cannot be interrupted
