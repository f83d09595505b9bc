"""The `demo` engine: numbered words, so that any reader can prove that it got each of them once, in order.

Its text is part of the external contract: `w0 w1 … w{N-1}`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from mainstem_tasks.context import RunContext
from mainstem_tasks.registry import engine


class DemoInput(BaseModel):
    """What to stream: `tokens` numbered words, or the words of `text`; one every `interval_ms`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: Annotated[int, Field(ge=0, le=10_000_000)] = 20
    interval_ms: Annotated[float, Field(ge=0, le=3_600_000)] = 50
    text: str | None = None
    fail_at: Annotated[int, Field(ge=0)] | None = None


class DemoError(RuntimeError):
    """The failure that `fail_at` asks for."""


@engine("demo", input_model=DemoInput)
async def demo(run: RunContext) -> None:
    """Stream the words."""
    wanted: DemoInput = run.input
    interval_s = wanted.interval_ms / 1000
    loop = asyncio.get_running_loop()
    begun = loop.time()
    for k, word in enumerate(words(wanted)):
        if k == wanted.fail_at:
            raise DemoError(f"asked to fail before word {k}")
        if interval_s and k:
            # Against the schedule, not after the last word: delays do not add up.
            await asyncio.sleep(begun + k * interval_s - loop.time())
        await run.text(word)


def words(wanted: DemoInput) -> Iterator[str]:
    """Yield the pieces that are streamed; joined, they are the exact text."""
    if wanted.text is not None:
        # Each word with the white space before it; what follows the last word belongs to it.
        yield from re.findall(r"\s*\S+(?:\s+\Z)?|\s+\Z", wanted.text)
        return
    for k in range(wanted.tokens):
        yield f" w{k}" if k else "w0"
