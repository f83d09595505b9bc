"""Breaks rows 85 to 103 of the contract, aborts, and those of chapter 5 on who may write: fencing, idempotency."""

from __future__ import annotations

from typing import Final

from mutations.mutation import LUA, SHARED, TASKS, Mutation

M = Mutation
_ABORTING: Final = f"{SHARED}/operations/aborting.py"
_CHANNELS: Final = f"{SHARED}/eventlog/writing/channels.py"
_STARTING: Final = f"{SHARED}/operations/starting.py"

MUTATIONS: Final = (
    M(
        rows=(83, 92, 145, 180),
        file=f"{LUA}/start.lua",
        old="local waiting = active and 'thread' or 'worker'",
        new="local waiting = 'worker'",
        only=("test_a_busy_thread_refuses_queues_or_replaces",),
    ),
    M(
        rows=(85, 163),
        file=f"{TASKS}/sdk/provider_calls.py",
        old="self._channel.emit(Type.USAGE, payload)",
        new="pass",
        only=("test_usage_of_an_aborted_run_is_told_once_and_whole",),
    ),
    M(
        rows=(86,),
        file=f"{SHARED}/coordination/mailboxes.py",
        old="box = keys.mailbox(owner)",
        new='box = keys.mailbox(owner + "x")',
        only=("test_without_celerys_broadcast_the_mailbox_does_it",),
    ),
    M(
        rows=(87,),
        file=_ABORTING,
        old="done = notified or await self._end(run_id, intent)",
        new="done = notified",
    ),
    M(
        rows=(88,),
        file=f"{TASKS}/execution/segments.py",
        old="        if self.cause is not None:\n            return\n        self.cause = cause",
        new="        self.cause = cause",
        only=("test_the_engines_cleanup_completes",),
    ),
    M(
        rows=(89,),
        file=_ABORTING,
        old="won_from=intent.status,\n            signal_delivered=intent.status",
        new="won_from=Status.RUNNING,\n            signal_delivered=intent.status",
    ),
    M(
        rows=(91,),
        file=f"{SHARED}/eventlog/reading/run_states.py",
        old="Record.spec)\n    if isinstance(record, transitions.Gone):\n        raise errors.NotFound",
        new="Record.spec)\n    if isinstance(record, transitions.Gone):\n        raise errors.Conflict",
    ),
    M(
        rows=(93,),
        file=f"{SHARED}/coordination/mailboxes.py",
        old="return seen is not None and cursors.parse(seen) >= message_id",
        new="return True",
    ),
    M(
        rows=(94, 200),
        file=f"{SHARED}/operations/deleting.py",
        old="if done.outcome is AbortOutcome.PENDING:",
        new="if False:",
        only=("test_deleting_a_thread_takes_it_from_a_worker_that_does_not_react",),
    ),
    M(
        rows=(95,),
        file=f"{LUA}/stop.lua",
        old="if not ACTIVE[r[1]] then",
        new="if false then",
        only=("test_an_abort_of_a_finished_run_leaves_no_trace",),
    ),
    M(
        rows=(96,),
        file=_ABORTING,
        old="if record.reason is not intent.reason:",
        new="if False:",
    ),
    M(
        rows=(97,),
        file=_ABORTING,
        old="heard = (is_over and record.owner == intent.owner) or await",
        new="heard = True or await",
    ),
    M(
        rows=(98, 214),
        file=f"{LUA}/stop.lua",
        old="redis.call('HSETNX', record, 'stop_reason', reason) == 1",
        new="redis.call('HSET', record, 'stop_reason', reason) >= 0",
        only=("test_the_first_reason_stands", "test_the_first_reason_to_stop_stands"),
    ),
    M(
        rows=(99, 189),
        file=f"{SHARED}/operations/sweeping.py",
        old="elif record.stop_reason is not None:",
        new="elif False:",
        only=("test_crash_after_the_intent",),
    ),
    M(
        rows=(102,),
        file=f"{SHARED}/operations/ending.py",
        old="if reason is not Reason.COMPLETED:",
        new="if False:",
    ),
    M(
        rows=(103, 143),
        file=_CHANNELS,
        old='elif failure == "" or "equal or smaller" in failure:\n            self.writer.probe(self)',
        new='elif failure == "" or "equal or smaller" in failure:\n            self.landed()',
        only=("test_a_run_that_ended_elsewhere_is_lost",),
    ),
    # -- fencing
    M(
        rows=(141,),
        file=f"{LUA}/start.lua",
        old="append_control(log, 1, '0-0', 'run.created', body)",
        new="redis.call('HSET', record, 'status', 'queued')\nappend_control(log, 1, '0-0', 'run.created', body)",
        only=("test_a_start_that_the_log_refuses_leaves_nothing",),
    ),
    M(
        rows=(142,),
        file=f"{LUA}/snapshot.lua",
        old="if r[1] ~= 'running' or not holds(r[2], r[3], r[4], epoch, owner, control) then",
        new="if r[1] ~= 'running' then",
        only=("test_a_woken_zombies_verbs_are_all_refused",),
    ),
    M(
        rows=(146,),
        file=f"{LUA}/start.lua",
        old="want_replaced(first)\n    superseded = first",
        new="superseded = ''",
        only=("test_a_waiting_replacement_is_replaced_in_its_turn",),
    ),
    M(
        rows=(147,),
        file=f"{SHARED}/eventlog/writing/node_writers.py",
        old="self._probe_all()\n        self._connected(is_connected=True)",
        new="self._connected(is_connected=True)",
        only=("test_an_idle_zombie_notices_at_its_next_connection",),
    ),
    M(
        rows=(148,),
        file=f"{SHARED}/model/cursors.py",
        old="return entry.epoch > cursor.epoch and entry.is_control and prev == cursor",
        new="return False",
    ),
    M(
        rows=(150, 210),
        file=f"{LUA}/start.lua",
        old="if active and if_active == 'reject' then",
        new="if false then",
        only=(
            "test_a_busy_thread_refuses_queues_or_replaces",
            "test_of_starts_that_race_for_a_thread_one_wins",
        ),
    ),
    M(
        rows=(151,),
        file=f"{LUA}/start.lua",
        old="if mine[1] then",
        new="if false then",
    ),
    M(
        rows=(152, 184),
        file=f"{SHARED}/operations/sweeping.py",
        old="state.status is Status.RUNNING and state.owner == owner:",
        new="state.status is Status.RUNNING:",
        only=("test_sweeps_leave_a_run_alone_that_changed_hands",),
    ),
    M(
        rows=(153,),
        file=f"{SHARED}/model/principals.py",
        old="return thing.tenant == self.tenant and (self.is_admin or thing.user_id == self.user_id)",
        new="return thing.tenant == self.tenant",
    ),
    # -- idempotency
    M(
        rows=(154, 155, 160),
        file=f"{LUA}/start.lua",
        old="if seen then",
        new="if false then",
        only=(
            "test_an_idempotency_key_replays_after_the_end_and_for_equal_requests",
            "test_an_idempotency_key_starts_one_run_however_often_and_at_once",
            "test_a_key_starts_once",
        ),
    ),
    M(
        rows=(156,),
        file=f"{LUA}/start.lua",
        old="redis.call('SET', idem, run_id .. ' ' .. digest, 'PX', idem_ttl)",
        new="redis.call('SET', idem, run_id .. ' ' .. digest)",
    ),
    M(
        rows=(157,),
        file=_STARTING,
        old="scope = [principal.tenant, principal.user_id, thread_id, key]",
        new="scope = [principal.tenant, thread_id, key]",
    ),
    M(
        rows=(158,),
        file=f"{LUA}/start.lua",
        old="first == digest and 'replayed' or 'reused'",
        new="'replayed'",
    ),
    M(
        rows=(159, 161),
        file=f"{LUA}/start.lua",
        old="if mine[1] == nonce then",
        new="if false then",
        only=(
            "test_start_is_answered_the_same_whatever_happened_since",
            "test_a_given_run_id_makes_the_start_repeatable",
        ),
    ),
    M(
        rows=(162,),
        file=_STARTING,
        old='_encode("input", stored, runs.INPUT_LIMIT)',
        new="jsontext.dumps(stored)",
    ),
)
