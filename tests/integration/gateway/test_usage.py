"""`GET /v1/usage` and `mainstem usage`: what provider calls cost, by day and model, for whom it is."""

from __future__ import annotations

import json
import uuid
from decimal import Decimal
from typing import Any

import httpx
import pytest

from mainstem_api.cli import usage as command
from mainstem_shared.model import ids, usage
from mainstem_shared.model.principals import DEFAULT_TENANT, LOCAL_USER
from mainstem_shared.operations import spending
from mainstem_shared.operations.spending import Cost, Spending
from mainstem_shared.settings import Settings
from mainstem_shared.store.client import Store
from support.fakes.identity_provider import SETTINGS, bearer
from support.models.specs import spec
from support.processes.gateways import GatewayThread


async def spend(store: Store, settings: Settings, *, user: str, tenant: str, cost: str | None) -> None:
    about = spec(ids.run_id(tenant, "t", uuid.UUID(int=1)), tenant=tenant).model_copy(
        update={"user_id": user}
    )
    accounts, day = Spending(store, settings, about), spending.today()
    call = usage.checked_call(
        call_id=f"{user}{cost}", provider="p", model="m", input_tokens=10, output_tokens=5, cost_usd=cost
    )
    await accounts.note(call.call_id, day=day)
    nanos = None if cost is None else int(Decimal(cost) * 10**9)
    await accounts.settle(
        call.call_id, day=day, cost=Cost(nanos=nanos, tokens=15), sums=spending.sums_of(call)
    )


async def test_usage_is_read_by_day_and_model(
    http: httpx.AsyncClient,
    store: Store,
    settings: Settings,
    gateway: GatewayThread,
    capsys: pytest.CaptureFixture[str],
):
    """Over HTTP and by the command line; what is unknown is counted, not priced."""
    for cost in ("0.25", "0.000001", None):
        await spend(store, settings, user=LOCAL_USER, tenant=DEFAULT_TENANT, cost=cost)
    answer = (await http.get("/v1/usage", params={"days": 2})).json()
    today, yesterday = answer["days"]
    assert today["day"] == spending.today()
    assert (today["calls"], today["tokens"], today["cost_usd"], today["unpriced_calls"]) == (
        3,
        45,
        "0.250001",
        1,
    )
    assert today["models"] == [
        {"model": "p/m", "calls": 3, "tokens": 45, "cost_usd": "0.250001", "unpriced_calls": 1}
    ]
    assert (yesterday["calls"], yesterday["cost_usd"]) == (0, "0")
    await spend(store, settings, user="ann", tenant=DEFAULT_TENANT, cost="1")
    for user, calls in (("ann", 1), ("*", 4), (LOCAL_USER, 3)):  # who is alone on a gateway operates it
        answer = (await http.get("/v1/usage", params={"user": user})).json()
        assert answer["days"][0]["calls"] == calls
    for days in ("0", "367", "x"):
        assert (await http.get("/v1/usage", params={"days": days})).status_code == 422
    command.usage(days=1, user=None, url=gateway.url, as_json=True)
    assert json.loads(capsys.readouterr().out)["cost_usd"] == "0.250001"
    command.usage(days=2, user=None, url=gateway.url, as_json=False)
    shown = capsys.readouterr().out
    assert "0.250001" in shown
    assert yesterday["day"] in shown
    command.usage(days=40, user=None, url=gateway.url, as_json=False)
    shown = capsys.readouterr().out
    assert today["day"] in shown
    assert yesterday["day"] not in shown
    assert "? 1" in shown


async def test_usage_of_others_is_for_admins(store: Store, settings: Settings):
    """Of a user, or of all in the tenant; never of another tenant."""
    await spend(store, settings, user="ann", tenant="acme", cost="1")
    await spend(store, settings, user="bob", tenant="acme", cost="2")
    url, broker = settings.redis_url, settings.broker_url
    assert url is not None
    assert broker is not None

    async def seen(who: dict[str, str], user: str) -> Any:
        answer = await client.get("/v1/usage", params={"user": user}, headers=who)
        return [day["cost_usd"] for day in answer.json()["days"]]

    with GatewayThread(url.get_secret_value(), broker.get_secret_value(), **SETTINGS) as gateway:
        async with gateway.client() as client:
            assert await seen(bearer("ann", tenant="acme"), "ann") == ["1"]
            assert await seen(bearer("ann", tenant="acme"), "bob") == []
            assert await seen(bearer("ann", tenant="acme"), "*") == []
            assert await seen(bearer("root", tenant="acme", scope="admin"), "bob") == ["2"]
            assert await seen(bearer("root", tenant="acme", scope="admin"), "*") == ["3"]
            assert await seen(bearer("root", tenant="other", scope="admin"), "bob") == ["0"]
