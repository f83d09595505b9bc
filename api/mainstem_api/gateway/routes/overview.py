"""The overview routes serve what pages poll (caller, engines, runs without content); bulk aborts."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from mainstem_api.gateway.auth.caller import Caller, Operates, query_of
from mainstem_api.gateway.routes.runs import Limit, Serving, as_json, problem_documents
from mainstem_api.gateway.state import Gateway
from mainstem_shared import errors, transitions
from mainstem_shared.model.record import Record
from mainstem_shared.model.runs import Reason, Status, Timestamp, at_ms
from mainstem_shared.operations import engine_catalogue, trends
from mainstem_shared.operations.queries import listings, searches, summaries
from mainstem_shared.operations.queries.searches import Search
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
    complete: bool = Field(
        default=True,
        exclude_if=bool,
        description="False if a server of the store does not answer: its runs are missing. Else left out.",
    )


class FleetMinute(BaseModel):
    """The figures of the whole fleet in one minute, of all users together."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    at: Timestamp
    ended: Annotated[dict[str, int], Field(description="Runs that ended: succeeded, failed, aborted.")]
    runs: Annotated[
        dict[str, int] | None,
        Field(description="Unfinished runs by state at the minute's last census; null: there was none."),
    ]
    queue_oldest_s: Annotated[
        float | None, Field(description="For how long the oldest queued run had waited then.")
    ]
    queue_wait_p95_s: float | None
    first_token_p50_s: float | None
    first_token_p95_s: float | None
    tokens: Annotated[int, Field(description="That providers reported: input and output.")]
    cost_usd: float


class Trends(BaseModel):
    """Minutes, the oldest first."""

    minutes: list[FleetMinute]


class Find(BaseModel):
    """Filters of runs."""

    status: Status | None = None
    reason: Reason | None = None
    engine: str | None = None
    ended: Annotated[bool | None, Field(description="Only runs that are over, or only unfinished ones.")] = (
        None
    )
    words: Annotated[
        str, Field(max_length=200, description="In ids, user, engine, worker, metadata, the error's text.")
    ] = ""
    sort: Literal["created", "ended"] | None = None

    @property
    def is_given(self) -> bool:
        """Whether anything is asked for."""
        return bool(self.model_fields_set - {"words"} or self.words)

    def search(self, query: listings.Query) -> Search:
        """Return the search among the runs of a query."""
        return Search(
            query=dataclasses.replace(query, status=self.status),
            ended=True if self.sort == "ended" else self.ended,
            reason=self.reason,
            engine=self.engine,
            words=self.words,
        )


class BulkRerun(BaseModel):
    """What a bulk re-run started."""

    matched: Annotated[int, Field(description="Runs that are over and that the filters accept.")]
    started: Annotated[int, Field(description="How many of them were started anew; none in a dry run.")]
    refused: Annotated[
        dict[str, int], Field(description="How many were not, by the problem's code: `unknown_engine`, …")
    ]


class BulkAbort(BaseModel):
    """What a bulk abort reached."""

    matched: Annotated[int, Field(description="Unfinished runs that the filters accept.")]
    aborted: Annotated[int, Field(description="How many of them were told to stop; none in a dry run.")]


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
                if gateway.settings.has_model(name)
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
    find: Annotated[Find, Query()],
) -> Response:
    """List the caller's runs without their content, newest first.

    An admin may name another `user` of their tenant, or `*` for everybody. For anybody else those have none.
    With a filter, or `sort`, the newest few thousand runs are searched, and there is one page.
    """
    if (query := query_of(caller, user)) is None:
        return as_json(RunOverview(runs=[], next=None, counts={}))
    if find.is_given:
        missed: set[str] = set()
        runs = await searches.find(
            gateway.store, find.search(query), limit=limit, by_end=find.sort == "ended", missed=missed
        )
        return as_json(RunOverview(runs=runs, next=None, counts={}, complete=not missed))
    if active:
        found = await summaries.active(gateway.store, query)
    else:
        found = await summaries.recent(gateway.store, query, limit=limit, cursor=cursor)
    return as_json(
        RunOverview(runs=found.runs, next=found.next, counts=found.counts, complete=found.complete)
    )


@router.get("/v1/overview/trends", response_model=Trends, responses=problem_documents(422, 503))
async def fleet_trends(
    *,
    gateway: Serving,
    is_operator: Operates,
    minutes: Annotated[int, Query(ge=1, le=trends.LONGEST)] = 60,
) -> Response:
    """Return the fleet's figures of the last minutes, the oldest first; the last one is not over.

    For admins; for anybody else there are none.
    """
    found = await trends.read(gateway.store, minutes=minutes) if is_operator else []
    return as_json(Trends(minutes=[_shown(one) for one in found]))


def _shown(one: trends.Minute) -> FleetMinute:
    fields = {name: getattr(one, name) for name in FleetMinute.model_fields if name != "at"}
    return FleetMinute(at=at_ms(one.at_ms), **fields)


@router.post("/v1/overview/abort", response_model=BulkAbort, responses=problem_documents(422, 503))
async def abort_found(
    *,
    gateway: Serving,
    caller: Caller,
    user: str | None = None,
    dry_run: Annotated[bool, Query(description="Only count them.")] = True,
    find: Annotated[Find, Query()],
) -> Response:
    """Abort all unfinished runs that the filters accept; by default it only counts them."""
    query = query_of(caller, user)
    search = None if query is None else dataclasses.replace(find.search(query), ended=False)
    run_ids = [] if search is None else await searches.ids(gateway.store, search)
    if dry_run:
        return as_json(BulkAbort(matched=len(run_ids), aborted=0))
    for run_id in run_ids:
        with contextlib.suppress(errors.NotFound):  # it is gone: nothing is left to stop
            await gateway.runs.abort(run_id, user_id=caller.sees, tenant=caller.tenant)
    return as_json(BulkAbort(matched=len(run_ids), aborted=len(run_ids)))


@router.post("/v1/overview/rerun", response_model=BulkRerun, responses=problem_documents(422, 503))
async def rerun_found(
    *,
    gateway: Serving,
    caller: Caller,
    user: str | None = None,
    dry_run: Annotated[bool, Query(description="Only count them.")] = True,
    idempotency_key: Annotated[
        str | None, Header(max_length=64, description="Repeated with it, no run is started twice.")
    ] = None,
    find: Annotated[Find, Query()],
) -> Response:
    """Start all runs anew that are over and that the filters accept; by default it only counts them.

    Each has the same input, engine and metadata, belongs to the same user, and waits for its thread.
    """
    query = query_of(caller, user)
    search = None if query is None else dataclasses.replace(find.search(query), ended=True)
    run_ids = [] if search is None else await searches.ids(gateway.store, search)
    if dry_run:
        return as_json(BulkRerun(matched=len(run_ids), started=0, refused={}))
    refused: Counter[str] = Counter()
    for run_id in run_ids:
        key = None if idempotency_key is None else f"{idempotency_key}:{run_id}"
        try:
            await _start_again(gateway, run_id, tenant=caller.tenant, idempotency_key=key)
        except errors.StoreUnavailable:
            raise  # whoever asked repeats it with the same key
        except errors.MainstemError as error:
            refused[error.code] += 1
    started = len(run_ids) - refused.total()
    return as_json(BulkRerun(matched=len(run_ids), started=started, refused=dict(refused)))


async def _start_again(gateway: Gateway, run_id: str, *, tenant: str, idempotency_key: str | None) -> None:
    record = await transitions.find_fields(gateway.store, run_id, Record.spec, Record.run_input)
    if isinstance(record, transitions.Gone):
        raise errors.NotFound
    spec = record.spec
    await gateway.runs.start(
        spec.thread_id,
        spec.engine,
        record.run_input,
        user_id=spec.user_id,
        tenant=tenant,
        if_active="enqueue",
        metadata=spec.metadata,
        idempotency_key=idempotency_key,
    )
