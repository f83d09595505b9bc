"""An engine whose provider bills at once: what it was asked for is on its books, whatever becomes of the caller."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from mainstem_shared.store import endpoints
from mainstem_shared.store.client import Store
from mainstem_tasks import RunContext, engine

BOOKS: Final = "test:billed"
"""What the provider has billed, in tokens."""
ASKED: Final = 10
"""Tokens of a request."""
ANSWERED: Final = 90
"""The bound of its answer."""
USED: Final = 60
"""What a call uses in all."""


@engine("spender")
async def spender(run: RunContext[dict[str, Any]]) -> None:
    """Call a provider again and again, each time for `ms`; it bills before it answers."""
    store = Store(endpoints.store_url(run.settings))
    try:
        for n in range(run.input.get("calls", 1000)):
            async with run.provider_call(
                model="m", provider="here", input_tokens=ASKED, max_output_tokens=ANSWERED
            ) as call:
                await store.command("INCRBY", BOOKS, USED)
                await asyncio.sleep(run.input.get("ms", 0) / 1000)
                await call.used(input_tokens=ASKED, output_tokens=USED - ASKED)
            await run.text(f"{n} ")
    finally:
        await store.close()


@engine("asking-spender", checkpoints=True)
async def asking_spender(run: RunContext[dict[str, Any]]) -> None:
    """Make a call before each of three questions, and then without end."""
    asked = len(run.decisions)
    while True:
        async with run.provider_call(
            model="m", provider="here", input_tokens=ASKED, max_output_tokens=ANSWERED
        ) as call:
            await call.used(input_tokens=ASKED, output_tokens=USED - ASKED)
        await run.text(f"{asked} ")
        if asked < 3:
            await run.ask([{"question_id": f"q{asked}", "text": "Go on?"}], state=b"1")
