"""The usual hand-written design: per token one awaited XADD for the history and one PUBLISH for who listens.

Written as a careful team would: asyncio, one client, both commands in one pipeline round trip.
"""

from __future__ import annotations

import time

import redis.asyncio as redis


async def append(url: str, payload: bytes, count: int) -> float:
    """Append and publish `count` tokens; returns tokens per second."""
    async with redis.Redis.from_url(url) as client:
        await client.ping()
        begun = time.perf_counter()
        for _ in range(count):
            async with client.pipeline(transaction=False) as pipeline:
                pipeline.xadd("naive", {"d": payload})
                pipeline.publish("naive", payload)
                await pipeline.execute()
        elapsed = time.perf_counter() - begun
        await client.delete("naive")
    return count / elapsed
