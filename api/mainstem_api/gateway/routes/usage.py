"""The usage route returns what provider calls cost, by day: the caller's, a user's, the tenant's."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.responses import Response

from mainstem_api.gateway.auth.caller import Caller, Operates
from mainstem_api.gateway.routes.runs import Serving, as_json, problem_documents
from mainstem_shared.model.usage import decimal_text
from mainstem_shared.operations import spending, usage_days

router = APIRouter(tags=["operations"])

LONGEST: int = 366
"""Days that one answer has at most. Older ones than 40 days are in the archive alone, if there is one."""


class ModelUsageOfDay(BaseModel):
    """What one model's calls cost on a day."""

    model: Annotated[str, Field(description="`provider/model`.")]
    calls: int
    tokens: int
    cost_usd: Annotated[str, Field(description="A decimal, without the calls whose cost is unknown.")]
    unpriced_calls: int


class UsageOfDay(BaseModel):
    """What provider calls cost on a day (UTC)."""

    day: str
    calls: int
    tokens: int
    input_tokens: int
    output_tokens: int
    cost_usd: Annotated[str, Field(description="A decimal, without the calls whose cost is unknown.")]
    unpriced_calls: Annotated[int, Field(description="Calls whose cost is unknown: no price for the model.")]
    estimated_calls: Annotated[int, Field(description="Calls that broke off before the provider counted.")]
    reserved_usd: Annotated[str, Field(description="The most that calls under way may cost.")]
    reserved_tokens: int
    models: list[ModelUsageOfDay]


class UsageByDay(BaseModel):
    """Days, newest first."""

    days: list[UsageOfDay]


@router.get("/v1/usage", response_model=UsageByDay, responses=problem_documents(422, 503))
async def usage(
    *,
    gateway: Serving,
    caller: Caller,
    is_operator: Operates,
    user: str | None = None,
    days: Annotated[int, Query(ge=1, le=LONGEST)] = 1,
) -> Response:
    """Say what the caller's provider calls cost, by day.

    An admin may name another `user` of their tenant, or `*` for everybody. For anybody else those have none.
    """
    whose = caller.user_id if user is None else user
    if whose != caller.user_id and not is_operator:
        return as_json(UsageByDay(days=[]))
    user_id = None if whose == "*" and is_operator else whose
    found = await usage_days.by_day(gateway.store, tenant=caller.tenant, user_id=user_id, days=days)
    return as_json(UsageByDay(days=[_shown(day) for day in found]))


def _shown(day: spending.DaySpending) -> UsageOfDay:
    return UsageOfDay(
        day=day.day,
        calls=day.calls,
        tokens=day.tokens,
        input_tokens=day.input_tokens,
        output_tokens=day.output_tokens,
        cost_usd=decimal_text(day.cost_usd),
        unpriced_calls=day.unpriced_calls,
        estimated_calls=day.estimated_calls,
        reserved_usd=decimal_text(day.reserved_usd),
        reserved_tokens=day.reserved_tokens,
        models=[
            ModelUsageOfDay(
                model=model.model,
                calls=model.calls,
                tokens=model.tokens,
                cost_usd=decimal_text(model.cost_usd),
                unpriced_calls=model.unpriced_calls,
            )
            for model in day.models
        ],
    )
