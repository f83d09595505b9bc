"""Engines that say what no page expects; a worker loads them with MAINSTEM_ENGINES=support.engines.hostile_engines."""

from __future__ import annotations

from typing import Any

from mainstem_tasks import RunContext, engine

PIECE = 24 * 1024


@engine("repeats")
async def repeats(run: RunContext[dict[str, Any]]) -> None:
    """Say `unit` until there are `size` characters of it, as text or as reasoning."""
    unit, size = run.input["unit"], run.input["size"]
    piece = (unit * (PIECE // len(unit) + 1))[: PIECE // len(unit) * len(unit)]
    say = run.reasoning if run.input.get("thinks") else run.text
    while size > 0:
        await say(piece[:size])
        size -= len(piece)


@engine("calls")
async def calls(run: RunContext[dict[str, Any]]) -> None:
    """Make `count` tool calls with the given arguments, names and titles of the given length, and words in between."""
    name = "n" * run.input.get("name", 4)
    await run.title("t" * run.input.get("title", 4))
    for index in range(run.input["count"]):
        call = f"c{index}"
        await run.tool_call(call, name, run.input.get("arguments", {"index": index}))
        await run.tool_result(call, run.input.get("arguments"))
        if run.input.get("words"):
            await run.text(f"word {index} ")
