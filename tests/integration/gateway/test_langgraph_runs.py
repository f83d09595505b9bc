"""LangGraph's platform API without a worker: readers that leave, who is told of the end, and what is not served."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.models.logs import RunLog
from support.processes.gateways import GatewayThread
from support.waiting import wait_until_async

RUNS = "/v1/langgraph/threads/t/runs"


@pytest.fixture
def gateway(store_url: str, broker_url: str) -> Iterator[GatewayThread]:
    """A gateway whose answers that wait say so at once."""
    with GatewayThread(store_url, broker_url, heartbeat_s=0.2, sweep_s=3600) as running:
        yield running


@pytest.fixture
async def http(gateway: GatewayThread, store: Store) -> AsyncIterator[httpx.AsyncClient]:
    await store.client.hset(keys.ENGINES, "demo", "{}")
    await store.client.set(keys.lease("w1"), "worker", ex=120)
    async with gateway.client() as client:
        yield client


async def left(http: httpx.AsyncClient, method: str, path: str, **options: Any) -> None:
    """Read the first bytes of an answer, and leave."""
    async with http.stream(method, path, **options) as answer:
        assert answer.status_code == 200, await answer.aread()
        await anext(answer.aiter_raw())


async def status(http: httpx.AsyncClient) -> str:
    (run,) = (await http.get(RUNS)).json()
    return run["status"]


@pytest.mark.parametrize("path", ["stream", "wait"])
async def test_a_run_ends_with_its_reader_if_that_was_asked_for(http: httpx.AsyncClient, path: str) -> None:
    """`on_disconnect: "cancel"`; the stock React hook sends it unless it reconnects on mount."""
    body = {"assistant_id": "demo", "input": {}, "on_disconnect": "cancel"}
    await left(http, "POST", f"{RUNS}/{path}", json=body)

    async def is_over() -> bool:
        return await status(http) == "interrupted"

    await wait_until_async(is_over, description="the run is aborted")


async def test_a_run_outlives_its_readers_otherwise(http: httpx.AsyncClient) -> None:
    """Also one that is joined; until a reader joins it who takes it along."""
    body = {"assistant_id": "demo", "input": {}, "on_disconnect": "continue"}
    await left(http, "POST", f"{RUNS}/stream", json=body)
    (run,) = (await http.get(RUNS)).json()
    stream = f"{RUNS}/{run['run_id']}/stream"
    await left(http, "GET", stream)
    assert await status(http) == "pending"
    await left(http, "GET", stream, params={"cancel_on_disconnect": True})

    async def is_over() -> bool:
        return await status(http) == "interrupted"

    await wait_until_async(is_over, description="the run is aborted")


async def test_a_gateway_that_stops_aborts_nothing(
    gateway: GatewayThread, http: httpx.AsyncClient, store: Store
) -> None:
    """It was not the reader who left."""
    body = {"assistant_id": "demo", "input": {}, "on_disconnect": "cancel"}
    async with http.stream("POST", f"{RUNS}/stream", json=body) as answer:
        parts = answer.aiter_raw()
        await anext(parts)
        gateway.app.state.holder.drain()
        with pytest.raises(httpx.HTTPError):
            async for _ in parts:
                pass
    assert await status(http) == "pending"


async def test_runs_without_a_thread(http: httpx.AsyncClient) -> None:
    """In the background, too: it has a thread of its own."""
    run = (await http.post("/v1/langgraph/runs", json={"assistant_id": "demo", "input": {}})).json()
    assert run["status"] == "pending"
    found = await http.get(f"/v1/langgraph/threads/{run['thread_id']}/runs/{run['run_id']}")
    assert found.json()["run_id"] == run["run_id"]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"after_seconds": 5}, "after_seconds"),
        ({"webhook": "https://elsewhere.example/hook"}, "MAINSTEM_CALLBACK_HOSTS"),
        ({"interrupt_before": ["agent"]}, "interrupt_before"),
        ({"stream_mode": ["debug"]}, "debug"),
    ],
    ids=lambda given: next(iter(given)) if isinstance(given, dict) else given,
)
async def test_what_is_not_served_is_refused_by_name(
    http: httpx.AsyncClient, given: dict[str, Any], named: str
) -> None:
    answer = await http.post(f"{RUNS}/stream", json={"assistant_id": "demo", "input": {}, **given})
    assert answer.status_code in (403, 422)
    assert named in answer.json()["detail"]


async def ended(http: httpx.AsyncClient, store: Store, text: str, **given: Any) -> list[str]:
    """Start a run, have it end, and return what its engine was told."""
    said = {"messages": [{"type": "human", "content": text}]}
    answer = await http.post(RUNS, json={"assistant_id": "demo", "input": said, **given})
    assert answer.status_code == 200, answer.text
    log = RunLog(store, answer.json()["run_id"])
    await log.learn()
    await log.claim()
    await log.say(1)
    await log.finish()
    told = (await http.get(f"/v1/runs/{log.run_id}/input")).json()["messages"]
    return [message["content"] for message in told]


async def test_a_run_goes_on_from_the_state_that_it_names(http: httpx.AsyncClient, store: Store) -> None:
    """From the latest one, from an earlier one, and from before the first: an edit is a branch of its own."""
    schema = {"properties": {"messages": {"type": "array"}}}
    await store.client.hset(keys.ENGINES, "demo", json.dumps(schema))

    async def history() -> Any:
        return (await http.post("/v1/langgraph/threads/t/history", json={})).json()

    assert await ended(http, store, "one") == ["one"]
    (first,) = await history()
    assert await ended(http, store, "two", checkpoint=first["checkpoint"]) == ["one", "w0", "two"]
    second, _ = await history()
    assert second["parent_checkpoint"] == first["checkpoint"]
    edited = await ended(http, store, "2", checkpoint=second["parent_checkpoint"])
    assert edited == ["one", "w0", "2"]
    by_id = first["parent_checkpoint"]["checkpoint_id"]
    assert await ended(http, store, "1", checkpoint_id=by_id) == ["1"]
    ((values,),) = [[state["values"]["messages"]] for state in await history()]
    assert [message["content"] for message in values] == ["1", "w0"]
    unknown = {"assistant_id": "demo", "input": {}, "checkpoint_id": "nothing"}
    refused = await http.post(RUNS, json=unknown)
    assert (refused.status_code, "checkpoint" in refused.json()["detail"]) == (422, True)


async def test_there_is_no_store_and_no_cron(http: httpx.AsyncClient) -> None:
    """The answers say so, and what to do."""
    for method, path, word in (
        ("PUT", "store/items", "store"),
        ("POST", "store/items/search", "store"),
        ("POST", "runs/crons", "Crons"),
    ):
        answer = await http.request(method, f"/v1/langgraph/{path}", json={})
        assert answer.status_code == 404
        assert word in answer.json()["detail"]
