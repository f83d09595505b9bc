"""The callback routes list failed callbacks for operators, and deliver them again."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from mainstem_api.gateway.auth.caller import Caller, Operates
from mainstem_api.gateway.routes.runs import Serving, as_json, problem_documents
from mainstem_shared import errors
from mainstem_shared.model.runs import Timestamp, at_ms
from mainstem_shared.operations import undelivered_callbacks
from mainstem_shared.operations.undelivered_callbacks import Undelivered

router = APIRouter(tags=["operations"])


class UndeliveredCallback(BaseModel):
    """A task or a webhook that was not told of an event yet."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    event_id: Annotated[str, Field(description="What receivers see, the same in all attempts.")]
    type: str
    run_id: str
    user_id: str | None
    target: str
    happened_at: Timestamp
    attempts: int
    last_attempt_at: Timestamp | None
    error: Annotated[str | None, Field(description="What came of the last attempt.")]
    given_up: bool
    next_attempt_at: Annotated[Timestamp | None, Field(description="Null once it is given up.")]


class UndeliveredCallbacks(BaseModel):
    """Those of the caller's tenant, the oldest first."""

    callbacks: list[UndeliveredCallback]


class Resent(BaseModel):
    """What is told once more."""

    told: Annotated[int, Field(description="How many targets are told.")]


@router.get("/v1/callbacks", response_model=UndeliveredCallbacks, responses=problem_documents(503))
async def callbacks(gateway: Serving, caller: Caller, *, is_operator: Operates) -> Response:
    """List the callbacks of the tenant's runs that are not delivered: those that wait, and those given up.

    For admins; anybody else has none.
    """
    if not is_operator:
        return as_json(UndeliveredCallbacks(callbacks=[]))
    found = await undelivered_callbacks.find(gateway.store, tenant=caller.tenant)
    shown = sorted(map(_shown, found), key=lambda one: one.happened_at)
    return as_json(UndeliveredCallbacks(callbacks=shown))


@router.post(
    "/v1/runs/{run_id}/callbacks/resend",
    response_model=Resent,
    responses=problem_documents(404, 409, 422, 503),
)
async def resend(run_id: str, gateway: Serving, caller: Caller, *, is_operator: Operates) -> Response:
    """Tell whoever was not told of a run, or all if everybody was, once more. The event's id stays the same.

    For admins; for anybody else there is nothing.
    """
    if not is_operator:
        raise errors.NotFound
    return as_json(
        Resent(told=await undelivered_callbacks.resend(gateway.operations, run_id, tenant=caller.tenant))
    )


def _shown(one: Undelivered) -> UndeliveredCallback:
    last, is_over = one.attempts.last_ms, one.attempts.given_up
    return UndeliveredCallback(
        event_id=one.delivery.event_id,
        type=str(one.event.get("type")),
        run_id=one.delivery.run_id,
        user_id=None if one.spec is None else one.spec.user_id,
        target=one.target,
        happened_at=at_ms(int(one.event.get("at", 0))),
        attempts=one.attempts.count,
        last_attempt_at=None if last is None else at_ms(last),
        error=one.attempts.error,
        given_up=is_over,
        next_attempt_at=None if is_over else at_ms(one.due_ms),
    )
