"""Breaks rows 164 to 223 of the contract: usage, clocks, steering, sweeping, lifetimes, users, versions, runs."""

from __future__ import annotations

from typing import Final

from mutations.mutation import API, LUA, SHARED, TASKS, WORKERS, Mutation

M = Mutation
_CONTENTS: Final = f"{SHARED}/model/contents.py"
_CONTEXT: Final = f"{TASKS}/sdk/emitter.py"
_USAGE: Final = f"{SHARED}/model/usage.py"
_SEGMENTS: Final = f"{TASKS}/execution/segments.py"
_STATES: Final = f"{SHARED}/eventlog/reading/run_states.py"
_SWEEPING: Final = f"{SHARED}/operations/sweeping.py"

MUTATIONS: Final = (
    M(
        rows=(164,),
        file=_USAGE,
        old="before.get(name, 0) + getattr(call, name)",
        new="getattr(call, name)",
    ),
    M(
        rows=(165,),
        file=_CONTENTS,
        old="self.usage = usage.folded(self.usage, data)\n",
        new="self.usage = None\n",
    ),
    M(rows=(166,), file=_CONTENTS, old='self.extra["context_usage"] = data', new="pass"),
    M(
        rows=(167,),
        file=_USAGE,
        old='{"total_tokens": call.input_tokens + call.output_tokens}',
        new='{"total_tokens": 2 * (call.input_tokens + call.output_tokens)}',
    ),
    M(
        rows=(168,),
        file=f"{LUA}/checkpoint.lua",
        old="if r[1] ~= 'running' or not holds(r[2], r[3], r[4], epoch, owner, control) then",
        new="if r[1] ~= 'running' then",
        only=("test_a_woken_zombies_verbs_are_all_refused",),
    ),
    # -- budgets
    M(
        rows=(219,),
        file=f"{LUA}/reserve.lua",
        old="all_tokens + tonumber(tokens) > tonumber(limit_tokens)",
        new="all_tokens > tonumber(limit_tokens)",
        only=(
            "test_a_run_ends_before_the_call_that_its_budget_has_no_room_for",
            "test_a_budget_is_used_up_to_the_last_token_and_no_further",
        ),
    ),
    M(
        rows=(220,),
        file=f"{SHARED}/operations/ending.py",
        old="        await _settle_calls(operations, state)\n",
        new="",
    ),
    M(
        rows=(221,),
        file=_USAGE,
        old="    if more is None or (before is None and not first):\n        return None\n",
        new='    more = more or "0"\n',
    ),
    # -- clocks and lost repairs
    M(
        rows=(222,),
        file=f"{SHARED}/model/time.py",
        old="known if earliest <= known <= latest else told - (asked_ns + here) // 2",
        new="known",
    ),
    M(
        rows=(223,),
        file=f"{SHARED}/eventlog/writing/channels.py",
        old="self._former.insert(0, self.control)",
        new="pass",
    ),
    M(
        rows=(230,),
        file=f"{TASKS}/execution/owner_transitions.py",
        old="if not _is_refused(answer):",
        new="if True:",
    ),
    # -- steering
    M(
        rows=(169,),
        file=f"{LUA}/steer.lua",
        old="if not ACTIVE[status] or r[3] then",
        new="if false then",
    ),
    M(
        rows=(170,),
        file=f"{LUA}/inbox.lua",
        old="if r[1] ~= 'running' or not holds(r[2], r[3], r[5], epoch, owner, control) then",
        new="if false then",
    ),
    M(
        rows=(101, 172, 173, 174, 187),
        file=f"{LUA}/finish.lua",
        old="if #unread > 0 then",
        new="if false then",
        only=("test_the_end_hands_back_what_nobody_read", "test_what_nobody_read_is_handed_back"),
    ),
    M(
        rows=(176,),
        file=f"{LUA}/steer.lua",
        old="if r[6] then",
        new="if false then",
        only=("test_the_same_input_is_said_once",),
    ),
    M(
        rows=(177,),
        file=f"{TASKS}/sdk/inboxes.py",
        old="self._channel.emit(Type.INPUT_ACCEPTED, said)\n        self._waiting.popleft()",
        new="self._waiting.popleft()\n        self._channel.emit(Type.INPUT_ACCEPTED, said)",
        only=("test_an_input_that_the_log_does_not_take_is_not_read",),
    ),
    M(
        rows=(178,),
        file=_STATES,
        old="waiting = map(jsontext.loads, state.inputs[len(read) :])",
        new="waiting = list[dict[str, Any]]()",
    ),
    M(
        rows=(179,),
        file=_CONTENTS,
        old='self.inputs.append({**data, "part": len(self.parts)})',
        new='self.inputs.append({**data, "part": 0})',
    ),
    # -- sweeping
    M(
        rows=(182,),
        file=_SEGMENTS,
        old="silent_s=0.0 if at_work or not channel.idle else self.silence_s(),",
        new="silent_s=0.0 if at_work or not channel.idle else clocks.now() - self._begun,",
        only=("test_an_engine_that_speaks_now_and_then_is_not_silent",),
    ),
    M(
        rows=(183,),
        file=_SEGMENTS,
        old="silent_s=0.0 if at_work or not channel.idle else self.silence_s(),",
        new="silent_s=0.0,",
        only=("test_a_provider_that_hangs_is_the_idle_timeouts_business",),
    ),
    M(
        rows=(186,),
        file=_SWEEPING,
        old="UNREADABLE: Final = (ValueError, KeyError)",
        new="UNREADABLE: Final = ()",
    ),
    # -- lifetimes
    M(
        rows=(190,),
        file=_SWEEPING,
        old="await transitions.compact_all(self._store, run_ids, keep_due=archived)",
        new="pass",
        only=("test_deltas_are_dropped_when_they_are_due",),
    ),
    M(
        rows=(191,),
        file=f"{LUA}/_prelude.lua",
        old="if redis.call('PTTL', key) < tonumber(ttl) then",
        new="if true then",
    ),
    M(
        rows=(192,),
        file=f"{SHARED}/settings.py",
        old="self.max_queue_s + self.approval_window_s + 3600",
        new="self.max_queue_s + 3600",
        only=("test_live_keys_outlive_the_longest_run",),
    ),
    M(rows=(193,), file=f"{SHARED}/settings.py", old="retention_s: Seconds", new="retention_s: float"),
    # -- users and tenants
    M(
        rows=(196,),
        file=f"{SHARED}/operations/queries/listings.py",
        old="gone.append(entry)",
        new="pass",
        only=("test_lists_drop_entries_of_runs_that_are_gone_but_not_of_starts_under_way",),
    ),
    M(
        rows=(197,),
        file=_STATES,
        old="if found.tenant != tenant or (user_id is not None and found.user_id != user_id):",
        new="if user_id is not None and found.user_id != user_id:",
    ),
    M(
        rows=(198,),
        file=f"{SHARED}/operations/indexes.py",
        old='("PEXPIRE", mine, ttl_ms, "GT"),',
        new="",
        only=("test_a_start_lengthens_the_life_of_its_users_list",),
    ),
    M(
        rows=(199,),
        file=f"{SHARED}/operations/deleting.py",
        old="await self._delete(found, owner=(tenant, user_id))\n            count",
        new="count",
    ),
    M(
        rows=(201,),
        file=f"{SHARED}/store/keys.py",
        old='thread_runs=f"{thread}:runs"',
        new='thread_runs=f"{PREFIX}:{{elsewhere}}:runs"',
        only=("test_verbs_touch_only_keys_of_their_slot",),
    ),
    # -- versions
    M(
        rows=(204,),
        file=f"{LUA}/claim.lua",
        old="if tonumber(r[10] or '1') > tonumber(understood) then",
        new="if false then",
    ),
    M(
        rows=(205,),
        file=f"{SHARED}/model/runs.py",
        old="if version > RECORD_VERSION:",
        new="if False:",
        only=("test_this_version_does_not_end_what_it_does_not_understand",),
    ),
    M(
        rows=(206,),
        file=_CONTENTS,
        old="elif handler := self._HANDLERS.get(kind):",
        new="elif handler := self._HANDLERS[kind]:",
        only=("test_unknown_events_and_parts_change_nothing",),
    ),
    M(
        rows=(207,),
        file=_STATES,
        old="reason=record.reason,",
        new="reason=None,",
    ),
    # -- the run as an object
    M(
        rows=(209,),
        file=f"{API}/cli/run.py",
        old='raise typer.Exit(follow(gateway, started["run_id"], after=None, as_json=as_json, url_option=url))',
        new="try:\n"
        '            code = follow(gateway, started["run_id"], after=None, as_json=as_json, url_option=url)\n'
        "        finally:\n"
        '            gateway.abort(started["run_id"], wait_s=5)\n'
        "        raise typer.Exit(code)",
    ),
    M(
        rows=(211,),
        file=f"{SHARED}/model/runs.py",
        old="return Status.ABORTED if self in _ABORTS else Status.FAILED",
        new="return Status.FAILED",
        only=("test_every_reason_has_its_status",),
    ),
    M(
        rows=(31,),
        file=f"{TASKS}/execution/segment_metrics.py",
        old="if self._saw_content or not channel.first_emit:",
        new="if True:",
    ),
    M(
        rows=(203,),
        file=f"{SHARED}/operations/census.py",
        old="self._since(since, is_unpublished=is_unpublished)",
        new="pass",
        only=("test_the_census_counts_the_whole_store",),
    ),
    M(
        rows=(213,),
        file=_SWEEPING,
        old="except Exception:\n                self._failed()",
        new="except KeyboardInterrupt:\n                self._failed()",
        only=("test_a_sweep_that_meets_nonsense_is_not_the_last",),
    ),
    M(
        rows=(215,),
        file=_CONTEXT,
        old='await self._emit(Type.STEP_COMPLETED, _completed(step_id, "completed", None))',
        new="pass",
        only=("test_a_step_ends_as_its_block_ends",),
    ),
    M(
        rows=(216,),
        file=f"{SHARED}/operations/queries/listings.py",
        old="and (self.active is None or (status not in TERMINAL) is self.active)",
        new="",
        only=("test_the_active_and_the_latest_run_of_a_thread_can_be_asked_for",),
    ),
    M(
        rows=(217,),
        file=f"{TASKS}/tasks.py",
        old="trigger=outbox.CELERY,",
        new='trigger="user",',
        only=("test_celery_alone_can_submit",),
    ),
    M(
        rows=(218,),
        file=f"{WORKERS}/configuration_checks.py",
        old="if task.acks_late:",
        new="if False:",
        only=("test_settings_that_break_a_guarantee_are_named",),
    ),
)
