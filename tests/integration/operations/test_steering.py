"""What users say to a run, on a real server: receipts, refusals, repeats, and what becomes of what nobody read."""

from __future__ import annotations

from typing import Any

import pytest

from mainstem_shared import errors, transitions
from mainstem_shared.eventlog.reading import run_states
from mainstem_shared.model import ids, jsontext
from mainstem_shared.model.actions import Action, Question
from mainstem_shared.model.contents import Content
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.runs import Reason
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations import ending, recovery, steering
from mainstem_shared.operations.performing import Operations
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.models import verb_calls as v

SETTINGS = Settings()


async def say(store: Store, run_id: str, text: str, *, input_id: str | None = None) -> steering.Receipt:
    spec = await run_states.check_owner(store, run_id, tenant="default", user_id="u")
    request = steering.parse_request({"text": text, "input_id": input_id})
    operations = Operations(store=store, settings=SETTINGS, publisher=Nobody())
    return await steering.send(operations, spec, request=request, by="u")


async def refusal(store: Store, run_id: str, **said: Any) -> type[Exception]:
    """Say something; returns how it is refused, and makes sure that the refusal changes nothing."""
    before = await v.everything(store)
    with pytest.raises(errors.Conflict) as refused:
        await say(store, run_id, **{"text": "x", **said})
    assert await v.everything(store) == before
    return refused.type


async def pause(store: Store, control: transitions.Control) -> None:
    asked = (Question(question_id="q", text="?"),)
    await transitions.pause(
        store,
        control,
        nonce=ids.nonce(),
        top=Cursor(control.epoch, 0),
        spec=await run_states.check_owner(store, control.run_id, tenant="default", user_id=None),
        action=Action(action_id="a", kind="question", questions=asked, expires_ms=now_ms() + 60_000),
        fold=Content(),
        checkpoint=None,
        settings=SETTINGS,
    )


async def test_inputs_are_handed_out_in_order_to_the_owner_alone(store: Store):
    """Those after what it knows; nobody else gets any."""
    control = await v.running(store)
    receipts = [await say(store, control.run_id, text) for text in ("one", "two", "three")]
    assert [receipt.number for receipt in receipts] == [1, 2, 3]
    new = await transitions.inbox(store, control, read=0, known=1)
    assert isinstance(new, list)
    assert [said["text"] for said in new] == ["two", "three"]
    stranger = transitions.Control(run_id=control.run_id, epoch=control.epoch, owner="other")
    assert isinstance(await transitions.inbox(store, stranger, read=3, known=0), transitions.Refused)


async def test_the_same_input_is_said_once(store: Store):
    """Repeats have the first one's receipt, after the run's end too; another text under the id is refused."""
    control = await v.running(store)
    first = await say(store, control.run_id, "one", input_id="mine")
    assert await say(store, control.run_id, "one", input_id="mine") == first
    assert await refusal(store, control.run_id, text="two", input_id="mine") is errors.InputIdReused
    assert len(await transitions.inbox(store, control, read=0, known=0)) == 1  # pyright: ignore[reportArgumentType]
    await v.finish(store, control)
    assert await say(store, control.run_id, "one", input_id="mine") == first


async def test_who_is_not_at_work_takes_no_input(store: Store):
    """Paused: the decision comes first. Being aborted, or over: nobody would read it."""
    paused, stopping, over = [await v.running(store) for _ in range(3)]
    await pause(store, paused)
    assert await refusal(store, paused.run_id) is errors.RunPaused
    await transitions.stop(store, paused.run_id, reason=Reason.USER_ABORT)
    assert await refusal(store, paused.run_id) is errors.RunNotActive
    await transitions.stop(store, stopping.run_id, reason=Reason.USER_ABORT)
    assert await refusal(store, stopping.run_id) is errors.RunNotActive
    await v.finish(store, over)
    assert await refusal(store, over.run_id) is errors.RunNotActive
    with pytest.raises(errors.NotFound):
        await say(store, v.new_run(), "x")


async def test_a_run_that_waits_for_its_worker_is_told_later(store: Store):
    """The claim says that there is something to read; a reader sees it waiting."""
    run_id = v.new_run()
    await v.start(store, run_id)
    await say(store, run_id, "early")
    (said,) = (await run_states.get_run(store, run_id)).inputs
    assert (said["text"], said["by"], said["state"], said["part"]) == ("early", "u", "queued", None)
    assert (await v.claim(store, run_id)).inputs == 1


async def test_no_more_wait_than_may(store: Store):
    """What the engine has read makes room, up to what a run takes in all."""
    control = await v.running(store)
    for _ in range(transitions.INPUTS_WAITING_LIMIT):
        await say(store, control.run_id, "x")
    assert await refusal(store, control.run_id) is errors.InputQueueFull
    for read in range(1, transitions.INPUTS_LIMIT - transitions.INPUTS_WAITING_LIMIT + 1):
        await transitions.inbox(store, control, read=read, known=read)
        await say(store, control.run_id, "x")
    await transitions.inbox(store, control, read=transitions.INPUTS_LIMIT, known=transitions.INPUTS_LIMIT)
    assert await refusal(store, control.run_id) is errors.InputQueueFull


async def test_the_end_hands_back_what_nobody_read(store: Store):
    """Those beyond what the log has, in `run.finished` and for every later reader; the record lets go of all."""
    control = await v.running(store)
    for text in ("read", "unread", 'quo"ted\\'):
        await say(store, control.run_id, text)
    (first, *_) = await transitions.inbox(store, control, read=0, known=0)  # pyright: ignore[reportGeneralTypeIssues]
    fold = Content()
    fold.apply("message.delta", {"part": 0, "text": "a"})
    fold.apply("input.accepted", first)
    operations = Operations(store=store, settings=SETTINGS, publisher=Nobody())
    await ending.finish(operations, control, fold=fold, top=Cursor(control.epoch, 0), reason=Reason.COMPLETED)
    run = await run_states.get_run(store, control.run_id)
    assert [(said["text"], said["state"], said["part"]) for said in run.inputs] == [
        ("read", "read", 1),
        ("unread", "unread", None),
        ('quo"ted\\', "unread", None),
    ]
    record = await store.client.hkeys(keys.run(control.run_id).record)
    assert [name for name in record if name.startswith(b"input:")] == []


async def test_whoever_begins_again_is_told_again(store: Store):
    """A run goes back to its last checkpoint: what was read after it is waiting once more."""
    control = await v.running(store)
    for text in ("before", "after"):
        await say(store, control.run_id, text)
    entries = await transitions.inbox(store, control, read=0, known=0)
    assert isinstance(entries, list)
    fold = Content()
    fold.apply("input.accepted", entries[0])
    saved = fold.dump()
    await transitions.checkpoint(
        store,
        control,
        cursor=Cursor(control.epoch, 0),
        state=b"s",
        fold=jsontext.dumps(saved),
        live_ttl_ms=v.LIVE_MS,
    )
    top = await v.append(store, control, "x")
    fold.apply("message.delta", {"part": 0, "text": "x"})
    fold.apply("input.accepted", entries[1])
    operations = Operations(store=store, settings=SETTINGS, publisher=Nobody())
    assert await recovery.hand_over(operations, control, fold=fold, top=top, cause="test", lost=True)
    await v.claim(store, control.run_id)
    run = await run_states.get_run(store, control.run_id)
    assert [(said["text"], said["state"]) for said in run.inputs] == [("before", "read"), ("after", "queued")]


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"text": ""}, errors.InvalidRequest),
        ({"text": " \n"}, errors.InvalidRequest),
        ({"text": 3}, errors.InvalidRequest),
        ({"text": "x", "input_id": "has blanks"}, errors.InvalidRequest),
        ({"text": "x", "engine": "y"}, errors.InvalidRequest),
        ({"text": "x" * steering.TEXT_LIMIT}, errors.InputTooLarge),
    ],
)
def test_what_is_no_input(fields: dict[str, Any], kind: type[Exception]):
    """Refused before anything is stored."""
    with pytest.raises(kind):
        steering.parse_request(fields)


async def test_a_guard_may_refuse_it(store: Store):
    """The built-in one: control characters."""
    control = await v.running(store)
    with pytest.raises(errors.InvalidRequest):
        await say(store, control.run_id, "bell \x07")


class Nobody:
    """A publisher without a broker."""

    async def apublish(self, run_id: str, **about: Any) -> str:
        del run_id, about
        raise errors.BrokerUnavailable
