"""The operators' routes report liveness, readiness and metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends
from redis.exceptions import RedisError
from starlette.responses import JSONResponse, Response

from mainstem_api.gateway import metrics
from mainstem_api.gateway.auth.caller import Operator
from mainstem_api.gateway.routes.runs import problem_documents
from mainstem_api.gateway.state import Gateway, gateway_of
from mainstem_shared import errors

router = APIRouter(tags=["operations"])

Serving = Annotated[Gateway, Depends(gateway_of)]

PATIENCE_S: Final = 2.0
"""Probes of orchestrators give up after a few seconds; a server this slow is not ready anyway."""


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz")
async def healthz() -> Response:
    """Answer while the process and its event loop are alive."""
    return JSONResponse({"status": "ok"})


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", responses=problem_documents(503))
async def readyz(gateway: Serving) -> Response:
    """Answer 200 if store and broker answer, else 503."""
    await asyncio.gather(_ping_store(gateway), gateway.dispatcher.aping())
    return JSONResponse({"status": "ready"})


async def _ping_store(gateway: Gateway) -> None:
    ping: Awaitable[Any] = gateway.store.client.ping()
    try:
        async with asyncio.timeout(PATIENCE_S):
            await ping
    except (RedisError, OSError, TimeoutError) as error:
        raise errors.StoreUnavailable from error


@router.get("/metrics", include_in_schema=False)
async def exposition(gateway: Serving, caller: Operator) -> Response:
    """Return the Prometheus exposition."""
    del caller
    return Response(gateway.metrics.text(), media_type=metrics.CONTENT_TYPE)
