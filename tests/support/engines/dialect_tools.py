"""The tools that dialects offer to their models; what ran is noted, because running too much is the fault."""

from __future__ import annotations

from typing import Any

from mainstem_tasks import tool

RAN: list[tuple[str, dict[str, Any]]] = []


@tool()
async def forecast(city: str) -> str:
    """Tell the weather of tomorrow."""
    RAN.append(("forecast", {"city": city}))
    return f"sunny in {city}"


@tool()
async def purge(pattern: str = "*") -> str:
    """Delete the files that match a pattern; all of them by default."""
    RAN.append(("purge", {} if pattern == "*" else {"pattern": pattern}))
    return f"purged {pattern}"
