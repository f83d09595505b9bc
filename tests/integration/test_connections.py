"""What redis-py must not do to us."""

from __future__ import annotations

import asyncio

from mainstem_shared.store import Store


async def test_a_cancelled_command_is_cancelled(store_url: str) -> None:
    """Whenever the cancel comes; Python 3.11's wait_for drops it when it comes as a command was sent."""
    store = Store(store_url)
    await store.client.ping()

    async def endless() -> None:
        while True:
            await store.client.ping()

    for turns in range(60):
        task = asyncio.create_task(endless())
        for _ in range(turns % 20):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=1)
        assert done, f"the cancellation after {turns % 20} turns was lost"
        assert task.cancelled()
    assert await store.client.echo("in order") == b"in order"
    await store.close()
