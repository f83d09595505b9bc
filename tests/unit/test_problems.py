"""Which error is which status, and that the documents name what the code has."""

from __future__ import annotations

import inspect

import httpx
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, ResponseError
from starlette.types import Receive, Scope, Send

from mainstem_api.gateway import problems
from mainstem_api.gateway.middleware.errors_and_headers import ErrorsAndHeaders
from mainstem_shared import errors
from mainstem_shared.model.events import Type
from support.paths import ROOT

EVENTS = ROOT / "docs" / "events.md"
# Raised in workers, towards engines, or before anything is served; HTTP never meets them.
INSIDE = (
    errors.EffectUnknown,
    errors.EngineLimit,
    errors.ProviderError,
    errors.BudgetReached,
    errors.UnknownPrice,
    errors.Fenced,
    errors.ChannelClosed,
    errors.Misconfigured,
    errors.ShardsBusy,
)
KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.MainstemError) and kind is not errors.MainstemError
]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not issubclass(kind, INSIDE)])
def test_every_error_that_http_can_meet_has_a_status_of_its_own(kind: type[errors.MainstemError]):
    """None falls through to 500."""
    assert problems.status_of(kind("said")) != 500


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.NotFound(), 404),
        (errors.InvalidCursor(cursor="x"), 400),
        (errors.ThreadBusy(run_id="r"), 409),
        (errors.UnknownEngine(engine="e", known="d"), 422),
        (errors.InvalidInput(), 422),
        (errors.InvalidRequest(), 422),
        (errors.IdempotencyKeyReused(run_id="r"), 422),
        (errors.TooManyRuns(), 429),
        (errors.StoreUnavailable(), 503),
        (errors.BrokerUnavailable(), 503),
    ],
)
def test_the_contract_s_statuses(error: errors.MainstemError, status: int):
    """As the external contract has them; what will pass says when to come back."""
    response = problems.of_error(error)
    assert response.status_code == status
    assert ("retry-after" in response.headers) == (status in (429, 503))


@pytest.mark.parametrize("kind", list(Type))
def test_every_event_type_is_documented(kind: Type):
    assert f"`{kind}`" in EVENTS.read_text("utf-8")


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (ReadOnlyError("x"), 503),
        (RedisConnectionError("x"), 503),
        (ResponseError("WRONGTYPE x"), 500),
        (OSError(), 500),
    ],
)
async def test_a_store_failure_that_nobody_caught_is_temporary(failure: Exception, status: int):
    """The last layer tells the store's failures from ours; also a file that is missing is none of the store's."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise failure

    transport = httpx.ASGITransport(app=ErrorsAndHeaders(app))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.get("/v1/runs")
    assert answer.status_code == status
    assert ("retry-after" in answer.headers) == (status == 503)
