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


@tool()
async def returns(kind: str) -> object:
    """Return what an engine may have trouble with."""
    odd: dict[str, object] = {
        "half": "half \ud83d",
        "pair": "\ud83d\ude00",
        "bytes": b"\xff\x00",
        "object": object(),
        "nan": [float("nan")],
    }
    return odd[kind]


@tool()
async def page(size: int) -> str:
    """Return much."""
    return "z" * size


LOOKS: list[bool] = []


@tool()
def working(call: ToolCall) -> str:
    """Work in a thread until told to stop."""
    for _ in range(2000):
        LOOKS.append(call.stopping)
        if call.stopping:
            break
        time.sleep(0.005)
    return "late"


@tool(timeout_s=0.05)
def slow() -> None:
    """Take long."""
    time.sleep(0.3)  # a thread that cannot be interrupted
