"""Asked again, a verb answers the same caller the same; refused, it changes nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from mainstem_shared import transitions
from mainstem_shared.model.actions import Action, Question
from mainstem_shared.model.contents import Content
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.runs import Reason, Status
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.models import verb_calls as v
from support.models.specs import spec

# -- asking again


Ask = Callable[[Store, transitions.Control, str], Awaitable[Any]]
REPLAYED: dict[str, Ask] = {
    "seal": lambda store, control, nonce: v.seal(store, control, nonce=nonce),
    "finish": lambda store, control, nonce: v.finish(store, control, nonce=nonce),
    "handover": lambda store, control, nonce: v.handover(store, control, nonce=nonce),
    "resync": lambda store, control, nonce: v.resync(store, control, nonce=nonce),
}


@pytest.mark.parametrize("name", REPLAYED)
async def test_a_verb_answers_the_same_caller_the_same(store: Store, name: str):
    """After a lost reply the same call with the same nonce has no second effect and the same answer."""
    control = await v.running(store)
    answer = await REPLAYED[name](store, control, "mine")
    assert not isinstance(answer, transitions.Refused)
    before = await v.everything(store)
    assert await REPLAYED[name](store, control, "mine") == answer
    assert await v.everything(store) == before
    other = await REPLAYED[name](store, control, "yours")
    assert isinstance(other, transitions.Refused | transitions.Already)
    assert await v.everything(store) == before


async def test_a_claim_answers_its_winner_the_same(store: Store):
    """Otherwise a lost reply would leave a run that its own winner refuses."""
    run_id = v.new_run()
    await v.start(store, run_id)
    first = await v.claim(store, run_id, nonce="mine")
    before = await v.everything(store)
    assert await v.claim(store, run_id, nonce="mine") == first
    assert await v.everything(store) == before


@pytest.mark.parametrize("name", ["claim", "seal", "resync"])
async def test_control_that_was_lost_meanwhile_is_not_confirmed(store: Store, name: str):
    """Who asks again after somebody else took the run over is refused, not told that it has control."""
    run_id = v.new_run()
    await v.start(store, run_id)

    async def ask() -> Any:
        if name == "claim":
            return await v.claim(store, run_id, nonce="mine")
        return await REPLAYED[name](store, transitions.Control(run_id=run_id, epoch=2, owner="me"), "mine")

    if name != "claim":
        await v.claim(store, run_id)
    await ask()
    epoch = int((await v.record(store, run_id))["epoch"])
    sealed = await v.seal(store, transitions.Control(run_id=run_id, epoch=epoch, owner="?"), sealer="third")
    assert isinstance(sealed, transitions.Control)
    assert await ask() == transitions.Refused(status=Status.RUNNING, epoch=epoch + 1)


async def test_a_handover_that_was_claimed_meanwhile_is_refused_to_its_asker(store: Store):
    """The continuation runs: the former owner, asking again, cannot queue it a second time."""
    control = await v.running(store)
    await v.handover(store, control, nonce="mine")
    await v.claim(store, control.run_id, owner="next")
    assert await v.handover(store, control, nonce="mine") == transitions.Refused(
        status=Status.RUNNING, epoch=4
    )


async def test_finishing_twice_returns_the_first_outcome(store: Store):
    """Terminal is final, for whoever comes second; and for the first, asking again after others did."""
    control = await v.running(store)
    first = await v.finish(store, control, nonce="mine", reason=Reason.COMPLETED)
    already = transitions.Already(status=Status.SUCCEEDED, reason=Reason.COMPLETED)
    assert await v.finish(store, control, reason=Reason.USER_ABORT) == already
    assert await transitions.stop(store, control.run_id, reason=Reason.USER_ABORT) == already
    assert await v.finish(store, control, nonce="mine") == first


# -- refusals change nothing


async def pause(store: Store, control: transitions.Control, top: Cursor) -> Any:
    question = Question(question_id="q", text="?")
    return await transitions.pause(
        store, control, nonce=v.without_gap(), top=top, spec=spec(control.run_id), fold=Content(),
        action=Action(action_id="a", kind="question", questions=(question,), expires_ms=2**41),
        checkpoint=b"c", settings=Settings(),
    )  # fmt: skip


async def checkpoint(store: Store, control: transitions.Control, top: Cursor) -> Any:
    return await transitions.checkpoint(
        store, control, cursor=top, state=b"c", fold=b"{}", live_ttl_ms=v.LIVE_MS
    )


async def refusals(store: Store) -> list[tuple[str, Callable[[], Awaitable[Any]], Any]]:
    """Calls that must be refused, with the refusal, on runs prepared for them."""
    run = await v.running(store)
    await v.append(store, run, "a", "b")
    assert await v.snapshot(store, run, Cursor(2, 1))
    queued, over, gone = v.new_run(), await v.running(store), v.new_run()
    await v.start(store, queued)
    await v.finish(store, over)
    stale = transitions.Control(run_id=run.run_id, epoch=1, owner="me")
    foreign = transitions.Control(run_id=run.run_id, epoch=2, owner="other")
    twin = dataclasses.replace(run, nonce="another change of control with the same number")
    nobody = transitions.Control(run_id=gone, epoch=1, owner="")
    idle = transitions.Control(run_id=queued, epoch=1, owner="")
    ended = transitions.Control(run_id=over.run_id, epoch=3, owner="me")
    running = transitions.Refused(status=Status.RUNNING, epoch=2)
    waits = transitions.Refused(status=Status.QUEUED, epoch=1)
    done = transitions.Refused(status=Status.SUCCEEDED, epoch=3)
    top = Cursor(2, 2)
    return [
        ("seal, stale", lambda: v.seal(store, stale), running),
        ("seal, queued", lambda: v.seal(store, idle), waits),
        ("seal, over", lambda: v.seal(store, ended), done),
        ("seal, gone", lambda: v.seal(store, nobody), transitions.Gone()),
        ("seal, twin", lambda: v.seal(store, twin), running),
        ("finish, twin", lambda: v.finish(store, twin, top=top), running),
        ("handover, twin", lambda: v.handover(store, twin, top=top), running),
        ("resync, twin", lambda: v.resync(store, twin), running),
        ("snapshot, twin", lambda: v.snapshot(store, twin, top), False),
        ("pause, twin", lambda: pause(store, twin, top), running),
        ("checkpoint, twin", lambda: checkpoint(store, twin, top), running),
        ("inbox, twin", lambda: transitions.inbox(store, twin, read=0, known=0), running),
        ("finish, stale", lambda: v.finish(store, stale, top=top), running),
        ("finish, foreign", lambda: v.finish(store, foreign, top=top), running),
        ("finish, moved", lambda: v.finish(store, run, top=Cursor(2, 1)), transitions.Moved(top=top)),
        ("finish, not there yet", lambda: v.finish(store, run, top=Cursor(2, 3)), transitions.Moved(top=top)),
        ("finish, gone", lambda: v.finish(store, nobody), transitions.Gone()),
        ("handover, stale", lambda: v.handover(store, stale, top=top), running),
        ("handover, foreign", lambda: v.handover(store, foreign, top=top), running),
        ("handover, moved", lambda: v.handover(store, run, top=Cursor(2, 1)), transitions.Moved(top=top)),
        ("handover, queued", lambda: v.handover(store, idle, top=Cursor(1, 0)), waits),
        ("handover, over", lambda: v.handover(store, ended), done),
        ("handover, gone", lambda: v.handover(store, nobody), transitions.Gone()),
        ("resync, stale", lambda: v.resync(store, stale), running),
        ("resync, foreign", lambda: v.resync(store, foreign), running),
        ("resync, queued", lambda: v.resync(store, idle), waits),
        ("resync, over", lambda: v.resync(store, ended), done),
        ("resync, gone", lambda: v.resync(store, nobody), transitions.Gone()),
        ("snapshot, stale", lambda: v.snapshot(store, stale, top), False),
        ("snapshot, foreign", lambda: v.snapshot(store, foreign, top), False),
        ("snapshot, older", lambda: v.snapshot(store, run, Cursor(2, 0)), False),
        ("snapshot, ahead of the log", lambda: v.snapshot(store, run, Cursor(2, 3)), False),
        ("snapshot, queued", lambda: v.snapshot(store, idle, Cursor(1, 0)), False),
        ("snapshot, over", lambda: v.snapshot(store, ended, Cursor(3, 0)), False),
        ("snapshot, gone", lambda: v.snapshot(store, nobody, Cursor(1, 0)), False),
        ("claim, running", lambda: v.claim(store, run.run_id), running),
        ("claim, over", lambda: v.claim(store, over.run_id), done),
        ("claim, gone", lambda: v.claim(store, gone), transitions.Gone()),
        ("published, running", lambda: transitions.published(store, run.run_id, task_id="t"), False),
        ("published, over", lambda: transitions.published(store, over.run_id, task_id="t"), False),
        ("published, gone", lambda: transitions.published(store, gone, task_id="t"), False),
        ("compact, running", lambda: transitions.compact(store, run.run_id), False),
        ("compact, gone", lambda: transitions.compact(store, gone), False),
        ("stop, gone", lambda: transitions.stop(store, gone, reason=Reason.USER_ABORT), transitions.Gone()),
        ("read, gone", lambda: transitions.read(store, gone), transitions.Gone()),
    ]


async def test_a_refused_verb_changes_nothing(store: Store):
    """All checks come before the first write: every refusal leaves every key as it was, byte by byte."""
    cases = await refusals(store)
    before = await v.everything(store)
    for name, call, refusal in cases:
        assert await call() == refusal, name
        assert await v.everything(store) == before, name


async def test_a_verb_that_the_log_refuses_changes_nothing(store: Store):
    """The XADD is the first write: if the server does not take it, the record still says what it said."""
    control = await v.running(store)
    await store.client.execute_command("XSETID", keys.run(control.run_id).log, "9-9")
    before = await v.everything(store)
    for name, ask in REPLAYED.items():
        with pytest.raises(Exception, match="equal or smaller"):
            await ask(store, control, name)
        assert await v.everything(store) == before, name


async def test_a_start_that_the_log_refuses_leaves_nothing(store: Store):
    """No record, no thread, no index, no key of the caller's: the same start succeeds as soon as it can."""
    run_id = v.new_run()
    await store.client.xadd(keys.run(run_id).log, {"x": "y"}, id="9-9")
    before = await v.everything(store)
    with pytest.raises(Exception, match="equal or smaller"):
        await v.start(store, run_id, idempotency=("scope", "body"))
    assert await v.everything(store) == before
    await store.client.delete(keys.run(run_id).log)
    assert isinstance(await v.start(store, run_id, idempotency=("scope", "body")), transitions.Started)
