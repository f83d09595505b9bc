"""Breaks rows 224 to 229 of the contract, of callbacks, and 231 to 233: what costs or waits without end."""

from __future__ import annotations

from typing import Final

from mutations.mutation import API, LUA, SHARED, TASKS, Mutation

M = Mutation

MUTATIONS: Final = (
    M(
        rows=(224,),
        file=f"{SHARED}/operations/courier.py",
        old="            else:\n                await self._succeeded(due, kind)",
        new="            finally:\n                await self._succeeded(due, kind)",
        only=("test_what_fails_is_tried_again_under_the_same_id",),
    ),
    M(
        rows=(225,),
        file=f"{LUA}/pause.lua",
        old="if own.pauses then",
        new="if own then",
        only=("test_a_pause_is_told_to_who_asked",),
    ),
    M(
        rows=(226,),
        file=f"{SHARED}/operations/courier.py",
        old="due.attempts.given_up:",
        new="due.attempts.count:",
        only=("test_a_day_of_failures_is_enough",),
    ),
    M(
        rows=(227,),
        file=f"{SHARED}/operations/deleting.py",
        old="        await undelivered_callbacks.drop_of_user(self._store, tenant=tenant, user_id=user_id)\n",
        new="",
        only=("test_with_a_users_data_goes_what_was_to_be_told",),
    ),
    M(
        rows=(228,),
        file=f"{SHARED}/operations/webhooks.py",
        old="            if not self._may_reach(",
        new="            if False and self._may_reach(",
        only=("test_a_connection_goes_to_the_address_that_was_judged",),
    ),
    M(
        rows=(229,),
        file=f"{API}/callbacks.py",
        old="        raise _Seen from error",
        new="        del error",
        only=("test_deliveries_at_the_same_time_count_once",),
    ),
    M(
        rows=(231,),
        file=f"{SHARED}/operations/courier.py",
        old='        ("host", host): AT_ONCE_EACH,\n',
        new="",
        only=("test_receivers_that_hang_hold_up_nobody_else",),
    ),
    M(
        rows=(232,),
        file=f"{SHARED}/model/bounded_schemas.py",
        old="(ValueError, ArithmeticError, RecursionError, jsonschema.SchemaError, Unresolvable)",
        new="(ValueError, SchemaError, Unresolvable)",
        only=("test_a_schema_that_cannot_judge_refuses_nothing",),
    ),
    M(
        rows=(233,),
        file=f"{TASKS}/sdk/pauses.py",
        old="    if not seconds <= LONGEST_S:",
        new="    if seconds > 2 * 10**305:",
        only=("test_no_run_waits_for_ever",),
    ),
)
