"""The detail route returns one run's history, for its page (`/runs/<id>`) and `mainstem show`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from mainstem_api.gateway.auth.caller import Caller
from mainstem_api.gateway.routes.runs import as_json, problem_documents
from mainstem_api.gateway.state import Gateway, gateway_of
from mainstem_shared.operations.queries import details
from mainstem_shared.operations.queries.details import RunDetails

router = APIRouter(tags=["operations"])

Serving = Annotated[Gateway, Depends(gateway_of)]


@router.get(
    "/v1/runs/{run_id}/details", response_model=RunDetails, responses=problem_documents(404, 422, 503)
)
async def run_details(run_id: str, gateway: Serving, caller: Caller) -> Response:
    """Tell what happened to a run: its timeline, segments, pauses and decisions, waits, worker and tasks.

    Its input is there for its user and for admins.
    """
    return as_json(await details.read(gateway.store, run_id, tenant=caller.tenant, user_id=caller.sees))
