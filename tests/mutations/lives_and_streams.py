"""Breaks chapters 1 and 2 of the contract: a run's life; streaming and order."""

from __future__ import annotations

from typing import Final

from mutations.mutation import API, LUA, SHARED, TASKS, WORKERS, Mutation

M = Mutation
_CHANNELS: Final = f"{SHARED}/eventlog/writing/channels.py"
_STARTING: Final = f"{SHARED}/operations/starting.py"
_SWEEPING: Final = f"{SHARED}/operations/sweeping.py"
_SUBSCRIPTIONS: Final = f"{SHARED}/eventlog/reading/subscriptions.py"
_TAIL: Final = f"{SHARED}/eventlog/reading/tail_connections.py"

MUTATIONS: Final = (
    M(rows=(1,), file=_STARTING, old="user_id=principal.user_id,", new='user_id="somebody",'),
    M(
        rows=(2,),
        file=f"{TASKS}/testing/engine_runs.py",
        old='self._append(kind, {"part": part, "text": text})',
        new='self._append(kind, {"part": part, "text": text.strip()})',
    ),
    M(
        rows=(3,),
        file=f"{API}/stack/_stack.py",
        old="return self._settings.redis_url is None or self._settings.broker_url is None",
        new="return True",
        only=("test_with_addresses_given_no_server_is_started",),
    ),
    M(
        rows=(4,),
        file=f"{SHARED}/eventlog/reading/run_states.py",
        old="if isinstance(state, transitions.Gone):\n        raise errors.NotFound\n    try:",
        new='if isinstance(state, transitions.Gone) or state.status == "queued":\n        raise errors.NotFound\n    try:',
    ),
    M(
        rows=(5, 67),
        file=f"{SHARED}/eventlog/reading/tailer.py",
        old="Subscription(self.store, followed, after or cursors.START)",
        new="Subscription(\n"
        "            self.store,\n"
        "            followed,\n"
        "            Cursor(1, 0) if followed.subscriptions else after or cursors.START,\n"
        "        )",
    ),
    M(
        rows=(6,),
        file=f"{LUA}/claim.lua",
        old="if r[5] then",
        new="if false then",
        only=("test_a_run_that_was_asked_to_stop_is_not_started",),
    ),
    M(
        rows=(7,),
        file=f"{SHARED}/coordination/outbox.py",
        old="except errors.Unavailable as error:",
        new="except errors.NotFound as error:",
    ),
    M(
        rows=(8, 149),
        file=f"{SHARED}/store/keys.py",
        old='record=f"{own}:record"',
        new='record=f"{slot}:record"',
    ),
    M(
        rows=(9,),
        file=f"{LUA}/start.lua",
        old="#!lua\n",
        new="#!lua flags=allow-oom\n",
    ),
    M(
        rows=(10, 144),
        file=_CHANNELS,
        old='b"*6\\r\\n" + xadd + _NOMKSTREAM',
        new='b"*5\\r\\n" + xadd',
        only=("test_a_deleted_run_is_lost_and_not_resurrected",),
    ),
    M(
        rows=(11,),
        file=f"{LUA}/forget.lua",
        old="redis.call('DEL', record, log, snapshot, checkpoint)",
        new="redis.call('DEL', record, snapshot, checkpoint)",
    ),
    M(
        rows=(12, 188),
        file=f"{LUA}/finish.lua",
        old="redis.call('PEXPIRE', log, retention)\n",
        new="",
        only=("test_keys_live_as_long_as_they_must",),
    ),
    M(
        rows=(13, 79),
        file=f"{SHARED}/transitions/lifecycle.py",
        old="failure = error.model_dump() if error else None",
        new="failure = None",
    ),
    M(
        rows=(14, 23),
        file=f"{LUA}/finish.lua",
        old="if not ACTIVE[r[1]] then",
        new="if false then",
        only=("test_finishing_twice_returns_the_first_outcome",),
    ),
    M(
        rows=(15,),
        file=f"{LUA}/finish.lua",
        old="if not holds(r[2], r[3], r[4], epoch, owner, control) then",
        new="if false then",
        only=("test_an_owner_that_meets_a_pause_or_no_run_just_lets_go",),
    ),
    M(
        rows=(16,),
        file=f"{LUA}/finish.lua",
        old="if r[4] == nonce then",
        new="if false then",
        only=("test_a_verb_answers_the_same_caller_the_same",),
    ),
    M(
        rows=(17,),
        file=f"{SHARED}/transitions/lifecycle.py",
        old='"at": now, **state}',
        new='"at": now}',
    ),
    M(
        rows=(18, 185),
        file=_SWEEPING,
        old="await self._indexes.not_there(run_id)\n        elif",
        new="pass\n        elif",
        only=("test_an_end_that_did_not_reach_the_indexes_is_tidied",),
    ),
    M(
        rows=(19,),
        file=_STARTING,
        old='_encode("metadata", request.metadata, runs.METADATA_LIMIT)',
        new="jsontext.dumps(request.metadata)",
    ),
    M(
        rows=(20,),
        file=f"{LUA}/start.lua",
        old="redis.call('ZADD', recent, now, run_id)",
        new="",
    ),
    M(
        rows=(21,),
        file=f"{WORKERS}/pool/shutdown.py",
        old="job.cancel(CancelCause.SHUTDOWN)",
        new="pass",
        only=("test_sigterm_waits_for_short_runs_and_ends_long_ones",),
    ),
    M(
        rows=(22,),
        file=f"{WORKERS}/pool/jobs.py",
        old="revoked = self.cancellation.cause is CancelCause.REVOKED",
        new="revoked = True",
        only=("test_waiting_tasks_go_back",),
    ),
    M(
        rows=(24,),
        file=f"{SHARED}/settings.py",
        old="frozen=True",
        new="frozen=False",
    ),
    M(
        rows=(25,),
        file=_TAIL,
        old="except (\n            Exception\n        ) as error:",
        new="except KeyboardInterrupt as error:",
        only=("test_a_reader_that_breaks_harms_no_other_run",),
    ),
    M(
        rows=(26,),
        file=f"{API}/client/async_runs.py",
        old="pass\n            return await self.get(run_id, user_id=user_id, tenant=tenant)",
        new="pass\n            return run",
        only=("test_wait_returns_the_finished_run_or_says_that_it_is_not",),
    ),
    M(
        rows=(28,),
        file=f"{TASKS}/execution/segments.py",
        old="engine = registry.get(spec.engine)\n",
        new="engine = registry.get(spec.engine)\n"
        '        channel.emit("custom", {"name": "input", "data": claimed.input})\n',
    ),
    M(
        rows=(30,),
        file=f"{WORKERS}/installation.py",
        old='if version.split(".")[:2] != release.split("."):',
        new="if False:",
    ),
    # -- 2 Streaming and order
    M(
        rows=(32,),
        file=_CHANNELS,
        old="and kind is merging.kind and text:",
        new="and text:",
        only=("test_deltas_of_different_parts_are_never_one_event",),
    ),
    M(
        rows=(33,),
        file=f"{SHARED}/eventlog/writing/writer.py",
        old="channel = Channel(writer, control, fold or Content())",
        new='channel = Channel(writer, control, fold or globals().setdefault("_FOLD", Content()))',
        only=("test_many_runs_write_at_once_and_each_log_is_its_own",),
    ),
    M(
        rows=(34,),
        file=f"{SHARED}/eventlog/reading/frames.py",
        old="self.cursor = entry.cursor",
        new="self.cursor = Cursor(entry.cursor.epoch, 0)",
    ),
    M(
        rows=(35,),
        file=f"{SHARED}/model/cursors.py",
        old="return entry.seq == cursor.seq + 1",
        new="return entry.seq > cursor.seq",
    ),
    M(
        rows=(36,),
        file=f"{SHARED}/eventlog/reading/frames.py",
        old='head = b"id: %d-%d\\nevent: %s\\ndata: " % (*entry.cursor, entry.type.encode())',
        new='head = b"event: %s\\ndata: " % entry.type.encode()',
    ),
    M(
        rows=(37,),
        file=f"{LUA}/finish.lua",
        old="if top ~= expected_top then",
        new="if false then",
    ),
    M(
        rows=(38, 212),
        file=f"{TASKS}/execution/segments.py",
        old='logger.error("RUN NOT FINISHED", extra=noted, exc_info=error)',
        new="del noted",
        only=("test_an_end_that_cannot_be_written_is_said_and_stays_recoverable",),
    ),
    M(
        rows=(39, 78, 82),
        file=_SUBSCRIPTIONS,
        old="else:\n            await self._catch_up()\n        if self.end",
        new="else:\n            await self._read_state()\n        if self.end",
        only=("test_what_nobody_followed_is_there_for_whoever_comes",),
    ),
    M(
        rows=(40,),
        file=f"{SHARED}/eventlog/reading/tailer.py",
        old="followed = self._followed.get(run_id)",
        new="followed = None",
    ),
    M(
        rows=(41,),
        file=f"{SHARED}/eventlog/reading/frames.py",
        old="payload = without_line_breaks(events.presented(entry.type, entry.data))",
        new='payload = without_line_breaks(events.presented(entry.type, entry.data)).replace(b"[]", b"{}")',
    ),
    M(rows=(42,), file=_CHANNELS, old="if items == 1:", new="if items == 0:"),
    M(
        rows=(43,),
        file=f"{LUA}/pause.lua",
        old="for _, key in ipairs({ record, log, snapshot, checkpoint }) do",
        new="for _, key in ipairs({ record, snapshot, checkpoint }) do",
        only=("test_a_long_window_keeps_everything_alive",),
    ),
    M(
        rows=(44, 140),
        file=f"{LUA}/_prelude.lua",
        old="math.max(tonumber(record_epoch), epoch_of(top)) + 1",
        new="tonumber(record_epoch) + 1",
        only=("test_an_epoch_is_above_the_record_and_the_log",),
    ),
    M(
        rows=(45,),
        file=_CHANNELS,
        old="if self._acknowledged < self._enqueued or self.phase in _UNCERTAIN:",
        new="if False:",
        only=("test_a_flush_is_a_barrier_for_others_too",),
    ),
    M(
        rows=(46,),
        file=_CHANNELS,
        old="if self.phase is _LOST:\n            raise errors.Fenced(run_id=self.control.run_id)\n        if self._closed",
        new="if self._closed",
    ),
    M(
        rows=(47,),
        file=f"{LUA}/start.lua",
        old="append_control(log, 1, '0-0', 'run.created', body)",
        new="append_control(log, 1, '0-0', 'run.queued', body)",
        only=("test_start_creates_a_queued_run_with_its_first_entry",),
    ),
    M(
        rows=(48,),
        file=_CHANNELS,
        old="if merging is not None and kind is merging.kind and text:",
        new="if False:",
    ),
    M(
        rows=(49,),
        file=_CHANNELS,
        old="self._pending.append(Event(",
        new="self._pending.appendleft(Event(",
        only=("test_whatever_is_merged_the_log_is_what_the_engine_said",),
    ),
    M(
        rows=(50,),
        file=_CHANNELS,
        old="while pending and size < GROUP_LIMIT:",
        new="while pending:",
        only=("test_a_group_is_bounded_and_one_large_event_still_fits",),
    ),
    M(
        rows=(51,),
        file=_TAIL,
        old="self.remove(followed)\n            followed.fail(error)",
        new="for each in list(self.followed_runs.values()):\n                each.fail(error)",
    ),
    M(
        rows=(52,),
        file=f"{TASKS}/execution/segments.py",
        old="deadline = deadline or time.monotonic() + CLEANUP_S",
        new="deadline = deadline or time.monotonic() - CLEANUP_S",
    ),
    M(
        rows=(53,),
        file=f"{TASKS}/sdk/emitter.py",
        old='await self._emit(Type.CUSTOM, {"name": name, "data": data})',
        new='await self._emit(Type.TITLE, {"title": name})',
        only=("test_what_is_about_the_run",),
    ),
    M(
        rows=(54,),
        file=f"{SHARED}/store/client.py",
        old='except NoScriptError:\n            return (await node.send([("EVAL"',
        new='except KeyError:\n            return (await node.send([("EVAL"',
    ),
)
