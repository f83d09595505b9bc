"""The verbs of approvals on a real server: answers, replays, refusals, lifetimes."""

from __future__ import annotations

import asyncio
from typing import Any

from mainstem_shared import transitions
from mainstem_shared.eventlog.reading import run_states
from mainstem_shared.model import actions, runs
from mainstem_shared.model.actions import Action, Call
from mainstem_shared.model.contents import Content
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.events import Type
from mainstem_shared.model.runs import Reason, Status
from mainstem_shared.model.time import now_ms
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.models import verb_calls as v
from support.waiting import wait_until_async

SETTINGS = Settings()


def action(action_id: str = "act", *, window_ms: int = 60_000) -> Action:
    call = Call(call_id="c", name="tool", arguments={"n": 1}, arguments_schema={"type": "object"})
    return Action(action_id=action_id, kind="tool_approval", calls=(call,), expires_ms=now_ms() + window_ms)


async def spec_of(store: Store, run_id: str) -> runs.Spec:
    state = await transitions.read(store, run_id)
    assert isinstance(state, transitions.State)
    return state.spec


async def pause(
    store: Store,
    control: transitions.Control,
    *,
    what: Action | None = None,
    nonce: str | None = None,
    top: Cursor | None = None,
    checkpoint: bytes | None = b"state",
) -> Any:
    return await transitions.pause(
        store,
        control,
        nonce=nonce or v.without_gap(),
        top=top or Cursor(control.epoch, 0),
        spec=await spec_of(store, control.run_id),
        action=what or action(),
        fold=Content(),
        checkpoint=checkpoint,
        settings=SETTINGS,
    )


async def resolve(
    store: Store,
    run_id: str,
    *,
    action_id: str = "act",
    digest: str = "d",
    nonce: str | None = None,
    fingerprint: str | None = None,
    kind: Any = Type.APPROVAL_RESOLVED,
) -> Any:
    seen = await transitions.read_action(store, run_id, action_id)
    assert isinstance(seen, transitions.Waiting)
    kept = {"action_id": action_id, "kind": "tool_approval", "decisions": [{"id": "c", "type": "approve"}]}
    return await transitions.resolve(
        store,
        run_id,
        nonce=nonce or v.without_gap(),
        action_id=action_id,
        fingerprint=fingerprint or seen.fingerprint,
        digest=digest,
        decisions=kept,
        kind=kind,
        body={**kept, "by": None, "at": now_ms()},
        live_ttl_ms=v.LIVE_MS,
    )


async def test_a_paused_run_is_its_record(store: Store):
    """No owner, the action for readers without what is for the server, the checkpoint; one log entry."""
    control = await v.running(store)
    other = Call(call_id="b", name="tool", arguments={}, allowed_decisions=("reject",))
    asked = action().model_copy(update={"calls": (*action().calls, other)})
    assert await pause(store, control, what=asked) == transitions.Paused(epoch=3)
    run = await run_states.get_run(store, control.run_id)
    assert (run.status, run.worker, run.action) == (Status.REQUIRES_ACTION, None, asked.public())
    assert [(call["call_id"], call["allowed_decisions"]) for call in run.action["calls"]] == [
        ("c", ["approve", "reject", "edit"]),
        ("b", ["reject"]),
    ]
    assert (await v.log_types(store, control.run_id))[-1] == "3-0 approval.required"
    assert await transitions.load_checkpoint(store, control.run_id) == b"state"
    seen = await transitions.read_action(store, control.run_id, "act")
    assert isinstance(seen, transitions.Waiting)
    assert seen.action is not None
    assert seen.action.mark == {"parts": 0, "chars": 0, "open": [], "usage": None}
    assert (seen.action.model_copy(update={"mark": None}), seen.digest) == (asked, None)


async def test_a_reader_waits_on_while_a_pause_writes_the_log_anew(store: Store):
    """The log's key is replaced under a blocked read: it gets what the pause appended, and what follows."""
    control = await v.running(store)
    log = keys.run(control.run_id).log

    async def following(cursor: str) -> str:
        [[_, [(entry, _)]]] = await store.client.xread({log: cursor}, block=10_000, count=1)
        return entry.decode()

    before = await store.client.pttl(log)
    reader = asyncio.create_task(following(f"{control.epoch}-0"))
    await blocked(store)
    await pause(store, control)
    assert await reader == "3-0"
    assert not await store.client.exists(keys.run(control.run_id).spare)
    assert await store.client.pttl(log) >= before - 60_000
    reader = asyncio.create_task(following("3-0"))
    await blocked(store)
    await resolve(store, control.run_id)
    assert await reader == "4-0"


async def blocked(store: Store) -> None:
    """Wait until a reader waits in the server."""

    async def waiting() -> bool:
        return (await store.client.info("clients"))["blocked_clients"] == 1

    await wait_until_async(waiting, description="a blocked reader")


async def test_pause_and_resolve_answer_the_same_caller_the_same(store: Store):
    """After a lost reply the same nonce changes nothing."""
    control = await v.running(store)
    asked = action()
    first = await pause(store, control, nonce="mine", what=asked)
    before = await v.everything(store)
    assert await pause(store, control, nonce="mine", what=asked) == first
    assert await v.everything(store) == before
    assert isinstance(await pause(store, control, nonce="yours"), transitions.Refused)
    resolved = await resolve(store, control.run_id, nonce="again")
    before = await v.everything(store)
    assert await resolve(store, control.run_id, nonce="again") == resolved == transitions.Resolved(epoch=4)
    assert await v.everything(store) == before


async def test_the_first_decision_stands_for_ever(store: Store):
    """The same digest is a repeat, another one conflicts: while it is queued, runs, pauses again and is over."""
    control = await v.running(store)
    await pause(store, control)
    await resolve(store, control.run_id)

    async def asked_again() -> tuple[Any, Any]:
        run_id = control.run_id
        return await resolve(store, run_id), await resolve(store, run_id, digest="other")

    expected = (transitions.Decided(same=True), transitions.Decided(same=False))
    assert await asked_again() == expected
    claimed = await v.claim(store, control.run_id)
    assert (claimed.resume_as, claimed.segment, claimed.epoch) == ("run.resumed", 2, 5)
    assert claimed.decisions[0]["decisions"] == [{"id": "c", "type": "approve"}]
    assert await asked_again() == expected
    mine = transitions.Control(run_id=control.run_id, epoch=5, owner="me")
    assert await pause(store, mine, what=action("second"), checkpoint=None) == transitions.Paused(epoch=6)
    assert await transitions.load_checkpoint(store, control.run_id) == b"state"
    assert await asked_again() == expected
    await resolve(store, control.run_id, action_id="second")
    again = await v.claim(store, control.run_id)
    assert [kept["action_id"] for kept in again.decisions] == ["act", "second"]
    await v.finish(store, transitions.Control(run_id=control.run_id, epoch=again.epoch, owner="me"))
    assert await asked_again() == expected
    assert not await store.client.exists(keys.run(control.run_id).checkpoint)


async def test_a_resume_lengthens_the_life_of_all_that_goes_on(store: Store):
    """Record, log, snapshot and checkpoint live as long as a run that starts now, and a sweeper looks at it soon."""
    control = await v.running(store)
    await pause(store, control)
    k = keys.run(control.run_id)
    kept = [key for key in (k.record, k.log, k.snapshot, k.checkpoint) if await store.client.exists(key)]
    assert len(kept) == 4
    for key in kept:
        await store.client.pexpire(key, 60_000)
    assert v.LIVE_MS > 120_000
    await resolve(store, control.run_id)
    assert [key for key in kept if await store.client.pttl(key) <= 120_000] == []
    assert await store.client.zscore(k.active, control.run_id) is not None


async def test_what_a_resolve_is_refused_for(store: Store):
    """Another action, another fingerprint, an expired window, an unexpired one, a stop, a run that runs."""
    control = await v.running(store)
    assert isinstance(await resolve(store, control.run_id), transitions.Refused)
    await pause(store, control)
    before = await v.everything(store)
    assert await resolve(store, control.run_id, action_id="older") == transitions.Stale()
    assert await resolve(store, control.run_id, fingerprint="other") == transitions.Stale()
    early = await resolve(store, control.run_id, kind=Type.APPROVAL_EXPIRED)
    assert early == transitions.Expired(epoch=3)
    assert await v.everything(store) == before
    await transitions.stop(store, control.run_id, reason=Reason.USER_ABORT)
    assert isinstance(await resolve(store, control.run_id), transitions.Stopping)
    late = await v.running(store)
    await pause(store, late, what=action(window_ms=-1))
    assert await resolve(store, late.run_id) == transitions.Expired(epoch=3)
    assert await resolve(store, late.run_id, kind=Type.APPROVAL_EXPIRED) == transitions.Resolved(epoch=4)


async def test_a_stop_wins_over_a_pause(store: Store):
    """Who asked before the pause landed is not left with a run that waits for a day."""
    control = await v.running(store)
    await transitions.stop(store, control.run_id, reason=Reason.USER_ABORT)
    before = await v.everything(store)
    answer = await pause(store, control)
    assert answer == transitions.Stopping(reason=Reason.USER_ABORT, epoch=2)
    assert await v.everything(store) == before


async def test_only_the_owner_pauses_and_checkpoints(store: Store):
    """A former owner, or one whose fold lags behind, is refused, and changes nothing."""
    control = await v.running(store)
    await v.append(store, control, "a")
    assert isinstance(await pause(store, control), transitions.Moved)
    sealed = await v.seal(store, control)
    before = await v.everything(store)
    assert isinstance(await pause(store, control), transitions.Refused)
    saved = await transitions.checkpoint(
        store, control, cursor=Cursor(2, 1), state=b"x", fold=b"{}", live_ttl_ms=1
    )
    assert isinstance(saved, transitions.Refused)
    assert await v.everything(store) == before
    assert isinstance(sealed, transitions.Control)


async def test_checkpoints_only_go_forward(store: Store):
    """A later state is not overwritten by an earlier one, nor one stored that the log does not reach."""
    control = await v.running(store)
    await v.append(store, control, "a", "b")

    async def save(cursor: Cursor, state: bytes) -> Any:
        return await transitions.checkpoint(
            store, control, cursor=cursor, state=state, fold=b"{}", live_ttl_ms=v.LIVE_MS
        )

    assert await save(Cursor(2, 2), b"later") is True
    assert await save(Cursor(2, 1), b"earlier") is False
    assert await save(Cursor(2, 3), b"ahead") is False
    assert await transitions.load_checkpoint(store, control.run_id) == b"later"


async def test_a_long_window_keeps_everything_alive(store: Store):
    """Every key of the run outlives its action's window, however long that is."""
    control = await v.running(store)
    window_ms = 30 * 86_400_000
    await pause(store, control, what=action(window_ms=window_ms))
    k = keys.run(control.run_id)
    for key in (k.record, k.log, k.snapshot, k.checkpoint, k.thread, k.thread_runs):
        assert await store.client.pttl(key) > window_ms, key


async def test_waiting_is_no_part_of_a_runs_duration(store: Store):
    """The time from a pause to the claim of its continuation is counted as idle."""
    control = await v.running(store)
    await pause(store, control)
    await store.client.hset(keys.run(control.run_id).record, "paused", now_ms() - 5000)
    await resolve(store, control.run_id)
    claimed = await v.claim(store, control.run_id)
    assert 5000 <= claimed.idle_ms < 60_000


def test_limits_leave_room_in_the_log():
    """An action and its decisions fit into entries that readers take."""
    assert max(actions.ACTION_LIMIT, actions.DECISIONS_LIMIT) < 256 * 1024
