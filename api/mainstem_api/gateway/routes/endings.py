"""The ending routes abort a run and delete a thread."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel
from starlette.responses import Response

from mainstem_api.gateway.auth.caller import Caller
from mainstem_api.gateway.routes.runs import Serving, as_json, problem_documents
from mainstem_shared.model.runs import Run, Status, ThreadId
from mainstem_shared.operations.aborting import AbortOutcome

router = APIRouter(tags=["runs"])

Wait = Annotated[float, Query(ge=0, le=30, description="Seconds to wait for the run's end.")]


class AbortReply(BaseModel):
    """What an abort reached: the run as of now, and from which status it was won."""

    run: Run
    outcome: AbortOutcome
    won_from: Status | None
    signal_delivered: bool


@router.post(
    "/v1/runs/{run_id}/abort",
    response_model=AbortReply,
    responses={
        202: {"description": "The run will end; it has not within `wait`", "model": AbortReply},
        **problem_documents(404, 422, 503),
    },
)
async def abort_run(run_id: str, gateway: Serving, caller: Caller, wait: Wait = 0.0) -> Response:
    """Stop a run, whatever it is doing. What it has produced is kept, and returned."""
    reached = await gateway.runs.abort(run_id, wait=wait, user_id=caller.sees, tenant=caller.tenant)
    reply = AbortReply.model_construct(
        run=reached.run,
        outcome=reached.outcome,
        won_from=reached.won_from,
        signal_delivered=reached.signal_delivered,
    )
    return as_json(reply, 202 if reached.outcome is AbortOutcome.PENDING else 200)


@router.delete("/v1/threads/{thread_id}", status_code=204, responses=problem_documents(404, 422, 503))
async def delete_thread(thread_id: ThreadId, gateway: Serving, caller: Caller) -> Response:
    """Abort what is active on a thread, and remove all its runs, for good."""
    await gateway.runs.delete_thread(thread_id, user_id=caller.user_id, tenant=caller.tenant)
    return Response(status_code=204)
