"""A store that goes back in time: a fail-over, or an append-only file without its end. Who has control stays known."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from mainstem_shared import errors, transitions
from mainstem_shared.eventlog.reading.tailer import Tailer
from mainstem_shared.eventlog.writing.channels import Channel, Phase
from mainstem_shared.eventlog.writing.writer import Writer
from mainstem_shared.model import ids
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.events import Type
from mainstem_shared.operations import ending
from mainstem_shared.store.client import Store
from support.models import verb_calls as v
from support.models.hostile_writing import log_of, stored, writing
from support.processes.proxy import Proxy
from support.processes.servers import ValkeyProcess
from support.waiting import wait_until_async


class Tape:
    """A server's append-only file: `mark` a moment, then `rewind` the server to it."""

    def __init__(self, valkey: ValkeyProcess) -> None:
        self._valkey = valkey
        self._size = 0

    def _file(self):
        (file,) = self._valkey.directory.glob("appendonlydir/*.incr.aof")
        return file

    def mark(self) -> None:
        self._size = self._file().stat().st_size

    async def rewind(self) -> None:
        """As a replica that had not seen the rest yet: the server starts with what it was at the mark."""
        self._valkey.sigkill()
        self._file().write_bytes(self._file().read_bytes()[: self._size])
        await asyncio.to_thread(self._valkey.start)


def opened(writer: Writer, run_id: str, claimed: transitions.Claimed, owner: str) -> Channel:
    return writer.open(transitions.Control(run_id=run_id, epoch=claimed.epoch, owner=owner))


async def said(channel: Channel, words: list[str]) -> list[str]:
    """Emit words one by one, each flushed; returns those that were acknowledged."""
    acknowledged: list[str] = []
    for word in words:
        try:
            channel.text(Type.MESSAGE_DELTA, word)
            await asyncio.wait_for(channel.flush(), 5)
        except (errors.Fenced, errors.ChannelClosed):
            break
        acknowledged.append(word)
    return acknowledged


async def text_of(store: Store, run_id: str) -> str:
    state = await transitions.read(store, run_id)
    assert isinstance(state, transitions.State)
    return ending.fold_of(state).text


Claim = Callable[[Store, str, str], Awaitable[transitions.Claimed]]


async def _as_a_worker(store: Store, run_id: str, owner: str) -> transitions.Claimed:
    claimed = await v.claim(store, run_id, owner=owner, nonce=ids.nonce())
    assert isinstance(claimed, transitions.Claimed)
    return claimed


async def _in_the_same_epoch(store: Store, run_id: str, owner: str) -> transitions.Claimed:
    """The one pair in 2^24 whose nonces have the same step."""
    claimed = await v.claim(store, run_id, owner=owner)
    assert isinstance(claimed, transitions.Claimed)
    return claimed


@pytest.mark.parametrize("claim", [_as_a_worker, _in_the_same_epoch])
@pytest.mark.parametrize("before", [[], ["A-1 ", "A0 "]], ids=["silent", "had spoken"])
async def test_an_owner_whose_claim_was_lost_writes_nothing(
    private_valkey: ValkeyProcess, claim: Claim, before: list[str]
):
    """A claims; the store loses that; B claims; A comes back: A is fenced, and everything acknowledged to B is there."""
    tape = Tape(private_valkey)
    async with (
        stored(private_valkey.url()) as store,
        Proxy(private_valkey.port) as proxy,
        writing(proxy.url) as at_a,
        writing(private_valkey.url()) as at_b,
    ):
        run_id = v.new_run()
        await v.start(store, run_id)
        tape.mark()
        a = opened(at_a, run_id, await claim(store, run_id, "A"), "A")
        await said(a, before)
        proxy.stall()
        await tape.rewind()
        b = opened(at_b, run_id, await claim(store, run_id, "B"), "B")
        # As many as A had: the ids of both are the same, if their epochs are.
        heard = await said(b, ["B" for _ in before])
        proxy.cut_all()
        await wait_until_async(lambda: not at_a.connected.is_set(), description="A to lose its connection")
        proxy.flow()
        back = lambda: at_a.connected.is_set() and a.phase in {Phase.OPEN, Phase.LOST}  # noqa: E731
        await wait_until_async(back, description="A to be back and to have asked")
        of_a, of_b = await asyncio.gather(
            said(a, [f"A{n} " for n in range(6)]), said(b, [f"B{n} " for n in range(6)])
        )
        await wait_until_async(lambda: a.phase is Phase.LOST, description="A to learn it")
        assert of_b == [f"B{n} " for n in range(6)]
        assert b.phase is Phase.OPEN
        assert await text_of(store, run_id) == "".join(heard + of_b)
        assert not [word for word in of_a if word in await text_of(store, run_id)]


async def test_a_reader_of_lost_events_is_given_the_others(private_valkey: ValkeyProcess):
    """A reader has A's events, which the store lost; it reconnects to B's log: it gets a state, and misses nothing."""
    tape = Tape(private_valkey)
    async with stored(private_valkey.url()) as store, writing(private_valkey.url()) as writer:
        run_id = v.new_run()
        await v.start(store, run_id)
        tape.mark()
        a = opened(writer, run_id, await _as_a_worker(store, run_id, "A"), "A")
        await said(a, ["A0 ", "A1 "])
        seen: Cursor = a.acknowledged
        a.discard()
        await tape.rewind()
        b = opened(writer, run_id, await _as_a_worker(store, run_id, "B"), "B")
        await said(b, [f"B{n} " for n in range(5)])
        async with Tailer(store) as tailer, tailer.subscribe(run_id, after=seen) as subscription:
            first = (await anext(subscription))[0]
        assert first.type == Type.SNAPSHOT
        assert first.payload()["text"] == "B0 B1 B2 B3 B4 "


async def test_a_repair_that_was_lost_is_made_again(private_valkey: ValkeyProcess):
    """The store loses acknowledged events, then the resync that repaired them: the owner repairs once more."""
    tape = Tape(private_valkey)
    async with stored(private_valkey.url()) as store, writing(private_valkey.url()) as writer:
        run_id = v.new_run()
        await v.start(store, run_id)
        a = opened(writer, run_id, await _as_a_worker(store, run_id, "A"), "A")
        tape.mark()
        assert await said(a, ["one "]) == ["one "]
        for word in ("two ", "three "):
            await tape.rewind()
            assert await said(a, [word]) == [word]
        assert a.phase is Phase.OPEN
        assert await text_of(store, run_id) == "one two three "
        entries = await log_of(store, run_id)
        assert [entry.type for entry in entries].count("resync") == 1, (
            "the first repair is gone with its entry"
        )


async def test_a_sealed_run_stays_sealed_or_is_sealed_anew(private_valkey: ValkeyProcess):
    """The store loses a seal: its former owner goes on as if nothing had been, and a second seal takes it for good."""
    tape = Tape(private_valkey)
    async with stored(private_valkey.url()) as store, writing(private_valkey.url()) as writer:
        run_id = v.new_run()
        await v.start(store, run_id)
        claimed = await _as_a_worker(store, run_id, "A")
        a = opened(writer, run_id, claimed, "A")
        assert await said(a, ["one "]) == ["one "]
        tape.mark()
        sealed = await v.seal(store, a.control, sealer="S", nonce=ids.nonce())
        await tape.rewind()
        assert await said(a, ["two "]) == ["two "]
        again = await v.seal(store, a.control, sealer="T", nonce=ids.nonce())
        assert again.epoch != sealed.epoch
        assert await said(a, ["three "]) == []
        late = await v.finish(store, sealed, top=a.acknowledged)
        assert isinstance(late, transitions.Refused), "the first sealer's control was lost with its seal"
        assert await text_of(store, run_id) == "one two "
