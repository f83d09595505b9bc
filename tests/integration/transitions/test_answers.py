"""Every answer of every verb, on a real server."""

from __future__ import annotations

import asyncio
import random

import pytest

from mainstem_shared import errors, transitions
from mainstem_shared.model import buckets, events, runs
from mainstem_shared.model.cursors import Cursor
from mainstem_shared.model.events import Type
from mainstem_shared.model.runs import Reason, Status, WaitingFor
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from mainstem_shared.transitions import lifecycle
from support.models import verb_calls as v

# -- start


async def test_start_creates_a_queued_run_with_its_first_entry(store: Store):
    """The record, `1-0 run.created`, and the thread's hold on it, all before the caller is answered."""
    run_id = v.new_run()
    assert await v.start(store, run_id) == transitions.Started(waiting=WaitingFor.WORKER, active=run_id)
    state = await transitions.read(store, run_id)
    assert isinstance(state, transitions.State)
    assert (state.status, state.epoch, state.owner, state.top) == (Status.QUEUED, 1, "", Cursor(1, 0))
    assert (state.entries[0].type, state.entries[0].prev) == (Type.CREATED, Cursor(0, 0))
    assert state.entries[0].payload()["run_id"] == run_id
    assert await store.client.hget(keys.run(run_id).thread, "active") == run_id.encode()


async def test_a_taken_run_id_is_told_to_the_second_caller_only(store: Store):
    """The first caller, asking again, is answered as before; another one learns that the run exists."""
    run_id = v.new_run()
    first = await v.start(store, run_id, nonce="mine")
    assert await v.start(store, run_id, nonce="mine") == first
    assert await v.start(store, run_id, nonce="yours") == transitions.Exists()
    assert await v.log_types(store, run_id) == ["1-0 run.created"]


async def test_start_is_answered_the_same_whatever_happened_since(store: Store):
    """A lost reply, then other runs on the thread: the caller learns what it would have learnt.

    Above all, never that it replaces a run that came after it.
    """
    first, second, third = (v.new_run("shared") for _ in range(3))
    await v.start(store, first)
    answer = await v.start(store, second, nonce="mine", if_active="replace")
    assert answer == transitions.Started(waiting=WaitingFor.THREAD, active=first)
    for run_id in (first, second):
        await v.finish(store, transitions.Control(run_id=run_id, epoch=1, owner=""), top=Cursor(1, 0))
    await v.start(store, third)
    assert await v.start(store, second, nonce="mine", if_active="replace") == answer


async def test_an_idempotency_key_belongs_to_its_first_run(store: Store):
    """The same body is replayed, another body is told apart; the key outlives nothing for ever."""
    first, second = v.new_run("t"), v.new_run("t")
    await v.start(store, first, idempotency=("scope", "body"))
    kept = [await store.client.pttl(key) async for key in store.client.scan_iter("*:idem:*")]
    assert len(kept) == 1
    assert 0 < kept[0] <= transitions.IDEMPOTENCY_TTL_MS
    before = await v.everything(store)
    assert await v.start(store, second, idempotency=("scope", "body")) == transitions.Replayed(
        run_id=first, same_body=True
    )
    assert await v.start(store, second, idempotency=("scope", "else")) == transitions.Replayed(
        run_id=first, same_body=False
    )
    assert await v.everything(store) == before
    assert await v.start(store, second, idempotency=("other", "body")) == transitions.Busy(
        active=first, queue_full=False
    )


async def test_a_busy_thread_refuses_queues_or_replaces(store: Store):
    """reject changes nothing; enqueue waits at the end; replace at the front, and asks the holder to stop."""
    first, queued, replacing = (v.new_run("t") for _ in range(3))
    await v.start(store, first)
    before = await v.everything(store)
    assert await v.start(store, v.new_run("t")) == transitions.Busy(active=first, queue_full=False)
    assert await v.everything(store) == before
    waits = transitions.Started(waiting=WaitingFor.THREAD, active=first)
    assert await v.start(store, queued, if_active="enqueue") == waits
    assert await v.start(store, replacing, if_active="replace") == waits
    line = await store.client.lrange(keys.run(first).thread_queue, 0, -1)
    assert line == [replacing.encode(), queued.encode()]
    assert (await v.record(store, first))["stop_reason"] == "replaced"
    assert "stop_reason" not in await v.record(store, queued)


async def test_a_replacement_that_still_waits_is_replaced_in_its_turn(store: Store):
    """Regenerate twice: the run in between is not generated after the newest one; who only queued is."""
    holder, queued, second, third = (v.new_run("t") for _ in range(4))
    await v.start(store, holder)
    await v.start(store, queued, if_active="enqueue")
    await v.start(store, second, if_active="replace")
    await v.start(store, third, if_active="replace")
    assert (await v.record(store, second))["stop_reason"] == "replaced"
    assert "stop_reason" not in await v.record(store, queued)
    assert "stop_reason" not in await v.record(store, third)


async def test_a_full_queue_refuses(store: Store, monkeypatch: pytest.MonkeyPatch):
    """At the limit, whoever asks to wait or to replace is refused, and nothing changes."""
    monkeypatch.setattr(lifecycle, "QUEUE_LIMIT", 1)
    first = v.new_run("t")
    await v.start(store, first)
    await v.start(store, v.new_run("t"), if_active="enqueue")
    before = await v.everything(store)
    for how in ("enqueue", "replace"):
        assert await v.start(store, v.new_run("t"), if_active=how) == transitions.Busy(
            active=first, queue_full=True
        )
    assert await v.everything(store) == before


async def test_a_thread_whose_holder_expired_is_free(store: Store):
    """A record that is gone holds nothing."""
    first, second = v.new_run("t"), v.new_run("t")
    await v.start(store, first)
    await store.client.delete(keys.run(first).record, keys.run(first).log)
    assert await v.start(store, second) == transitions.Started(waiting=WaitingFor.WORKER, active=second)


# -- claim


async def test_claim_gives_the_run_to_one_owner(store: Store):
    """A new epoch, the spec and the input; the message's task id and the owner stand in the record."""
    run_id = v.new_run()
    await v.start(store, run_id)
    claimed = await v.claim(store, run_id)
    assert isinstance(claimed, transitions.Claimed)
    assert (claimed.epoch, claimed.segment, claimed.input, claimed.resume_as) == (2, 1, {"a": 1}, "")
    assert claimed.spec.run_id == run_id
    state = await transitions.read(store, run_id)
    assert isinstance(state, transitions.State)
    assert (state.status, state.owner, state.record.task_id) == (Status.RUNNING, "me", "task")
    assert state.entries[-1].prev == Cursor(1, 0)
    assert state.entries[-1].payload()["segment"] == 1


async def test_many_claims_have_one_winner(store: Store):
    """However many messages a run has, one task runs it; the others learn that it is running."""
    run_id = v.new_run()
    await v.start(store, run_id)
    answers = await asyncio.gather(*(v.claim(store, run_id, owner=f"w{n}") for n in range(20)))
    assert sum(isinstance(answer, transitions.Claimed) for answer in answers) == 1
    assert answers.count(transitions.Refused(status=Status.RUNNING, epoch=2)) == 19
    assert await v.log_types(store, run_id) == ["1-0 run.created", "2-0 run.started"]


async def test_a_run_that_waits_for_its_thread_cannot_be_claimed(store: Store):
    """Its message came too early, or is not its own."""
    first, second = v.new_run("t"), v.new_run("t")
    await v.start(store, first)
    await v.start(store, second, if_active="enqueue")
    assert await v.claim(store, second) == transitions.Refused(status=Status.QUEUED, epoch=1)


async def test_a_run_that_was_asked_to_stop_is_not_started(store: Store):
    """The claim says so, with the first reason, and changes nothing."""
    run_id = v.new_run()
    await v.start(store, run_id)
    await transitions.stop(store, run_id, reason=Reason.USER_ABORT)
    await transitions.stop(store, run_id, reason=Reason.REPLACED)
    before = await v.everything(store)
    assert await v.claim(store, run_id) == transitions.Stopping(reason=Reason.USER_ABORT, epoch=1)
    assert await v.everything(store) == before


# -- seal, handover, resync


async def test_seal_closes_the_log_to_the_former_owner(store: Store):
    """From then on the server itself refuses what the zombie appends, and verbs refuse the rest."""
    control = await v.running(store)
    await v.append(store, control, "a")
    sealed = await v.seal(store, control, nonce="seal")
    assert sealed == transitions.Control(run_id=control.run_id, epoch=3, owner="other", nonce="seal")
    with pytest.raises(Exception, match="equal or smaller"):
        await v.append(store, control, "b", seq=2)
    assert await v.log_types(store, control.run_id) == [
        "1-0 run.created",
        "2-0 run.started",
        "2-1 d",
        "3-0 run.sealed",
    ]
    assert isinstance(await v.finish(store, control, top=Cursor(3, 0)), transitions.Refused)
    assert isinstance(await v.finish(store, sealed, top=Cursor(3, 0)), transitions.Finished)


async def test_an_epoch_is_above_the_record_and_the_log(store: Store):
    """A record that a fail-over set back does not make a verb reuse an epoch that the log has seen."""
    control = await v.running(store)
    await store.client.xadd(keys.run(control.run_id).log, {"run.sealed": "{}"}, id="7-0")
    sealed = await v.seal(store, control)
    assert isinstance(sealed, transitions.Control)
    assert sealed.epoch == 8


async def test_a_run_whose_log_is_gone_can_still_be_ended(store: Store):
    """Sealing and finishing write a new log that ends by itself."""
    control = await v.running(store)
    await store.client.delete(keys.run(control.run_id).log)
    sealed = await v.seal(store, control)
    assert isinstance(sealed, transitions.Control)
    assert 0 < await store.client.pttl(keys.run(control.run_id).log) <= v.LIVE_MS
    state = await transitions.read(store, control.run_id)
    assert isinstance(state, transitions.State)
    assert state.entries[-1].prev == Cursor(0, 0)
    assert isinstance(await v.finish(store, sealed), transitions.Finished)


async def test_a_handed_over_run_is_claimed_as_it_was_left(store: Store):
    """Back in the queue without owner and message; the next claim is a new segment, under the given name."""
    control = await v.running(store)
    top = await v.append(store, control, "a")
    assert await v.handover(store, control, top=top, lost=True) == 3
    fields = await v.record(store, control.run_id)
    assert (fields["status"], fields["waiting"], fields["attempts"]) == ("queued", "worker", "1")
    assert not {"owner", "published", "task"} & set(fields)
    state = await transitions.read(store, control.run_id)
    assert isinstance(state, transitions.State)
    assert (state.snapshot_cursor, state.entries) == (Cursor(3, 0), [])
    claimed = await v.claim(store, control.run_id)
    assert isinstance(claimed, transitions.Claimed)
    assert (claimed.epoch, claimed.segment, claimed.resume_as) == (4, 2, "run.restarted")
    assert (await v.log_types(store, control.run_id))[-2:] == ["3-0 run.queued", "4-0 run.restarted"]


async def test_resync_begins_a_new_epoch_for_the_same_owner(store: Store):
    """The state is the entry and the snapshot; the owner goes on in the new epoch."""
    control = await v.running(store)
    assert await v.resync(store, control) == 3
    state = await transitions.read(store, control.run_id)
    assert isinstance(state, transitions.State)
    assert (state.owner, state.epoch, state.snapshot_cursor) == ("me", 3, Cursor(3, 0))
    mine = transitions.Control(run_id=control.run_id, epoch=3, owner="me")
    assert isinstance(await v.finish(store, mine), transitions.Finished)


# -- snapshots


async def test_a_snapshot_trims_exactly_what_the_previous_one_covers(store: Store):
    """A reader at the previous snapshot, or after it, finds every entry; a cold one has snapshot and tail."""
    control = await v.running(store)
    await v.append(store, control, *"abcdef")
    assert await v.snapshot(store, control, Cursor(2, 2))
    assert len(await v.log_types(store, control.run_id)) == 8
    assert await v.snapshot(store, control, Cursor(2, 5))
    assert (await v.log_types(store, control.run_id))[0] == "2-2 d"
    after = await store.client.xrange(keys.run(control.run_id).log, "(2-2")
    assert events.entry(*after[0]).follows(Cursor(2, 2))
    state = await transitions.read(store, control.run_id)
    assert isinstance(state, transitions.State)
    assert (state.snapshot_cursor, [entry.cursor for entry in state.entries]) == (
        Cursor(2, 5),
        [Cursor(2, 6)],
    )
    before = await v.everything(store)
    assert await v.snapshot(store, control, Cursor(2, 5))
    assert await v.everything(store) == before


async def test_snapshots_compare_ids_as_numbers(store: Store):
    """Cursor 2-10 is after 2-9."""
    control = await v.running(store)
    await v.append(store, control, *"abcdefghijk")
    assert await v.snapshot(store, control, Cursor(2, 9))
    assert await v.snapshot(store, control, Cursor(2, 10))
    assert not await v.snapshot(store, control, Cursor(2, 9))


# -- finish


async def test_the_final_entry_is_the_last_snapshot(store: Store):
    """Status, reason, error and content stand in one entry; snapshot and checkpoint are gone."""
    control = await v.running(store)
    await v.append(store, control, "a")
    await v.snapshot(store, control, Cursor(2, 1))
    await store.client.hset(keys.run(control.run_id).checkpoint, "state", "x")
    state = {**v.STATE, "content": [{"type": "text", "text": "a"}]}
    error = runs.ErrorInfo(code="engine_error", message="it broke")
    finished = await v.finish(
        store, control, top=Cursor(2, 1), reason=Reason.ENGINE_ERROR, state=state, error=error
    )
    assert finished == transitions.Finished(epoch=3, next_run=None)
    read = await transitions.read(store, control.run_id)
    assert isinstance(read, transitions.State)
    (last,) = read.entries
    assert (last.type, last.cursor, last.prev) == ("run.finished", Cursor(3, 0), Cursor(2, 1))
    payload = last.payload()
    assert (payload["status"], payload["reason"]) == ("failed", "engine_error")
    assert (
        payload["error"] == {"code": "engine_error", "message": "it broke"} == read.record.error.model_dump()
    )
    assert payload["content"] == state["content"]
    assert not await store.client.exists(
        keys.run(control.run_id).snapshot, keys.run(control.run_id).checkpoint
    )


@pytest.mark.parametrize("reason", Reason)
async def test_every_reason_has_its_status(store: Store, reason: Reason):
    """A terminal run's status follows from its reason, and both are told to whoever comes later."""
    aborts = {Reason.USER_ABORT, Reason.REPLACED, Reason.SHUTDOWN, Reason.THREAD_DELETED}
    otherwise = Status.SUCCEEDED if reason is Reason.COMPLETED else Status.FAILED
    status = Status.ABORTED if reason in aborts else otherwise
    control = await v.running(store)
    await v.finish(store, control, reason=reason)
    assert await v.finish(store, control) == transitions.Already(status=status, reason=reason)


async def test_a_finished_run_is_compacted_to_its_last_entry(store: Store):
    """Nothing but the final entry is left, and its predecessor's id still shows what came before."""
    control = await v.running(store)
    top = await v.append(store, control, *"abc")
    await v.finish(store, control, top=top)
    assert await transitions.compact(store, control.run_id)
    assert await v.log_types(store, control.run_id) == ["3-0 run.finished"]
    assert await transitions.compact(store, control.run_id)
    k = keys.run(control.run_id)
    assert not await store.client.exists(k.spare)
    assert (
        0 < await store.client.pttl(k.log) <= await store.client.pttl(k.record) + 1000
    )  # they were read one by one


# -- the rest


async def test_publishing_is_noted_on_queued_runs(store: Store):
    """Under the message's task id, and counted."""
    run_id = v.new_run()
    await v.start(store, run_id)
    assert await transitions.published(store, run_id, task_id="one")
    assert await transitions.published(store, run_id, task_id="two")
    fields = await v.record(store, run_id)
    assert (fields["task"], fields["publishes"]) == ("two", "2")
    await v.claim(store, run_id)
    assert "published" not in await v.record(store, run_id)


async def test_the_first_reason_to_stop_stands(store: Store):
    """Whoever asks is told the state, the owner and the reason that will be the run's."""
    control = await v.running(store)
    first = await transitions.stop(store, control.run_id, reason=Reason.USER_ABORT)
    assert first == transitions.Intended(
        status=Status.RUNNING, epoch=2, owner="me", task_id="task", reason=Reason.USER_ABORT
    )
    at = (await v.record(store, control.run_id))["stop_ms"]
    assert await transitions.stop(store, control.run_id, reason=Reason.SHUTDOWN) == first
    assert (await v.record(store, control.run_id))["stop_ms"] == at


async def test_hostile_run_ids_never_reach_the_store(store: Store):
    """They are not found, and no command is sent."""
    for hostile in ("", "x", "a" * 16 + "_" + "*" * 26):
        for call in (
            transitions.read(store, hostile),
            v.claim(store, hostile),
            transitions.compact(store, hostile),
        ):
            with pytest.raises(errors.NotFound):
                await call


async def test_verbs_touch_only_keys_of_their_slot(store: Store):
    """Whatever happens on a thread, every key carries its bucket's tag: also those that scripts find by themselves."""
    runs = [v.new_run("t") for _ in range(3)]
    await v.start(store, runs[0])
    await v.start(store, runs[1], if_active="replace", idempotency=("s", "b"))
    await v.start(store, runs[2], if_active="enqueue")
    await v.finish(store, transitions.Control(run_id=runs[0], epoch=1, owner=""))
    tag = buckets.TAGS[buckets.bucket_of(runs[0])]
    assert {key.decode().split("}")[0] for key in await v.everything(store)} == {f"ms:{{{tag}"}


async def test_a_verb_is_one_command(store: Store):
    """Once its script is known to the server."""
    warm, measured = await v.running(store), await v.running(store)
    await transitions.read(store, warm.run_id)
    await v.snapshot(store, warm, Cursor(2, 0))
    await v.finish(store, warm)
    await store.client.config_resetstat()
    await transitions.read(store, measured.run_id)
    await v.snapshot(store, measured, Cursor(2, 0))
    await v.finish(store, measured)
    stats = await store.client.info("commandstats")
    assert stats["cmdstat_evalsha"]["calls"] == 3
    assert "cmdstat_eval" not in stats


async def test_cancelled_callers_never_get_each_others_answers(store: Store):
    """No connection is left that answers the next caller with a cancelled call's reply."""
    dice = random.Random(3)
    runs = [v.new_run() for _ in range(8)]
    for run_id in runs:
        await v.start(store, run_id)

    async def impatient(run_id: str) -> None:
        try:
            async with asyncio.timeout(dice.uniform(0.0001, 0.002)):
                state = await transitions.read(store, run_id)
        except TimeoutError:
            return
        assert isinstance(state, transitions.State)
        assert state.spec.run_id == run_id

    for _ in range(20):
        await asyncio.gather(*map(impatient, runs))
    for run_id in runs:
        state = await transitions.read(store, run_id)
        assert isinstance(state, transitions.State)
        assert state.spec.run_id == run_id
