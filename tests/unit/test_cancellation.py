"""Cancellation is one-shot and has a cause; a soft limit is an exception in its place."""

from __future__ import annotations

import asyncio

import pytest

from mainstem_tasks.celery_support.cancellation import (
    CancelCause,
    Cancellation,
    awaitable_steps,
    bind_cancellation,
    cancel_cause,
)


def test_the_first_cause_stays():
    """A second request is refused and changes nothing."""
    cancellation = Cancellation()
    assert cancellation.request(CancelCause.REVOKED)
    assert not cancellation.request(CancelCause.SHUTDOWN)
    assert cancellation.cause is CancelCause.REVOKED


def test_a_soft_limit_gives_way():
    """After a soft limit a job can still be cancelled; after a cancellation no soft limit comes."""
    cancellation = Cancellation()
    assert cancellation.inject(TimeoutError())
    assert cancellation.cause is CancelCause.SOFT_TIME_LIMIT
    assert not cancellation.cancelled
    assert cancellation.request(CancelCause.HARD_TIME_LIMIT)
    assert cancellation.cause is CancelCause.HARD_TIME_LIMIT
    assert not cancellation.inject(TimeoutError())
    assert cancellation.take_injection() is None


def test_no_cause_outside_of_a_task():
    """Outside of a task there is no cause."""
    assert cancel_cause() is None


async def test_cause_is_seen_by_child_tasks_and_threads():
    """Whatever the body starts sees the cause, also when it is recorded later."""
    cancellation = Cancellation()
    bind_cancellation(cancellation)
    child = asyncio.create_task(asyncio.to_thread(cancel_cause))
    cancellation.request(CancelCause.SHUTDOWN)
    assert await child is CancelCause.SHUTDOWN


async def test_injection_replaces_the_cancel():
    """The body sees the injected exception where it waits, and its task is not left being cancelled."""
    cancellation = Cancellation()

    async def body() -> str:
        try:
            await asyncio.sleep(30)
        except LookupError:
            return "injected"
        return "slept"

    task = asyncio.create_task(_steered(body(), cancellation))
    await asyncio.sleep(0)
    cancellation.inject(LookupError())
    task.cancel()
    assert await task == "injected"
    assert task.cancelling() == 0


async def test_plain_cancel_passes():
    """Without an injection a cancel is a cancel."""
    task = asyncio.create_task(_steered(asyncio.sleep(30), Cancellation()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def _steered(body, cancellation):
    return await awaitable_steps(body, cancellation)
