"""What redis-py must not do to us."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from mainstem_shared import errors
from mainstem_shared.store.client import Store
from support.processes.servers import ValkeyProcess


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


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_connection_lost_before_a_command_is_sent_is_replaced(
    run: Callable[[Any], None], store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on uvloop, which then raises a RuntimeError from the write."""

    async def lose() -> None:
        store = Store(store_url)
        await store.client.ping()
        kind = store.client.connection_pool.connection_class
        lost: list[Any] = []

        async def check_health(connection: Any) -> None:
            if not lost:  # the turn of the loop between the pool's look at a connection and the write
                lost.append(connection._writer.transport)
                lost[0].abort()
                await asyncio.sleep(0.01)

        monkeypatch.setattr(kind, "check_health", check_health)
        assert await store.patiently(store.client.ping)
        assert lost
        await store.close()
        monkeypatch.undo()

    run(lose())


async def test_a_store_that_wants_replicas_is_unavailable(private_valkey: ValkeyProcess) -> None:
    """A server that refuses writes for the moment is waited for, and then unavailable: no error of ours."""
    store = Store(private_valkey.url(0), patience_s=0.1)
    await store.client.config_set("min-replicas-to-write", 1)
    with pytest.raises(errors.StoreUnavailable):
        await store.patiently(lambda: store.client.set("key", "value"))
    await store.client.config_set("min-replicas-to-write", 0)
    assert await store.patiently(lambda: store.client.set("key", "value"))
    await store.close()
