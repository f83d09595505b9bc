"""What the agents of all frameworks can do in the conformance suite: the same tools, and a list of what they did."""

from __future__ import annotations

import asyncio
import time
from typing import Any

effects: list[tuple[str, Any]] = []
"""What tools really did, in order."""


async def transfer(amount: int, to: str) -> str:
    """Transfer money."""
    effects.append(("transfer", amount))
    return f"sent {amount} to {to}"


async def get_weather(city: str) -> str:
    """Tell the weather of a city."""
    effects.append(("get_weather", city))
    return f"sunny in {city}"


def block(seconds: float) -> str:
    """Compute for a while, without letting anybody else have the thread."""
    time.sleep(seconds)
    effects.append(("block", seconds))
    return "computed"


async def wait() -> str:
    """Wait for something that never comes."""
    effects.append(("wait", None))
    await asyncio.Event().wait()
    raise AssertionError


async def explode() -> str:
    """Fail."""
    raise RuntimeError("the tool exploded")
