"""Engines and tasks of the benchmarks; workers import this module through MAINSTEM_ENGINES."""

from __future__ import annotations

import asyncio
import gc
import sys
import time

from celery import shared_task
from pydantic import BaseModel
from pydantic_core import from_json

from mainstem_tasks.celery_support.async_task import AsyncTask
from mainstem_tasks.sdk.context import RunContext
from mainstem_tasks.sdk.registry import engine


class ClockInput(BaseModel):
    tokens: int = 100
    interval_ms: float = 25


@engine("bench.clock", input_model=ClockInput)
async def clock(run: RunContext[ClockInput]) -> None:
    """Stream the time of emission, so that a reader on this machine knows how old each token is."""
    wanted = run.input
    loop = asyncio.get_running_loop()
    begun = loop.time()
    for k in range(wanted.tokens):
        await asyncio.sleep(begun + k * wanted.interval_ms / 1000 - loop.time())
        await run.text(f"{time.time_ns()} ")


@engine("bench.patient")
async def patient(run: RunContext) -> None:
    """Wait to be stopped, and say when that was."""
    await run.custom("waiting")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        await run.custom("cancelled", time.time_ns())
        raise


@engine("bench.census")
async def census(run: RunContext) -> None:
    """Count the blocks of memory that this worker's interpreter holds: exact, unlike the RSS."""
    # pydantic's JSON decoder remembers 16,384 short strings: full, that memory does not grow any more.
    for n in range(100_000):
        from_json(f'"filled {n}"')
    gc.collect()
    await run.custom("blocks", sys.getallocatedblocks())


@shared_task(name="bench.noop", base=AsyncTask, ignore_result=True)
async def noop() -> None:
    """Celery's floor: a task that does nothing."""
