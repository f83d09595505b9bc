"""The line that all short calls of a process share: order, refusals, lost connections, silent servers."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.exceptions
import uvloop

from mainstem_shared.store import shared_connections
from mainstem_shared.store.client import Store
from mainstem_shared.store.shared_connections import SharedConnection
from support.processes.proxy import Plan, Proxy
from support.processes.servers import ValkeyProcess
from support.sending import sent
from support.waiting import wait_until_async


@pytest.fixture
async def line(store_url: str) -> AsyncIterator[SharedConnection]:
    line = SharedConnection(store_url)
    yield line
    await line.close()


async def test_everybody_gets_the_reply_to_the_own_command(line: SharedConnection):
    """However many call at once, and also when some of them no longer wait."""
    calls = [asyncio.create_task(line.call(("ECHO", str(n)), ("ECHO", f"{n}!"))) for n in range(300)]
    await asyncio.sleep(0)
    for call in calls[::3]:
        call.cancel()
    got = await asyncio.gather(*calls, return_exceptions=True)
    for n, replies in enumerate(got):
        if n % 3:
            assert replies == [b"%d" % n, b"%d!" % n]
        else:
            assert isinstance(replies, asyncio.CancelledError)


async def test_callers_share_one_connection(line: SharedConnection, store_url: str):
    """Also those that come while it is being opened."""
    ids = await asyncio.gather(*(line.call(("CLIENT", "ID")) for _ in range(50)))
    assert len({reply for [reply] in ids}) == 1


async def test_a_refusal_is_raised_after_all_were_tried(line: SharedConnection):
    """As the exception that redis-py has for it, to its own caller only."""
    wrong = line.call(("SET", "line:key", "text", "PX", 60_000), ("INCR", "line:key"), ("DEL", "line:key"))
    refused, [echo] = await asyncio.gather(wrong, line.call(("ECHO", "fine")), return_exceptions=True)
    assert isinstance(refused, redis.exceptions.ResponseError)
    assert echo == b"fine"
    assert await line.call(("EXISTS", "line:key")) == [0]
    with pytest.raises(redis.exceptions.NoScriptError):
        await line.call(("EVALSHA", "0" * 40, 0))


async def test_a_line_that_is_cut_all_the_time_still_carries_every_call(store_url: str):
    """Each call is answered in the end, because its caller repeats it; nobody gets another's reply."""
    port = int(store_url.rpartition(":")[2].partition("/")[0])
    fates = itertools.cycle([Plan(down=700), Plan(up=900), Plan(down=1500, up=1500)])
    async with Proxy(port=port, plan=lambda _: next(fates)) as proxy:
        store = Store(proxy.url, patience_s=60)

        async def echo(n: int) -> None:
            await asyncio.sleep(random.random() / 10)
            assert await store.patiently(lambda: sent(store, "ECHO", n)) == b"%d" % n

        await asyncio.gather(*(echo(n) for n in range(200)))
        await store.close()
        assert proxy.cuts >= 3


async def test_a_server_that_owes_a_reply_for_too_long_is_given_up(
    private_valkey: ValkeyProcess, monkeypatch: pytest.MonkeyPatch
):
    """Everybody who waits is told, and the next call has a new connection."""
    monkeypatch.setattr(shared_connections, "SILENCE_S", 0.2)
    monkeypatch.setattr(shared_connections, "_SILENCE_CHECK_S", 0.05)
    line = SharedConnection(private_valkey.url(0))
    [before] = await line.call(("CLIENT", "ID"))
    private_valkey.freeze()
    waiting = [asyncio.create_task(line.call(("PING",))) for _ in range(3)]
    done, _ = await asyncio.wait(waiting, timeout=30)
    private_valkey.thaw()
    assert len(done) == 3
    assert all(isinstance(task.exception(), redis.exceptions.ConnectionError) for task in waiting)
    [after] = await line.call(("CLIENT", "ID"))
    assert after != before
    await line.close()


def test_a_loop_that_stood_still_is_not_the_servers_silence(store_url: str, monkeypatch: pytest.MonkeyPatch):
    """Replies that came meanwhile are read first; on uvloop, where timers come before sockets."""
    monkeypatch.setattr(shared_connections, "SILENCE_S", 0.2)
    monkeypatch.setattr(shared_connections, "_SILENCE_CHECK_S", 0.05)

    async def stand_still() -> list[Any]:
        line = SharedConnection(store_url)
        await line.call(("PING",))
        waiting = [asyncio.create_task(line.call(("ECHO", n))) for n in range(3)]
        await asyncio.sleep(0)
        time.sleep(0.5)  # noqa: ASYNC251 - the point
        try:
            return await asyncio.gather(*waiting)
        finally:
            await line.close()

    assert uvloop.run(stand_still()) == [[b"0"], [b"1"], [b"2"]]


async def test_a_server_that_became_a_replica_is_left(private_valkey: ValkeyProcess):
    """A refused write drops the connection: after a fail-over the primary is behind another one."""
    store = Store(private_valkey.url(0), patience_s=0)
    before = await sent(store, "CLIENT", "ID")
    with private_valkey.client() as client:
        client.replicaof("127.0.0.1", "1")
        with pytest.raises(redis.exceptions.ReadOnlyError):
            await sent(store, "SET", "key", "value")
        client.replicaof("NO", "ONE")
    assert await store.patiently(lambda: sent(store, "CLIENT", "ID"), patience_s=20) != before
    await store.close()


async def test_closing_tells_who_waits(private_valkey: ValkeyProcess):
    """Nobody waits for ever, nothing is left open."""
    line = SharedConnection(private_valkey.url(0))
    await line.call(("PING",))
    waiting = asyncio.create_task(line.call(("BLPOP", "nothing", 0)))
    with private_valkey.client() as client:
        await wait_until_async(
            lambda: client.info("clients")["blocked_clients"] == 1, description="the call to arrive"
        )
        await line.close()
        with pytest.raises(redis.exceptions.ConnectionError):
            await waiting
        await wait_until_async(lambda: len(client.client_list()) == 1, description="its connection to go")


async def test_pooled_connections_are_left_with_the_shared_one(store: Store):
    """Whoever loses the one may find another server at the address: a demoted primary goes on answering reads."""
    node = store.node(store.topology.nodes[0])
    [shared] = await node.shared.call(("CLIENT", "ID"))
    async with node.client.client() as held:  # in use meanwhile
        before = await held.execute_command("CLIENT", "ID"), await node.client.execute_command("CLIENT", "ID")
        await held.execute_command("CLIENT", "KILL", "ID", shared)
        await wait_until_async(lambda: node.losses == 1, description="the loss of the shared connection")
        after = await held.execute_command("CLIENT", "ID"), await node.client.execute_command("CLIENT", "ID")
    assert not set(before) & set(after)
