"""A server that lost a change of control: two processes believe to have the same run, and only one has it.

Nonces without a gap make both open the same epoch: then nothing but the nonce tells them apart.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from mainstem_shared import errors, transitions
from mainstem_shared.eventlog.writing.channels import Channel, Phase
from mainstem_shared.model import contents, ids
from mainstem_shared.model.cursors import START, Cursor
from mainstem_shared.model.events import Type
from mainstem_shared.store import keys, raw_connections
from mainstem_shared.store.client import Store
from support.models import verb_calls as v
from support.models.hostile_writing import log_of, stored, writing
from support.processes.proxy import Proxy
from support.processes.servers import ValkeyProcess
from support.waiting import wait_until_async

NONCES = {"the same epoch": v.without_gap, "as drawn": ids.nonce}
WORDS = 6


async def claimed(store: Store, run_id: str, *, owner: str, nonce: str) -> transitions.Control:
    answer = await v.claim(store, run_id, owner=owner, nonce=nonce)
    assert isinstance(answer, transitions.Claimed)
    return v.controlled(answer, owner=owner)


def opened(writer: Any, control: transitions.Control, lost: list[str], name: str) -> Channel:
    channel = writer.open(control)
    channel.on_lost = lambda: lost.append(name)
    return channel


async def back(proxy: Proxy, channel: Channel) -> None:
    """Let a writer that was cut off come back, and look, before anybody says a word."""
    proxy.cut_all()
    await wait_until_async(lambda: channel.phase is Phase.PROBING, description="the loss of the connection")
    proxy.flow()
    await wait_until_async(
        lambda: channel.phase in {Phase.OPEN, Phase.LOST}, description="the probe's answer"
    )


async def said(channel: Channel, name: str) -> list[str]:
    """Say words, each with a barrier behind it; returns those that were acknowledged."""
    acknowledged: list[str] = []
    for number in range(WORDS):
        try:
            channel.text(Type.MESSAGE_DELTA, f" {name}{number}")
            async with asyncio.timeout(5):
                await channel.flush()
        except errors.Fenced:
            break
        acknowledged.append(f" {name}{number}")
        await asyncio.sleep(0.01)
    return acknowledged


async def text_of(store: Store, run_id: str) -> str:
    """Return what a reader of the whole log has, which has no hole."""
    entries = await log_of(store, run_id)
    cursor = START
    for entry in entries:
        assert entry.follows(cursor), f"{entry.cursor} after {cursor}"
        cursor = entry.cursor
    return contents.fold(entries).text


@pytest.mark.parametrize("owner", ["A", "B"], ids=["claimed again by the same process", "by another"])
@pytest.mark.parametrize("nonces", NONCES)
@pytest.mark.timeout(60)
async def test_a_lost_claim_and_its_successor(private_valkey: ValkeyProcess, nonces: str, owner: str):
    """The first claimant comes back before either has said a word: it is told, and nothing of its successor is lost."""
    nonce, lost = NONCES[nonces], list[str]()
    async with (
        stored(private_valkey.url()) as store,
        Proxy(private_valkey.port or 0) as proxy,
        writing(proxy.url) as at_a,
        writing(private_valkey.url()) as at_b,
    ):
        run_id = v.new_run()
        await v.start(store, run_id)
        mark = private_valkey.written
        first = await claimed(store, run_id, owner="A", nonce=nonce())
        a = opened(at_a, first, lost, "A")
        await a.flush()
        proxy.stall()
        await asyncio.to_thread(private_valkey.go_back, mark)
        second = await claimed(store, run_id, owner=owner, nonce=nonce())
        assert (first.epoch == second.epoch) == (nonces == "the same epoch")
        b = opened(at_b, second, lost, "B")
        await back(proxy, a)
        of_a, of_b = await asyncio.gather(said(a, "A"), said(b, "B"))
        assert (of_a, lost) == ([], ["A"])
        assert of_b == [f" B{number}" for number in range(WORDS)]
        assert await text_of(store, run_id) == "".join(of_b)


async def resynced(store: Store, control: transitions.Control) -> transitions.Control:
    nonce = v.without_gap()
    epoch = await v.resync(store, control, nonce=nonce)
    return dataclasses.replace(control, epoch=epoch, nonce=nonce)


async def sealed_and_claimed(store: Store, control: transitions.Control) -> transitions.Control:
    """Take a run over, hand it on and claim it: three epochs."""
    sealed = await v.seal(store, control, sealer="S")
    await v.handover(store, sealed)
    return await claimed(store, control.run_id, owner="A", nonce=v.without_gap())


LOST: dict[str, Callable[..., Any]] = {
    "a repair": resynced,
    "a whole take-over": sealed_and_claimed,
}


@pytest.mark.parametrize("what", LOST)
@pytest.mark.timeout(60)
async def test_another_lost_change_of_control_and_its_successor(private_valkey: ValkeyProcess, what: str):
    """Whatever change was lost: who takes the run over from the past gets the same epoch, and is not disturbed."""
    lost = list[str]()
    url = private_valkey.url()
    async with (
        stored(url) as store,
        Proxy(private_valkey.port or 0) as proxy,
        writing(proxy.url) as at_a,
        writing(url) as at_b,
    ):
        control = await v.running(store, owner="A")
        mark = private_valkey.written
        a = opened(at_a, await LOST[what](store, control), lost, "A")
        await a.flush()
        proxy.stall()
        await asyncio.to_thread(private_valkey.go_back, mark)
        while control.epoch < a.control.epoch:  # as often as it takes to reach the same number
            sealed = await v.seal(store, control, sealer="B")
            assert isinstance(sealed, transitions.Control)
            control = sealed
        assert (control.epoch, control.owner) == (a.control.epoch, "B")
        b = opened(at_b, control, lost, "B")
        await back(proxy, a)
        of_a, of_b = await asyncio.gather(said(a, "A"), said(b, "B"))
        assert (of_a, lost, len(of_b)) == ([], ["A"], WORDS)
        assert await text_of(store, control.run_id) == "".join(of_b)


@pytest.mark.timeout(60)
async def test_a_repair_that_another_fail_over_loses_is_made_again(private_valkey: ValkeyProcess):
    """The record says what it said before the repair: that was its owner's too, who writes everything once more."""
    lost = list[str]()
    async with stored(private_valkey.url()) as store, writing(private_valkey.url()) as writer:
        run_id = v.new_run()
        await v.start(store, run_id)
        a = opened(writer, await claimed(store, run_id, owner="A", nonce=v.without_gap()), lost, "A")
        mark, words, nonces = private_valkey.written, await said(a, "A"), {a.control.nonce}
        for number in range(3):
            await asyncio.to_thread(private_valkey.go_back, mark)
            await wait_until_async(
                lambda: lost or a.control.nonce not in nonces, description="a repair", timeout_s=20
            )
            assert lost == []
            nonces.add(a.control.nonce)
            words += await said(a, f"{number}")
        assert await text_of(store, run_id) == "".join(words)
        assert len(nonces) == 4


@pytest.mark.timeout(60)
async def test_a_run_that_was_taken_after_a_lost_repair_is_given_up(private_valkey: ValkeyProcess):
    """Whoever sealed the run as it was before the repair has it: its former owner is told, and adds nothing."""
    lost = list[str]()
    async with (
        stored(private_valkey.url()) as store,
        Proxy(private_valkey.port or 0) as proxy,
        writing(proxy.url) as writer,
    ):
        run_id = v.new_run()
        await v.start(store, run_id)
        first = await claimed(store, run_id, owner="A", nonce=v.without_gap())
        a = opened(writer, first, lost, "A")
        mark = private_valkey.written
        await said(a, "A")
        await asyncio.to_thread(private_valkey.go_back, mark)
        await wait_until_async(lambda: a.control != first, description="a repair", timeout_s=20)
        proxy.stall()
        await asyncio.to_thread(private_valkey.go_back, mark)
        await v.seal(store, first, sealer="S")
        before = await log_of(store, run_id)
        await back(proxy, a)
        await wait_until_async(lambda: lost, description="the former owner to be told")
        assert await said(a, "A") == []
        assert await log_of(store, run_id) == before


async def test_who_has_no_control_cannot_take_it_by_writing(store: Store, store_url: str):
    """A zombie in a later epoch of a lost history, over a connection that survived: the owner repairs, and goes on."""
    zombie = await raw_connections.open_raw_connection(store_url)
    async with writing(store_url) as writer:
        lost = list[str]()
        control = await v.running(store, owner="B")
        b = opened(writer, control, lost, "B")
        log = keys.run(control.run_id).log.encode()
        later = control.epoch + 1000
        words = await said(b, "B")
        await zombie.call(b"XADD", log, b"NOMKSTREAM", b"%d-1" % later, b"d", b'{"part":0,"text":"Z"}')
        words += await said(b, "B")
        assert (lost, len(words)) == ([], 2 * WORDS)
        assert b.acknowledged.epoch > later
        refused = await zombie.call(
            b"XADD", log, b"NOMKSTREAM", b"%d-2" % later, b"d", b'{"part":0,"text":"Z"}'
        )
        assert isinstance(refused, Exception)
        entries = await log_of(store, control.run_id)
        repaired = next(at for at, entry in enumerate(entries) if entry.type == Type.RESYNC)
        assert contents.fold(entries[repaired:]).text == "".join(words)
    zombie.abort()
    await zombie.lost


async def test_no_two_claims_from_the_same_past_open_the_same_epoch(store: Store):
    """What readers have of a lost history is no position in the one that followed."""
    epochs: list[int] = []
    for _ in range(20):
        run_id = v.new_run()
        await v.start(store, run_id)
        control = await claimed(store, run_id, owner="A", nonce=ids.nonce())
        epochs.append(control.epoch)
        finished = await v.finish(store, control, nonce=ids.nonce())
        assert isinstance(finished, transitions.Finished)
        assert control.epoch < finished.epoch < 2**53
    assert len(set(epochs)) >= 19
    assert max(epochs) <= 2 + ids.EPOCH_GAP


async def test_an_idle_owner_of_a_lost_claim_is_told(private_valkey: ValkeyProcess):
    """It says nothing, and the store gave the run to nobody else yet: it must not go on as if it had it."""
    lost = list[str]()
    async with stored(private_valkey.url()) as store, writing(private_valkey.url()) as writer:
        run_id = v.new_run()
        await v.start(store, run_id)
        mark = private_valkey.written
        a = opened(writer, await claimed(store, run_id, owner="A", nonce=ids.nonce()), lost, "A")
        await a.flush()
        await asyncio.to_thread(private_valkey.go_back, mark)
        await wait_until_async(lambda: lost, description="the loss to be noticed")
        assert a.phase is Phase.LOST
        assert await log_of(store, run_id) == (await log_of(store, run_id))[:1]
        assert (await log_of(store, run_id))[0].cursor == Cursor(1, 0)
