"""Breaks rows 234 to 244 of the contract: what engines keep, ask, do once and wait for, and agents of frameworks."""

from __future__ import annotations

from typing import Final

from mutations.mutation import LUA, SHARED, TASKS, Mutation

M = Mutation

MUTATIONS: Final = (
    M(
        rows=(234,),
        file=f"{LUA}/checkpoint.lua",
        old="remember(memory, thread, ARGV, 8, record)\n",
        new="",
        only=("test_wherever_its_worker_dies_memory_and_content_agree",),
    ),
    M(
        rows=(235,),
        file=f"{SHARED}/model/actions.py",
        old="    if question.response_schema is not None:\n        try:",
        new="    if False:\n        try:",
    ),
    M(
        rows=(236,),
        file=f"{LUA}/effect.lua",
        old="if known and replace ~= '1' then",
        new="if false then",
        only=("test_wherever_its_worker_dies_each_effect_is_performed_as_intended",),
    ),
    M(
        rows=(237,),
        file=f"{TASKS}/sdk/agents.py",
        old="self._channel.emit(kind, {**payload, **self._named()})",
        new="self._channel.emit(kind, payload)",
        only=("test_parallel_agents_never_mix",),
    ),
    M(
        rows=(238,),
        file=f"{SHARED}/operations/children.py",
        old="or one.status.is_terminal for one in found",
        new="or True for one in found",
        only=("test_a_parent_fans_out_and_joins",),
    ),
    M(
        rows=(239,),
        file=f"{SHARED}/operations/aborting.py",
        old="                await self._stop_children(run_id, reason)",
        new="                pass",
    ),
    M(
        rows=(240,),
        file=f"{TASKS}/sdk/context.py",
        old="        if wait_id in self.decisions:\n            return",
        new="",
    ),
    M(
        rows=(241,),
        file=f"{SHARED}/operations/waits.py",
        old="    if isinstance(answer, transitions.Paused):\n        await check(operations, spec.run_id)",
        new="",
        only=("test_an_event_may_come_before_its_run_waits",),
    ),
    M(
        rows=(242,),
        file=f"{TASKS}/engines/frameworks/tool_calls.py",
        old="            await self._caller.tool_result(ours, result, failed=failed)",
        new="            pass",
        only=("test_tool_calls_have_their_results",),
    ),
    M(
        rows=(243,),
        file=f"{TASKS}/engines/langgraph/completion.py",
        old="return [*closed, *convert_to_messages(rest)]",
        new="return convert_to_messages(rest)",
        only=("test_an_abort_in_a_tool_leaves_a_valid_history",),
    ),
    M(
        rows=(244,),
        file=f"{TASKS}/engines/langgraph/serving.py",
        old='and reached["metadata"]["step"] > after:',
        new='and reached["metadata"]["step"] > 0:',
        only=("test_a_decision_is_the_runs_until_a_step_has_taken_it",),
    ),
)
