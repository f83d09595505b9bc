"""A store or a broker that answers with errors, as web clients see it: try again shortly; never a failure of ours."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from support.processes.gateways import GatewayThread
from support.processes.refusals import REFUSALS, refusing
from support.processes.servers import ValkeyProcess
from support.waiting import wait_until_async


@pytest.fixture
def store(private_valkey: ValkeyProcess) -> ValkeyProcess:
    return private_valkey


@pytest.fixture
def frontier(store: ValkeyProcess, broker_url: str) -> Iterator[GatewayThread]:
    """A gateway whose store is a server of this test's own."""
    with GatewayThread(store.url(), broker_url, default_engine="demo") as running:
        yield running


BODIES: dict[str, dict[str, Any]] = {
    "/v1/threads/{thread_id}/runs": {"engine": "demo"},
    "/v1/runs/{run_id}/resume": {"action_id": "none", "decisions": [{"call_id": "c", "type": "approve"}]},
    "/v1/runs/{run_id}/input": {"input_id": "one", "text": "more"},
    "/v1/events/{key}": {"payload": "arrived"},
    "/v1/ai-sdk/chat": {
        "id": "chat",
        "messages": [{"id": "m", "role": "user", "parts": [{"type": "text", "text": "hello"}]}],
    },
    "/v1/ag-ui": {
        "threadId": "agui",
        "runId": "one",
        "messages": [{"id": "m", "role": "user", "content": "hello"}],
        "state": {},
        "tools": [],
        "context": [],
        "forwardedProps": {},
    },
    "/v1/responses": {"model": "demo", "input": "hello"},
    "/v1/runs/{run_id}": {"title": "a title"},
    "/v1/threads/{thread_id}": {"title": "a title"},
    "/v1/chat/completions": {"model": "demo", "messages": [{"role": "user", "content": "hello"}]},
    "/v1/a2a/{engine}": {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "SendMessage",
        "params": {"message": {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "hello"}]}},
    },
    "/v1/langgraph/assistants/search": {},
    "/v1/threads/{thread_id}/fork": {},
    "/v1/langgraph/threads": {},
    "/v1/langgraph/threads/search": {},
    "/v1/langgraph/threads/{thread_id}": {"metadata": {"a": "b"}},
    "/v1/langgraph/threads/{thread_id}/history": {},
    **{
        f"/v1/langgraph/{path}": {"assistant_id": "demo", "input": {}}
        for path in (
            "threads/{thread_id}/runs/stream",
            "threads/{thread_id}/runs/wait",
            "threads/{thread_id}/runs",
            "runs",
            "runs/stream",
            "runs/wait",
        )
    },
}


def requests(gateway: GatewayThread, run_id: str) -> list[tuple[str, str, dict[str, Any] | None]]:
    """One request for each route there is; what a route's description has and this has not fails here."""
    response_id = f"resp_{run_id}"
    return [
        (
            method.upper(),
            path.format(**named(path, run_id=run_id, response_id=response_id)),
            BODIES.get(path) if method in ("post", "patch") else None,
        )
        for path, methods in gateway.app.openapi()["paths"].items()
        for method in methods
        if path not in ("/healthz", "/readyz")
    ]


def named(path: str, **known: str) -> dict[str, str]:
    return {name: known.get(name, "thread") for name in re.findall(r"{(\w+)}", path)}


async def check(http: httpx.AsyncClient, method: str, path: str, body: dict[str, Any] | None) -> None:
    async with http.stream(method, path, json=body) as answer:
        assert answer.status_code < 500 or answer.status_code == 503, (method, path)
        assert answer.status_code != 422, (path, await answer.aread())
        if answer.status_code == 503:
            assert b"store_unavailable" in await answer.aread(), path
            assert int(answer.headers["retry-after"]) > 0
        else:
            assert (method, path) != ("POST", "/v1/threads/thread/runs"), "it was not refused"


@pytest.mark.parametrize("kind", REFUSALS)
async def test_a_store_that_refuses_is_never_a_failure_of_ours(
    frontier: GatewayThread, store: ValkeyProcess, kind: str
):
    """Each route answers as ever, or 503 with Retry-After; afterwards a start is accepted again."""
    async with frontier.client() as http:
        started = await http.post("/v1/threads/t/runs", json={"engine": "demo"})
        run_id = started.json()["run_id"]
        with refusing(store, kind):
            asked = requests(frontier, run_id)
            await asyncio.gather(*(check(http, method, path, body) for method, path, body in asked))
        again = await http.post("/v1/threads/u/runs", json={"engine": "demo"})
        assert again.status_code == 202


@pytest.mark.parametrize("kind", REFUSALS)
async def test_a_broker_that_refuses_delays_runs_and_fails_no_start(
    store_url: str, private_valkey: ValkeyProcess, kind: str
):
    """The run is durable and accepted; its message goes out when the broker takes it."""
    with GatewayThread(store_url, private_valkey.url(1), sweep_s=0.2, lease_s=1) as gateway:
        async with gateway.client() as http:
            assert (await http.post("/v1/threads/before/runs", json={"engine": "demo"})).status_code == 202
            with refusing(private_valkey, kind):
                started = await http.post("/v1/threads/t/runs", json={"engine": "demo"})
                assert started.status_code == 202, started.text
                assert started.json()["status"] == "queued"
            run_id = started.json()["run_id"]
            await wait_until_async(
                lambda: run_id in messages(private_valkey), description="the run's message"
            )
            assert (await http.get(f"/v1/runs/{run_id}")).json()["status"] == "queued"


def messages(broker: ValkeyProcess) -> str:
    with broker.client(1) as client:
        return "".join(client.lrange("celery", 0, -1))
