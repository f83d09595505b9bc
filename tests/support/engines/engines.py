"""Engines for tests that need more than the demo engine; a worker loads them with MAINSTEM_ENGINES=support.engines.engines."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from mainstem_tasks import engine
from mainstem_tasks.sdk.context import RunContext


@engine("careful")
async def careful(run: RunContext[dict[str, Any]]) -> None:
    """Stream until stopped, then take `cleanup_s` to clean up, and say that it did."""
    await run.usage(input_tokens=7)
    try:
        for k in range(100_000):
            await run.text(f"w{k}" if k == 0 else f" w{k}")
            await asyncio.sleep(0.005)
    finally:
        await run.custom("cleaning")
        await asyncio.sleep(run.input.get("cleanup_s", 0.0))
        await run.custom("cleaned")


@engine("calling")
async def calling(run: RunContext[dict[str, Any]]) -> None:
    """Answer one tool call, leave a second one open, and wait for ever."""
    await run.tool_call("c1", "search", {"q": "one"})
    await run.tool_result("c1", {"found": 1})
    await run.tool_call("c2", "search", {"q": "two"})
    await asyncio.Event().wait()


@engine("counting", checkpoints=True)
async def counting(run: RunContext[dict[str, Any]]) -> None:
    """Stream the demo engine's words, with a checkpoint every tenth; a later segment goes on from there."""
    begin = int(run.state or b"0")
    for k in range(begin, run.input["tokens"]):
        await run.text(f" w{k}" if k else "w0")
        await asyncio.sleep(run.input["interval_ms"] / 1000)
        if k % 10 == 9:
            await run.checkpoint(b"%d" % (k + 1))


@engine("hurrying", checkpoints=True)
async def hurrying(run: RunContext[dict[str, Any]]) -> None:
    """Do what `counting` does; whatever a later segment has left to say, it says at once."""
    if run.segment > 1:
        run.input["interval_ms"] = 0
    await counting(run)


@engine("forgetful")
async def forgetful(run: RunContext[dict[str, Any]]) -> None:
    """Stream the demo engine's words without a checkpoint: a later segment begins anew, and says them at once."""
    for k in range(run.input["tokens"]):
        await run.text(f" w{k}" if k else "w0")
        await asyncio.sleep(run.input["interval_ms"] / 1000 if run.segment == 1 else 0)


@engine("listening")
async def listening(run: RunContext[dict[str, Any]]) -> None:
    """Once somebody has said something, ask before it is read; then say what was decided, and said."""
    while not run.decisions and run.inbox.empty():  # noqa: ASYNC110 - nothing else tells without reading
        await asyncio.sleep(0.01)
    if not run.decisions:
        await run.request_approval([{"call_id": "c", "name": "read", "arguments": {}}])
    await run.text(f"{run.decisions['c'].type}, then {await run.inbox.get()}")


@engine("asking")
async def asking(run: RunContext[dict[str, Any]]) -> None:
    """Have each call of `asks` decided, in a pause of its own; then say what was decided about all of them."""
    options = {name: run.input[name] for name in ("window_s", "on_expiry") if name in run.input}
    for call_id in run.input["asks"]:
        if call_id not in run.decisions:
            call = {"call_id": call_id, "name": "tool", "arguments": {"n": 1}}
            await run.request_approval([call], state=run.state or call_id.encode(), **options)
    decided = " ".join(f"{call_id}={run.decisions[call_id].type}" for call_id in run.input["asks"])
    await run.text(f"{decided} state={(run.state or b'').decode()}")


@engine("hearing", checkpoints=True)
async def hearing(run: RunContext[dict[str, Any]]) -> None:
    """Count for ever, with a checkpoint every tenth word, and repeat whatever is said."""
    for k in itertools.count(int(run.state or b"0")):
        while not run.inbox.empty():
            await run.text(f" <{run.inbox.get_nowait()}>")
        await run.text(f" w{k}")
        await asyncio.sleep(0.01)
        if k % 10 == 9:
            await run.checkpoint(b"%d" % (k + 1))
