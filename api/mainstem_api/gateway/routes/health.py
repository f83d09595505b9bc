"""The operators' routes report liveness, readiness and metrics."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import JSONResponse, Response

from mainstem_api.gateway import metrics
from mainstem_api.gateway.auth.caller import Operator
from mainstem_api.gateway.routes.runs import problem_documents
from mainstem_api.gateway.state import Gateway, gateway_of
from mainstem_shared.store import readiness

router = APIRouter(tags=["operations"])

Serving = Annotated[Gateway, Depends(gateway_of)]


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz")
async def healthz() -> Response:
    """Answer while the process and its event loop are alive."""
    return JSONResponse({"status": "ok"})


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", responses=problem_documents(503))
async def readyz(gateway: Serving) -> Response:
    """Answer 200 if store and broker take what a start writes, else 503. The archive may lag: runs wait.

    Of a store of several servers at least half must; the answer names those that do not (`degraded`).
    """
    stores, _ = await asyncio.gather(readiness.check_writes(gateway.store), gateway.publisher.aping())
    lag_s = 0.0 if gateway.sweeper is None else gateway.sweeper.archiver.lag_s
    told: dict[str, object] = {"status": "ready" if all(stores.values()) else "degraded"}
    if len(stores) > 1:
        told["stores"] = {address: "ready" if good else "away" for address, good in stores.items()}
    if lag_s:
        told["archive_lag_s"] = round(lag_s, 1)
    return JSONResponse(told)


@router.get("/metrics", include_in_schema=False)
async def exposition(gateway: Serving, caller: Operator) -> Response:
    """Return the Prometheus exposition."""
    del caller
    return Response(gateway.metrics.text(), media_type=metrics.CONTENT_TYPE)
