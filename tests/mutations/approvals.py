"""Breaks rows 104 to 139 of the contract: approvals."""

from __future__ import annotations

from typing import Final

from mutations.mutation import LUA, SHARED, TASKS, Mutation

M = Mutation
_ACTIONS: Final = f"{SHARED}/model/actions.py"
_RESUMING: Final = f"{SHARED}/operations/resuming.py"
_POLICIES: Final = f"{TASKS}/sdk/policies.py"
_PAUSED: Final = "test_a_paused_run_is_its_record"

MUTATIONS: Final = (
    M(
        rows=(104, 117),
        file=f"{LUA}/pause.lua",
        old="if r[1] ~= 'running' or not holds(r[2], r[3], r[4], epoch, owner, control) then",
        new="if false then",
        only=("test_only_the_owner_pauses_and_checkpoints",),
    ),
    M(
        rows=(105,),
        file=f"{SHARED}/model/contents.py",
        old="del data\n        self.action = None",
        new="del data",
        only=("test_a_pause_is_shown_once_to_whoever_comes",),
    ),
    M(
        rows=(106,),
        file=f"{LUA}/resolve.lua",
        old="if r[4] then",
        new="if false then",
        only=("test_of_differing_resumes_one_wins",),
    ),
    M(
        rows=(107,),
        file=f"{LUA}/resolve.lua",
        old="if r[5] ~= action_id or r[8] ~= fingerprint then",
        new="if false then",
        only=("test_what_a_resolve_is_refused_for",),
    ),
    M(
        rows=(108,),
        file=_RESUMING,
        old='run_id = seen.spec.run_id\n    logger.info(\n        "an action expired"',
        new='run_id = seen.spec.run_id\n    return\n    logger.info(\n        "an action expired"',
    ),
    M(
        rows=(109,),
        file=f"{SHARED}/operations/sweeping.py",
        old="if now >= expires_ms:",
        new="if False:",
        only=("test_an_expired_action_is_gone", "test_followers_are_told_of_an_expiry_within_the_sweep"),
    ),
    M(
        rows=(110, 195),
        file=f"{SHARED}/operations/queries/listings.py",
        old="(status not in TERMINAL) is self.active",
        new='(status in {"queued", "running"}) is self.active',
        only=("test_a_paused_run_is_active_until_its_window_is_over",),
    ),
    M(
        rows=(111,),
        file=f"{LUA}/pause.lua",
        old="for _, key in ipairs({ thread, runs, queue }) do",
        new="for _, key in ipairs({}) do",
    ),
    M(
        rows=(112,),
        file=f"{LUA}/resolve.lua",
        old="for _, key in ipairs({ record, log, snapshot, checkpoint }) do",
        new="for _, key in ipairs({}) do",
        only=("test_a_resume_lengthens_the_life_of_all_that_goes_on",),
    ),
    M(
        rows=(113,),
        file=f"{TASKS}/sdk/context.py",
        old="window_s = self.settings.approval_window_s if window_s is None else window_s\n"
        "        await self._wait_for_human(\n            pauses.pause_for_approval",
        new="window_s = 86_400 if window_s is None else window_s\n"
        "        await self._wait_for_human(\n            pauses.pause_for_approval",
    ),
    M(
        rows=(114, 123),
        file=_RESUMING,
        old="expected_epoch=seen.epoch,",
        new="expected_epoch=None,",
        only=("test_a_stale_sweep_cannot_hit_a_newer_action",),
    ),
    M(
        rows=(115,),
        file=f"{LUA}/pause.lua",
        old="'action', action, 'fingerprint', fingerprint",
        new="'action', '{}', 'fingerprint', fingerprint",
        only=(_PAUSED,),
    ),
    M(
        rows=(116,),
        file=f"{LUA}/pause.lua",
        old="redis.call('HSET', checkpoint, 'state', bytes)",
        new="",
        only=(_PAUSED,),
    ),
    M(rows=(118,), file=_ACTIONS, old='exclude={"arguments_schema"}', new="exclude=set()"),
    M(
        rows=(119,),
        file=_POLICIES,
        old="layer is not None and layer.enabled",
        new="layer is not None",
    ),
    M(
        rows=(120,),
        file=_POLICIES,
        old="fnmatchcase(tool, pattern) for pattern in patterns",
        new="tool == pattern for pattern in patterns",
    ),
    M(
        rows=(121,),
        file=_POLICIES,
        old="mine if allowed is None else allowed & mine",
        new="mine if allowed is None else allowed | mine",
    ),
    M(
        rows=(122,),
        file=_ACTIONS,
        old="[call.public() for call in self.calls]",
        new="[call.public() for call in self.calls[::-1]]",
    ),
    M(
        rows=(124,),
        file=_ACTIONS,
        old="if len(given) != len(decisions) or not set(given) <= known:",
        new="if False:",
        only=("test_what_does_not_fit_is_refused_with_its_code",),
    ),
    M(
        rows=(125,),
        file=_ACTIONS,
        old="if given.type not in call.allowed_decisions:",
        new="if False:",
        only=("test_a_call_may_forbid_a_decision", "test_every_step_of_the_guard_ladder_has_its_code"),
    ),
    M(
        rows=(126,),
        file=_RESUMING,
        old="if first != mine:",
        new="if False:",
        only=("test_every_step_of_the_guard_ladder_has_its_code",),
    ),
    M(
        rows=(127,),
        file=_RESUMING,
        old="await operations.indexes.release_slot(seen.spec)",
        new="pass",
        only=("test_a_resume_that_comes_to_nothing_gives_its_slot_back",),
    ),
    M(
        rows=(128,),
        file=f"{LUA}/resolve.lua",
        old="'status', 'queued', 'waiting', 'worker'",
        new="'status', 'queued', 'waiting', 'thread'",
        only=("test_no_broker_delays_a_continuation_only",),
    ),
    M(
        rows=(129, 133),
        file=f"{TASKS}/execution/segments.py",
        old="(Content(), None) if self._claimed.segment == 1 else",
        new="(Content(), None) if True else",
        only=(
            "test_a_paused_run_survives_everything_and_goes_on_elsewhere",
            "test_a_pause_survives_the_restart_of_everything",
        ),
    ),
    M(
        rows=(100, 130),
        file=f"{LUA}/resolve.lua",
        old="if r[7] then",
        new="if false then",
        only=("test_what_a_resolve_is_refused_for",),
    ),
    M(
        rows=(131, 132),
        file=_ACTIONS,
        old='extra="forbid", frozen=True',
        new='extra="ignore", frozen=True',
    ),
    M(rows=(134,), file=_ACTIONS, old="QUESTIONS_LIMIT: Final = 4\n", new="QUESTIONS_LIMIT: Final = 40\n"),
    M(
        rows=(135,),
        file=_ACTIONS,
        old="for action in resolved for decision",
        new="for action in resolved[-1:] for decision",
        only=("test_later_decisions_join_earlier_ones",),
    ),
    M(
        rows=(136,),
        file=_RESUMING,
        old="guards.check_resume(operations.settings.input_guards, request, seen.spec)",
        new="pass",
        only=("test_a_deployments_guard_is_asked_about_each_start_and_resume",),
    ),
    M(
        rows=(137,),
        file=f"{TASKS}/sdk/sync_context.py",
        old="self._call(self._run.ask(questions, state=state, window_s=window_s, on_expiry=on_expiry))",
        new="pass",
        only=("test_a_plain_engine_pauses_like_any_other",),
    ),
    M(
        rows=(138,),
        file=f"{SHARED}/operations/starting.py",
        old="guards.check(operations.settings.input_guards, Said(kind=Kind.INPUT, value=request.input, spec=spec))",
        new="pass",
        only=("test_a_deployments_guard_is_asked_about_each_start_and_resume",),
    ),
    M(
        rows=(139,),
        file=f"{LUA}/finish.lua",
        old="redis.call('DEL', snapshot, checkpoint)",
        new="redis.call('DEL', snapshot)",
    ),
)
