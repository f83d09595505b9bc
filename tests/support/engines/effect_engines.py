"""An engine whose effects are orders to an idempotent receiver: another database of the server (RECEIVER_URL)."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import redis.asyncio

from mainstem_tasks import RunContext, engine


@engine("effects.many", checkpoints=True)
async def many(run: RunContext[dict[str, Any]]) -> None:
    """Order `effects` things, one after the other, with a checkpoint after each tenth; then say how many."""
    async with redis.asyncio.Redis.from_url(os.environ["RECEIVER_URL"]) as receiver:

        async def receive(key: str) -> int:
            await receiver.hincrby("sent", key, 1)
            await asyncio.sleep(0.005)  # some time in which a worker can be killed
            return 1

        begin = int(run.state or b"0")
        for n in range(run.input["effects"]):
            await run.effect(f"order {n}", receive)
            if n >= begin and n % 10 == 9:
                await run.text(".")
                await run.checkpoint(b"%d" % (n + 1))
