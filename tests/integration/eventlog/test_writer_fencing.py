"""Two owners of one run: nothing of the former lands once the newer has control, whatever is under way."""

from __future__ import annotations

import asyncio
import functools
import random

import pytest

from mainstem_shared import errors, transitions
from mainstem_shared.model import contents, cursors, events
from mainstem_shared.model.cursors import START, Cursor
from mainstem_shared.model.events import Type
from mainstem_shared.model.runs import Reason
from mainstem_shared.store import keys, raw_connections
from mainstem_shared.store.client import Store
from support.models import verb_calls as v
from support.models.hostile_writing import Engine, log_of, writing
from support.waiting import wait_until_async

ROUNDS = 50
APPENDS = 1000


def appends(control: transitions.Control) -> list[bytes]:
    """What a zombie may have in its pipeline: single events as the writer spells them."""
    log = keys.run(control.run_id).log.encode()
    return [
        raw_connections.pack(
            b"XADD", log, b"NOMKSTREAM", b"%d-%d" % (control.epoch, seq), b"d", b'{"part":0,"text":"x"}'
        )
        for seq in range(1, APPENDS + 1)
    ]


async def whole(store: Store, run_id: str) -> list[events.Entry]:
    entries = await log_of(store, run_id)
    cursor = START
    for entry in entries:
        assert entry.follows(cursor), f"{entry.cursor} after {cursor}"
        cursor = entry.cursor
    return entries


async def test_nothing_of_a_zombies_pipeline_lands_after_the_takeover(store: Store, store_url: str):
    """Fifty rounds: a thousand appends in flight while another seals, hands over and claims at a random moment."""
    dice = random.Random(11)
    zombie = await raw_connections.open_raw_connection(store_url)
    pool = await v.running(store)
    await v.seal(store, pool)  # the scripts are known from here on
    caught = 0
    for _ in range(ROUNDS):
        control = await v.running(store)
        refused: list[int] = []

        def on_reply(replies: list[raw_connections.Reply], number: int, refused: list[int] = refused) -> None:
            if isinstance(replies[0], Exception):
                refused.append(number)

        for number, command in enumerate(appends(control), 1):
            zombie.send(command, functools.partial(on_reply, number=number))
            if number % 100 == 0 and dice.random() < 0.3:
                await asyncio.sleep(0)
            if number == APPENDS // 2:
                takeover = asyncio.create_task(_take_over(store, control))
        await zombie.call(b"PING")
        newer = await takeover
        await zombie.call(b"PING")
        entries = await whole(store, control.run_id)
        sealed = next(at for at, entry in enumerate(entries) if entry.type == Type.SEALED)
        assert {entry.cursor.epoch for entry in entries[sealed:]} <= {3, 4, 5}
        assert entries[-1].cursor == Cursor(newer.epoch, 0)
        landed = sealed - 2
        assert refused == list(range(landed + 1, APPENDS + 1))
        caught += bool(refused)
    zombie.abort()
    await zombie.lost
    assert caught > ROUNDS // 4, "the takeovers came too late to prove anything"


async def _take_over(store: Store, control: transitions.Control) -> transitions.Control:
    sealed = await v.seal(store, control, sealer="newer")
    assert isinstance(sealed, transitions.Control)
    queued = await v.handover(store, sealed, top=Cursor(sealed.epoch, 0))
    assert queued == sealed.epoch + 1
    claimed = await v.claim(store, control.run_id, owner="newer")
    assert isinstance(claimed, transitions.Claimed)
    return transitions.Control(run_id=control.run_id, epoch=claimed.epoch, owner="newer")


async def test_a_writer_that_lost_its_run_notices_and_stops(store: Store, store_url: str):
    """Twenty engines are taken over while they write: each is told once, and the new owner's content is final."""
    async with writing(store_url) as writer:
        engines = [Engine(writer, await v.running(store), seed) for seed in range(20)]
        work = [asyncio.create_task(engine.write(100_000)) for engine in engines]
        dice = random.Random(1)
        for engine in engines:
            await asyncio.sleep(dice.uniform(0, 0.01))
            sealed = await v.seal(store, engine.channel.control)
            assert isinstance(sealed, transitions.Control)
            state = await transitions.read(store, engine.run_id)
            assert isinstance(state, transitions.State)
            fold = contents.fold(state.entries).dump()
            assert isinstance(await v.finish(store, sealed, top=state.top, state=fold), transitions.Finished)
        for engine, task in zip(engines, work, strict=True):
            with pytest.raises(errors.Fenced):
                await task
            assert len(engine.losses) == 1
            entries = await whole(store, engine.run_id)
            assert [entry.type for entry in entries[-2:]] == [Type.SEALED, Type.FINISHED]
            assert contents.fold(entries[:-1]).dump() == contents.fold(entries[-1:]).dump()
            with pytest.raises(errors.Fenced):
                await engine.channel.flush()


async def test_a_woken_zombies_verbs_are_all_refused(store: Store, store_url: str):
    """Snapshot, trim, hand-over, repair and end with the old epoch change nothing of the new owner's run."""
    async with writing(store_url) as writer:
        engine = Engine(writer, await v.running(store), 3)
        await engine.write(100)
        top = await engine.flush()
        zombie = engine.channel.control
        newer = await _take_over(store, zombie)
        await store.client.delete(keys.run(engine.run_id).snapshot)  # else its cursor alone would refuse them
        before = await v.everything(store)
        for cursor in (top, Cursor(newer.epoch, 0)):
            assert not await v.snapshot(store, zombie, cursor, engine.channel.fold.dump())
        assert isinstance(await v.finish(store, zombie, top=top), transitions.Refused)
        assert isinstance(await v.finish(store, zombie, top=Cursor(newer.epoch, 0)), transitions.Refused)
        assert isinstance(await v.handover(store, zombie, top=Cursor(newer.epoch, 0)), transitions.Refused)
        assert isinstance(await v.resync(store, zombie), transitions.Refused)
        assert isinstance(await v.seal(store, zombie), transitions.Refused)
        saved = transitions.checkpoint(
            store, zombie, cursor=top, state=b"old", fold=b"{}", live_ttl_ms=v.LIVE_MS
        )
        assert isinstance(await saved, transitions.Refused)
        assert await v.everything(store) == before
        engine.channel.text(Type.MESSAGE_DELTA, "from the grave")
        with pytest.raises(errors.Fenced):
            await engine.channel.flush()
        assert await v.everything(store) == before


async def test_an_idle_zombie_notices_at_its_next_connection(store: Store, store_url: str):
    """Nothing to send: the probe after a reconnect tells it."""
    async with writing(store_url) as writer:
        engine = Engine(writer, await v.running(store), 3)
        await engine.write(10)
        await engine.flush()
        await v.seal(store, engine.channel.control)
        assert engine.losses == []
        await store.client.client_kill_filter(_type="normal", skipme=True)
        await wait_until_async(lambda: engine.losses, description="the loss to be noticed")


async def test_a_deleted_run_is_lost_and_not_resurrected(store: Store, store_url: str):
    """Thread deletion while an engine writes: it is told, and no key of the run comes back."""
    async with writing(store_url) as writer:
        engine = Engine(writer, await v.running(store), 3)
        work = asyncio.create_task(engine.write(100_000))
        await wait_until_async(lambda: engine.channel.acknowledged.seq > 10, description="some events")
        k = keys.run(engine.run_id)
        await store.client.delete(*k)
        with pytest.raises(errors.Fenced):
            await work
        assert len(engine.losses) == 1
        assert await v.everything(store) == {}


async def test_a_run_that_ended_elsewhere_is_lost(store: Store, store_url: str):
    """An aborter finished the run under its own seal: the former owner's events do not land after the end."""
    async with writing(store_url) as writer:
        engine = Engine(writer, await v.running(store), 3)
        await engine.write(30)
        await engine.flush()
        sealed = await v.seal(store, engine.channel.control)
        await v.finish(store, sealed, reason=Reason.USER_ABORT)
        for _ in range(3):
            engine.channel.text(Type.MESSAGE_DELTA, "more")
        with pytest.raises(errors.Fenced):
            await engine.channel.close()
        assert (await whole(store, engine.run_id))[-1].type == Type.FINISHED
        assert cursors.parse("4-0") == (await log_of(store, engine.run_id))[-1].cursor
