"""A store that answers with errors: every form of call takes them for a store that is away, and goes on afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import redis
from redis.exceptions import ReadOnlyError, ResponseError

from mainstem_shared import errors, transitions
from mainstem_shared.coordination.suspicions import Server, server_of
from mainstem_shared.model.runs import Reason
from mainstem_shared.store import raw_connections, server_checks
from mainstem_shared.store.client import LARGE, Store
from support.models import verb_calls as v
from support.processes.proxy import Proxy
from support.processes.refusals import REFUSALS, operator, refusing
from support.processes.servers import ValkeyProcess
from support.sending import sent

Call = Callable[[Store], Awaitable[object]]


@pytest.fixture
async def store(private_valkey: ValkeyProcess) -> AsyncIterator[Store]:
    """A client of a server that this test may spoil, and whose connections are open when it does."""
    store = Store(private_valkey.url(), patience_s=0.3)
    for call in CALLS.values():
        await call(store)
    yield store
    await store.close()


async def pooled(store: Store) -> None:
    await store.patiently(lambda: store.client.set("key", "value", px=60_000))


async def pipelined(store: Store) -> None:
    async def send() -> None:
        async with store.client.pipeline(transaction=False) as pipe:
            pipe.set("key", "value", px=60_000)
            pipe.set("other", "value", px=60_000)
            await pipe.execute()

    await store.patiently(send)


async def transaction(store: Store) -> None:
    async def send() -> None:
        async with store.client.pipeline(transaction=True) as pipe:
            pipe.set("key", "value", px=60_000)
            pipe.set("other", "value", px=60_000)
            await pipe.execute()

    await store.patiently(send)


async def shared(store: Store) -> None:
    await store.patiently(lambda: sent(store, "SET", "key", "value", "PX", "60000"))


async def verb(store: Store) -> None:
    await v.start(store, v.new_run())


async def large_verb(store: Store) -> None:
    await v.start(store, v.new_run(), run_input=b'"%s"' % (b"x" * (LARGE + 1)))


CALLS: dict[str, Call] = {
    call.__name__: call for call in (pooled, pipelined, transaction, shared, verb, large_verb)
}


@pytest.mark.parametrize("kind", REFUSALS)
async def test_a_refused_call_is_unavailable_and_works_again_afterwards(
    store: Store, private_valkey: ValkeyProcess, kind: str
):
    """All of them on connections that were open before; nobody needs a new process to get over it."""
    with refusing(private_valkey, kind):
        for call in CALLS.values():
            with pytest.raises(errors.StoreUnavailable):
                await call(store)
    for call in CALLS.values():
        await call(store)


async def test_a_password_that_was_rotated_is_no_end(private_valkey: ValkeyProcess):
    """WRONGPASS from the moment at which connections are made anew, until the password is that of the address."""
    url = private_valkey.url().replace("redis://", "redis://app:first@")
    with operator(private_valkey) as client:
        client.execute_command("ACL", "SETUSER", "app", "on", ">first", "~*", "&*", "+@all")
        store = Store(url, patience_s=0.3)
        try:
            for call in CALLS.values():
                await call(store)
            client.execute_command("ACL", "SETUSER", "app", "resetpass", ">second")
            client.client_kill_filter(_type="normal", skipme=True)
            with pytest.raises(redis.AuthenticationError):
                redis.Redis.from_url(url).ping()
            for call in CALLS.values():
                with pytest.raises(errors.StoreUnavailable):
                    await call(store)
            client.execute_command("ACL", "SETUSER", "app", ">first")
            for call in CALLS.values():
                await call(store)
        finally:
            await store.close()


@pytest.mark.parametrize("kind", ["demoted", "without replicas"])
async def test_a_refusal_that_passes_is_waited_for(private_valkey: ValkeyProcess, kind: str):
    """A fail-over of a second is no error to anybody: the call is repeated until it lands."""
    store = Store(private_valkey.url(), patience_s=20)
    try:
        with refusing(private_valkey, kind):
            calls = [asyncio.create_task(call(store)) for call in CALLS.values()]
            done, _ = await asyncio.wait(calls, timeout=0.5)
            assert not done
        await asyncio.gather(*calls)
    finally:
        await store.close()


async def test_a_fault_of_ours_is_not_waited_for(store: Store):
    """A key of another type is a defect: it shows at once, and as what it is."""
    await store.client.set("list", "no list", px=60_000)
    for push in (
        lambda: sent(store, "LPUSH", "list", "x"),
        lambda: store.client.lpush("list", "x"),
        lambda: store.client.pipeline(transaction=False).lpush("list", "x").execute(),
    ):
        with pytest.raises(ResponseError):
            await store.patiently(push, patience_s=20)


@pytest.mark.parametrize("kind", ["demoted", "disk broken", "without replicas"])
async def test_what_only_reads_is_still_answered(private_valkey: ValkeyProcess, kind: str):
    """Who takes no writes can be read: run, log and lists are there."""
    store = Store(private_valkey.url(), patience_s=0.3)
    try:
        run_id = v.new_run()
        await v.start(store, run_id)
        with refusing(private_valkey, kind):
            assert isinstance(await transitions.read(store, run_id), transitions.State)
            with pytest.raises(errors.StoreUnavailable):
                await transitions.stop(store, run_id, reason=Reason.USER_ABORT)
    finally:
        await store.close()


async def test_a_server_that_may_not_be_asked_is_not_asked_for_ever(
    private_valkey: ValkeyProcess, caplog: pytest.LogCaptureFixture
):
    """Managed services refuse INFO: what they promise is unknown, and sweeps believe them as they are."""
    caplog.set_level("INFO")
    with operator(private_valkey) as client:
        client.execute_command("ACL", "SETUSER", "default", "-info")
    async with asyncio.timeout(20):
        await server_checks.watch_start(private_valkey.url(0), private_valkey.url(1))
    actions = [getattr(record, "action", "") for record in caplog.records]
    assert actions.count("promises_unknown") == 2
    store = Store(private_valkey.url())
    try:
        assert await server_of(store) == Server()
    finally:
        await store.close()


async def test_behind_one_name_the_new_primary_is_found(private_valkey: ValkeyProcess, store_url: str):
    """A demoted server keeps its connections open: each of ours is given up, and the next leads to the primary."""
    async with Proxy(private_valkey.port or 0) as name:
        store = Store(name.url, patience_s=5)
        try:
            for call in CALLS.values():
                await call(store)
            name.port = int(store_url.rpartition(":")[2].partition("/")[0])
            with refusing(private_valkey, "demoted"):
                for call in CALLS.values():
                    await call(store)
        finally:
            await store.close()


async def test_a_writer_probes_no_replica(private_valkey: ValkeyProcess):
    """What a replica's log lacks was not lost: who writes connects to a primary, or not at all."""
    with refusing(private_valkey, "demoted"), pytest.raises(ReadOnlyError):
        await raw_connections.open_to_primary(private_valkey.url())
    connection = await raw_connections.open_to_primary(private_valkey.url())
    connection.abort()
    await connection.lost
