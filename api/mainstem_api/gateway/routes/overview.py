"""The overview routes serve what pages poll: the caller, the engines, many runs without their content."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.responses import Response

from mainstem_api.gateway.auth.caller import Caller
from mainstem_api.gateway.routes.runs import Limit, Serving, as_json, problem_documents
from mainstem_shared.model.runs import Status
from mainstem_shared.operations import engine_catalogue
from mainstem_shared.operations.queries import listings, summaries
from mainstem_shared.operations.queries.summaries import RunSummary

router = APIRouter(tags=["operations"])


class EngineInfo(BaseModel):
    """An engine that workers announced."""

    name: str
    input_schema: dict[str, Any]
    is_default: bool


class Me(BaseModel):
    """Who is asking, and what this deployment has for them."""

    user_id: str
    tenant: str
    admin: Annotated[bool, Field(description="Whether everybody's runs are theirs to see and to abort.")]
    engines: list[EngineInfo]
    flower_url: str | None


class RunOverview(BaseModel):
    """Runs without their content, newest first."""

    runs: list[RunSummary]
    next: Annotated[str | None, Field(description="The `cursor` of the next page, null at the end.")]
    counts: Annotated[
        dict[Status, int], Field(description="How many unfinished runs there are; with `active=true` only.")
    ]


@router.get("/v1/me", response_model=Me, responses=problem_documents(503))
async def me(gateway: Serving, caller: Caller) -> Response:
    """Say who is asking, which engines there are, and where Flower is."""
    announced = await engine_catalogue.engines(gateway.store)
    default = gateway.settings.default_engine
    return as_json(
        Me(
            user_id=caller.user_id,
            tenant=caller.tenant,
            admin=caller.is_admin,
            engines=[
                EngineInfo(name=name, input_schema=schema, is_default=name == default)
                for name, schema in announced.items()
                if name != "openai" or gateway.settings.openai_model
            ],
            flower_url=gateway.settings.flower_url or None,
        )
    )


@router.get("/v1/overview", response_model=RunOverview, responses=problem_documents(400, 422, 503))
async def overview(
    *,
    gateway: Serving,
    caller: Caller,
    active: Annotated[
        bool, Query(description="All unfinished runs, at most 500, instead of a page.")
    ] = False,
    limit: Limit = listings.PAGE,
    user: str | None = None,
    cursor: str | None = None,
) -> Response:
    """List the caller's runs without their content, newest first.

    An admin may name another `user` of their tenant, or `*` for everybody. For anybody else those have none.
    """
    whose = caller.user_id if user is None else user
    if whose != caller.user_id and not caller.is_admin:
        return as_json(RunOverview(runs=[], next=None, counts={}))
    query = listings.Query(tenant=caller.tenant, user_id=None if whose == "*" and caller.is_admin else whose)
    if active:
        found = await summaries.active(gateway.store, query)
    else:
        found = await summaries.recent(gateway.store, query, limit=limit, cursor=cursor)
    return as_json(RunOverview(runs=found.runs, next=found.next, counts=found.counts))
