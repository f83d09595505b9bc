"""The approval routes decide what a run waits for, and send text to one at work."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from mainstem_api.gateway.auth.caller import Caller
from mainstem_api.gateway.routes.runs import Serving, as_json, problem_documents
from mainstem_shared.model.actions import ResumeRequest
from mainstem_shared.model.runs import Run
from mainstem_shared.operations.steering import InputRequest, Receipt

router = APIRouter(tags=["runs"])


@router.post(
    "/v1/runs/{run_id}/resume",
    status_code=202,
    response_model=Run,
    responses=problem_documents(400, 403, 404, 409, 410, 413, 422, 429, 503),
)
async def resume_run(run_id: str, body: ResumeRequest, gateway: Serving, caller: Caller) -> Response:
    """Decide about what a paused run waits for: every call or question. The first decision stands."""
    decisions = None if body.decisions is None else [decision.model_dump() for decision in body.decisions]
    answers = None if body.answers is None else [answer.given() for answer in body.answers]
    run = await gateway.runs.resume(
        run_id,
        body.action_id,
        decisions=decisions,
        answers=answers,
        user_id=caller.user_id,
        tenant=caller.tenant,
    )
    return as_json(run, 202)


@router.post(
    "/v1/runs/{run_id}/input",
    status_code=202,
    response_model=Receipt,
    responses=problem_documents(404, 409, 413, 422, 503),
)
async def send_input(run_id: str, body: InputRequest, gateway: Serving, caller: Caller) -> Response:
    """Say something to a run while it is at work. What its engine does not read is handed back at the end."""
    receipt = await gateway.runs.send_input(
        run_id, body.text, input_id=body.input_id, user_id=caller.user_id, tenant=caller.tenant
    )
    return as_json(receipt, 202)
