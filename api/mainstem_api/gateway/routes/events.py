"""The event route delivers an external event to the runs that wait for it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Path
from starlette.responses import Response

from mainstem_api.gateway.auth.caller import Caller
from mainstem_api.gateway.routes.runs import Serving, as_json, problem_documents
from mainstem_shared.operations.waits import EventReceipt, EventRequest

router = APIRouter(tags=["runs"])


@router.post(
    "/v1/events/{key}",
    status_code=202,
    response_model=EventReceipt,
    responses=problem_documents(400, 413, 422, 503),
)
async def send_event(
    key: Annotated[str, Path(min_length=1, max_length=255)],
    body: EventRequest,
    gateway: Serving,
    caller: Caller,
    idempotency_key: Annotated[str | None, Header(max_length=128)] = None,
) -> Response:
    """Wake the caller's runs that wait for an event; it is kept for those that ask for it a little later."""
    receipt = await gateway.runs.send_event(
        key,
        body.payload,
        event_id=body.event_id or idempotency_key,
        user_id=caller.user_id,
        tenant=caller.tenant,
    )
    return as_json(receipt, 202)
