"""Looks into the indexes of all buckets, and has sweepers look at runs at once."""

from __future__ import annotations

from typing import Any

from mainstem_shared.store import keys

MANY = 10_000
"""Keys a SCAN visits at a time: most stores of tests are read in one go, where 1,024 buckets asked one by one cost 20 ms."""


async def scores(client: Any, kind: str) -> dict[str, float]:
    """All that an index (`active`, `recent`, `compact`) lists, in whatever bucket, and the scores."""
    pipe = client.pipeline(transaction=False)
    async for key in client.scan_iter(f"{keys.PREFIX}:{{*}}:{kind}", count=MANY):
        pipe.zrange(key, 0, -1, withscores=True)
    return {run_id.decode(): score for found in await pipe.execute() for run_id, score in found}


def scores_now(client: Any, kind: str) -> dict[str, float]:
    """The same, by a blocking client."""
    pipe = client.pipeline(transaction=False)
    for key in client.scan_iter(f"{keys.PREFIX}:{{*}}:{kind}", count=MANY):
        pipe.zrange(key, 0, -1, withscores=True)
    listed = [pair for found in pipe.execute() for pair in found]
    return {run_id.decode() if isinstance(run_id, bytes) else run_id: score for run_id, score in listed}


async def put(client: Any, kind: str, entries: dict[str, float]) -> None:
    """List runs, each in its bucket's index of the kind."""
    pipe = client.pipeline(transaction=False)
    for run_id, score in entries.items():
        pipe.zadd(getattr(keys.run(run_id), kind), {run_id: score})
    await pipe.execute()
