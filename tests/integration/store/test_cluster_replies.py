"""What nodes of a Cluster answer while a slot is on its way, or a node is lost: each reply, where it can come.

The servers' own statistics (`INFO errorstats`) say that the reply was given.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from mainstem_shared import errors, transitions
from mainstem_shared.coordination import mailboxes
from mainstem_shared.coordination.mailboxes import InputMessage
from mainstem_shared.eventlog.reading.tailer import Tailer
from mainstem_shared.eventlog.writing.channels import Phase
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.events import Type
from mainstem_shared.store import keys, topologies
from mainstem_shared.store.client import Store
from mainstem_workers.mailbox_reader import MailboxReader
from support.models import verb_calls as v
from support.models.hostile_writing import Engine, Reader, log_of, stored, writing
from support.processes import fleets
from support.processes.fleets import Fleet
from support.processes.servers import ValkeyProcess
from support.waiting import wait_until_async


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, valkey_binary: Path) -> Iterator[Fleet]:
    """Three primaries."""
    del valkey_binary
    with fleets.cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture
async def store(fleet: Fleet) -> AsyncIterator[Store]:
    async with stored(fleet.url()) as made:
        await made.refresh()
        yield made


class Opened:
    """A slot that is on its way, for as long as a test wants."""

    def __init__(self, fleet: Fleet, key: str) -> None:
        self.slot = topologies.slot_of(key)
        self._fleet = fleet
        self.target = next(it for it in fleet.primaries if it is not fleet.owner_of(self.slot))
        self.source = fleet.open_slot(self.slot, self.target)

    def move(self, *names: str) -> None:
        """Move some of its keys."""
        with self.source.client() as here:
            here.execute_command("MIGRATE", "127.0.0.1", self.target.port, "", 0, 5000, "KEYS", *names)

    def close(self) -> None:
        self._fleet.finish_slot(self.slot, self.source, self.target)


def given(servers: tuple[ValkeyProcess, ...], code: str) -> int:
    """Return how often these servers have given a reply."""
    found = 0
    for server in servers:
        with server.client() as client:
            told = client.info("errorstats").get(f"errorstat_{code}", {})
            found += int(told["count"]) if told else 0
    return found


async def test_ask_is_followed_by_commands_and_verbs(fleet: Fleet, store: Store) -> None:
    """A key that has arrived is read and written where it is, while its slot is still on its way."""
    owner = "one"
    key = keys.mailbox(owner)
    await mailboxes.post(store, owner, InputMessage(run_id="a"))
    opened = Opened(fleet, key)
    before = given(fleet.primaries, "ASK")
    try:
        opened.move(key)
        await mailboxes.post(store, owner, InputMessage(run_id="b"))
        assert await store.command("XLEN", key) == 2
        lease, box = await store.commands(("EXISTS", keys.lease(owner)), ("XLEN", key))
        assert (lease, box) == (0, 2)
    finally:
        opened.close()
    assert given(fleet.primaries, "ASK") > before
    assert await store.command("XLEN", key) == 2


async def test_a_verb_waits_while_its_keys_are_at_both_ends(fleet: Fleet, store: Store) -> None:
    """TRYAGAIN until they are together again; then it has been done once."""
    control = await v.running(store)
    named = keys.run(control.run_id)
    opened = Opened(fleet, named.record)
    before = given(fleet.primaries, "TRYAGAIN")
    store.patience_s = 20
    opened.move(named.record)
    finishing = asyncio.create_task(v.finish(store, control, top=await _top(store, control.run_id)))
    try:
        await wait_until_async(
            lambda: given(fleet.primaries, "TRYAGAIN") > before, description="TRYAGAIN", timeout_s=10
        )
        assert not finishing.done()
    finally:
        opened.close()
    assert isinstance(await finishing, transitions.Finished)
    assert [entry.type for entry in await log_of(store, control.run_id)].count(Type.FINISHED) == 1


async def _top(store: Store, run_id: str) -> Cursor:
    return (await log_of(store, run_id))[-1].cursor


async def test_a_run_is_written_and_followed_through_an_open_slot(fleet: Fleet, store: Store) -> None:
    """ASK in a transaction, and EXECABORT, which no server counts: it is asked about, and written once."""
    before = given(fleet.primaries, "ASK")
    async with writing(fleet.url()) as writer, Tailer(store) as tailer:
        engine = Engine(writer, await v.running(store), 1)
        reader = Reader(engine.run_id)
        reading = asyncio.create_task(reader.read(tailer))
        await engine.write(20)
        await engine.flush()
        named = keys.run(engine.run_id)
        opened = Opened(fleet, named.log)
        opened.move(named.log, named.record)
        try:
            for number in range(3):  # together: a transaction
                engine.say(("custom", number))
            engine.say(("text", "more"))
            await wait_until_async(
                lambda: engine.channel.phase is Phase.PROBING and given(fleet.primaries, "ASK") > before,
                description="the transaction to be refused",
                timeout_s=10,
            )
            assert engine.channel.group is not None
            assert engine.channel.group.replies > 2  # MULTI, EXEC, and what is between
        finally:
            opened.close()
        await engine.write(20)
        await engine.finish(store)
        async with asyncio.timeout(20):
            await reading
        entries = await log_of(store, engine.run_id)
        reader.check(list(entries))
        assert entries[-1].payload()["content"] == engine.model.content
        assert Type.RESYNC not in {entry.type for entry in entries}
        assert engine.losses == []


async def test_a_mailbox_is_read_on_where_it_went(fleet: Fleet, store: Store) -> None:
    """MOVED, and a blocking read that is let go: each message once, in order."""
    owner = "two"
    got: list[str] = []
    reader = MailboxReader(store, lambda: owner, lambda message: got.append(message.run_id))
    reading = asyncio.create_task(reader.run())
    try:
        for number in range(3):
            await mailboxes.post(store, owner, InputMessage(run_id=f"{number}"))
            await wait_until_async(lambda n=number: len(got) > n, description="the message", timeout_s=10)
            slot = topologies.slot_of(keys.mailbox(owner))
            there = next(it for it in fleet.primaries if it is not fleet.owner_of(slot))
            await asyncio.to_thread(fleet.move_slot, slot, there)
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    assert got == ["0", "1", "2"]


async def test_a_cluster_that_is_down_is_waited_for(fleet: Fleet, store: Store) -> None:
    """CLUSTERDOWN from every node while one has no heir: calls say 503, writers wait, nothing is lost."""
    before = given(fleet.primaries, "CLUSTERDOWN")
    async with writing(fleet.url()) as writer:
        engines = [Engine(writer, await v.running(store), seed) for seed in range(6)]
        await asyncio.gather(*(engine.flush() for engine in engines))
        victim = fleet.owner_of(topologies.slot_of(keys.run(engines[0].run_id).log))
        others = tuple(server for server in fleet.primaries if server is not victim)
        other = next(
            e for e in engines if fleet.owner_of(topologies.slot_of(keys.run(e.run_id).log)) in others
        )
        victim.sigkill()
        try:
            await wait_until_async(
                lambda: _is_down(others), description="the Cluster to notice", timeout_s=20
            )
            for engine in engines:
                await engine.write(10, flushes=0)
            with pytest.raises(errors.StoreUnavailable):
                await store.command("EXISTS", keys.run(other.run_id).record, patience_s=0.3)
            await wait_until_async(
                lambda: given(others, "CLUSTERDOWN") > before, description="CLUSTERDOWN", timeout_s=10
            )
        finally:
            victim.start()
        store.patience_s = 30
        for engine in engines:
            async with asyncio.timeout(40):
                await engine.finish(store)
            entries = await log_of(store, engine.run_id)
            assert entries[-1].payload()["content"] == engine.model.content
            assert engine.losses == []


def _is_down(servers: tuple[ValkeyProcess, ...]) -> bool:
    for server in servers:
        with server.client() as client, contextlib.suppress(RedisError):
            told = client.execute_command("CLUSTER", "INFO")
            text = told if isinstance(told, str) else str(told)
            if "fail" in text.split("cluster_slots_assigned")[0]:
                return True
    return False
