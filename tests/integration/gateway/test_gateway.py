"""The gateway over real HTTP: shapes, refusals, health. Event streams: `test_streams`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from mainstem_api.gateway import create_app
from mainstem_shared.model import ids
from mainstem_shared.model.events import Type
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.models.logs import RunLog
from support.processes.gateways import GatewayThread, check_problem, open_stream
from support.processes.servers import ValkeyProcess

# -- starting and reading


async def test_a_start_answers_202_with_the_run_and_its_location(http: httpx.AsyncClient) -> None:
    """The body is the run, queued for a worker; Location leads to it."""
    response = await http.post(
        "/v1/threads/t 1/runs", json={"engine": "demo", "input": {"tokens": 3}, "metadata": {"a": "ü"}}
    )
    assert response.status_code == 202
    run = response.json()
    assert set(run) == {
        "run_id", "thread_id", "user_id", "status", "reason", "waiting_for", "engine", "created_at",
        "started_at", "finished_at", "text", "content", "steps", "usage", "title", "action", "cursor",
        "epoch", "worker", "error", "metadata",
    }  # fmt: skip
    assert (run["thread_id"], run["user_id"], run["status"], run["waiting_for"], run["text"]) == (
        "t 1", "local", "queued", "worker", "",
    )  # fmt: skip
    assert run["created_at"].endswith("Z")
    assert len(run["created_at"]) == len("2026-01-01T00:00:00.000Z")
    again = await http.get(response.headers["location"])
    assert again.json() == run


async def test_an_idempotent_start_is_replayed(http: httpx.AsyncClient) -> None:
    """The same key and body give the same run and say so; another body is refused."""
    headers = {"Idempotency-Key": "k1"}
    body = {"engine": "demo", "input": {}}
    first = await http.post("/v1/threads/t/runs", json=body, headers=headers)
    second = await http.post("/v1/threads/t/runs", json=body, headers=headers)
    assert "idempotency-replayed" not in first.headers
    assert (second.status_code, second.headers["idempotency-replayed"]) == (202, "true")
    assert first.json()["run_id"] == second.json()["run_id"]
    third = await http.post("/v1/threads/t/runs", json={**body, "input": {"x": 1}}, headers=headers)
    check_problem(third, 422, "idempotency_key_reused")


async def test_a_busy_thread_is_refused_with_the_run_that_holds_it(http: httpx.AsyncClient) -> None:
    first = await http.post("/v1/threads/t/runs", json={"engine": "demo"})
    second = await http.post("/v1/threads/t/runs", json={"engine": "demo"})
    assert check_problem(second, 409, "thread_busy")["run_id"] == first.json()["run_id"]


async def test_a_run_is_read_folded_to_the_top_in_every_state(http: httpx.AsyncClient, store: Store) -> None:
    """Running with and without a snapshot, finished, and compacted: the text is all that was written."""
    log = await RunLog.start(store)
    await log.claim(owner="w7")

    async def read() -> dict[str, Any]:
        run = (await http.get(f"/v1/runs/{log.run_id}")).json()
        assert (run["text"], run["cursor"]) == (log.fold.text, str(log.top))
        return run

    await log.say(3)
    run = await read()
    assert (run["status"], run["worker"], run["epoch"], run["waiting_for"]) == ("running", "w7", 2, None)
    assert run["started_at"]
    await log.snapshot()
    await log.say(2)
    await log.snapshot()
    await read()
    await log.append((Type.USAGE, {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}))
    await log.append((Type.TITLE, {"title": "T"}))
    run = await read()
    assert run["title"] == "T"
    assert run["usage"] == {
        "input_tokens": 3, "output_tokens": 4, "total_tokens": 7, "cached_input_tokens": 0,
        "cache_write_tokens": 0, "cache_write_1h_tokens": 0, "reasoning_tokens": 0, "audio_input_tokens": 0,
        "audio_output_tokens": 0, "cost_usd": None, "models": [], "calls": [],
    }  # fmt: skip
    await log.finish()
    run = await read()
    assert (run["status"], run["reason"], run["error"]) == ("succeeded", "completed", None)
    assert run["finished_at"]
    await log.compact()
    await read()


async def test_halves_of_surrogate_pairs_reach_the_reader(http: httpx.AsyncClient, store: Store) -> None:
    """A provider may split an emoji between two tokens; the JSON keeps both halves."""
    log = await RunLog.start(store)
    await log.claim()
    await log.append(
        (Type.MESSAGE_DELTA, {"part": 0, "text": "\ud83d"}),
        (Type.MESSAGE_DELTA, {"part": 0, "text": "\ude00"}),
    )
    await log.finish()
    response = await http.get(f"/v1/runs/{log.run_id}")
    assert response.status_code == 200
    assert json.loads(response.content)["text"] == "😀"


async def test_a_finished_run_whose_log_is_lost_says_so(http: httpx.AsyncClient, store: Store) -> None:
    log = await RunLog.start(store)
    await log.claim()
    await log.say()
    await log.finish()
    await store.client.delete(log.keys.log)
    run = (await http.get(f"/v1/runs/{log.run_id}")).json()
    assert (run["status"], run["text"], run["error"]["code"]) == ("succeeded", "", "log_lost")


async def test_lists_are_newest_first_and_paged(http: httpx.AsyncClient) -> None:
    """A thread's and the caller's; `next` leads on; filters hold."""
    made = []
    for thread in ("a", "b", "a"):
        body = {"engine": "demo", "if_active": "enqueue"}
        made.append((await http.post(f"/v1/threads/{thread}/runs", json=body)).json()["run_id"])
    page = (await http.get("/v1/threads/a/runs")).json()
    assert ([run["run_id"] for run in page["runs"]], page["next"]) == ([made[2], made[0]], None)
    first = (await http.get("/v1/runs", params={"limit": 2})).json()
    rest = (await http.get("/v1/runs", params={"limit": 2, "cursor": first["next"]})).json()
    assert {run["run_id"] for run in first["runs"] + rest["runs"]} == set(made)
    assert (await http.get("/v1/runs", params={"status": "running"})).json()["runs"] == []
    assert len((await http.get("/v1/threads/a/runs", params={"active": "true"})).json()["runs"]) == 2
    assert (await http.get("/v1/runs", params={"user": "somebody"})).json()["runs"] == []


# -- refusals


async def test_what_is_not_yours_does_not_exist(http: httpx.AsyncClient, store: Store) -> None:
    """Another user's and another tenant's run answer as if they were not there."""
    for owner in ({"user_id": "ann"}, {"tenant": "other"}):
        log = await RunLog.start(store, **owner)
        check_problem(await http.get(f"/v1/runs/{log.run_id}"), 404, "not_found")
        check_problem(await http.get(f"/v1/runs/{log.run_id}/events"), 404, "not_found")
    assert (await http.get("/v1/runs")).json()["runs"] == []


@pytest.mark.parametrize(
    "run_id",
    [
        pytest.param(ids.run_id("default", "t", ids.uuid7()), id="unknown"),
        "x",
        "%00",
        "%ff%fe",
        "..",
        "a" * 5000,
        "%7B%7D*",
        "ünï",
        "%0a",
    ],
)
async def test_unknown_and_hostile_run_ids_are_not_found(http: httpx.AsyncClient, run_id: str) -> None:
    check_problem(await http.get(f"/v1/runs/{run_id}"), 404, "not_found")
    check_problem(await http.get(f"/v1/runs/{run_id}/events"), 404, "not_found")


@pytest.mark.parametrize(
    "cursor", ["x", "1", "1-", "-1-2", "1-2-3", "99999999999999999999999-0", "1-0\x00", " "]
)
async def test_a_bad_cursor_is_refused(http: httpx.AsyncClient, store: Store, cursor: str) -> None:
    log = await RunLog.start(store)
    response = await http.get(f"/v1/runs/{log.run_id}/events", params={"after": cursor})
    check_problem(response, 400, "invalid_cursor")


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b'"x"', b"{}", b'{"engine": 1}', b'{"engine": "demo", "input": []}',
        b'{"engine": "demo", "unknown": 1}', b'{"engine": "de mo"}',
        b'{"engine": "demo", "if_active": "maybe"}', b'{"engine": "demo", "max_duration_s": -1}',
        b'{"engine": "\\u0000"}', b"\xff\xfe",
        b'{"engine": "\\ud800"}',
    ],
)  # fmt: skip
async def test_a_body_that_does_not_fit_is_refused(http: httpx.AsyncClient, body: bytes) -> None:
    response = await http.post(
        "/v1/threads/t/runs", content=body, headers={"content-type": "application/json"}
    )
    check_problem(response, 422, "invalid_request")


async def test_half_a_surrogate_pair_becomes_the_replacement_character(http: httpx.AsyncClient) -> None:
    """What a user typed and a client cut in two loses half a character, not the whole request."""
    body = b'{"engine": "demo", "input": {}, "metadata": {"a": "x\\ud800", "\\udc00": "\\ud83d\\ude00"}}'
    response = await http.post(
        "/v1/threads/t/runs", content=body, headers={"content-type": "application/json"}
    )
    assert response.json()["metadata"] == {"a": "x\ufffd", "\ufffd": "\U0001f600"}


async def test_a_deeply_nested_body_is_refused(http: httpx.AsyncClient) -> None:
    body = b'{"engine":"demo","input":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}"
    response = await http.post(
        "/v1/threads/t/runs", content=body, headers={"content-type": "application/json"}
    )
    check_problem(response, 422, "invalid_request")


async def test_a_body_of_the_wrong_type_is_refused(http: httpx.AsyncClient) -> None:
    response = await http.post("/v1/threads/t/runs", data={"engine": "demo"})
    check_problem(response, 422, "invalid_request")


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_body_that_is_too_large_is_refused(http: httpx.AsyncClient, *, chunked: bool) -> None:
    """By its announced length, or while it comes."""
    whole = b'{"engine": "' + b"x" * (33 * 1024 * 1024) + b'"}'

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(whole), 65536):
            yield whole[at : at + 65536]

    response = await http.post(
        "/v1/threads/t/runs",
        content=pieces() if chunked else whole,
        headers={"content-type": "application/json"},
    )
    check_problem(response, 413, "body_too_large")


async def test_an_input_that_is_too_large_is_refused(http: httpx.AsyncClient) -> None:
    body = {"engine": "demo", "input": {"text": "x" * (1024 * 1024 + 1)}}
    check_problem(await http.post("/v1/threads/t/runs", json=body), 413, "input_too_large")


@pytest.mark.parametrize("thread", ["%00", "x" * 256, "a%0Ab", "%7F"])
async def test_a_thread_id_that_cannot_be_is_refused(http: httpx.AsyncClient, thread: str) -> None:
    response = await http.post(f"/v1/threads/{thread}/runs", json={"engine": "demo"})
    check_problem(response, 422, "invalid_request")


async def test_an_idempotency_key_has_a_length(http: httpx.AsyncClient) -> None:
    for key in ("", "x" * 256):
        response = await http.post(
            "/v1/threads/t/runs", json={"engine": "demo"}, headers={"Idempotency-Key": key}
        )
        check_problem(response, 422, "invalid_request")


async def test_an_engine_that_nobody_offers_is_refused(http: httpx.AsyncClient, store: Store) -> None:
    """Once workers have announced their engines."""
    await store.client.hset(keys.ENGINES, "demo", json.dumps({"type": "object", "required": ["tokens"]}))
    check_problem(await http.post("/v1/threads/t/runs", json={"engine": "x"}), 422, "unknown_engine")
    check_problem(await http.post("/v1/threads/t/runs", json={"engine": "demo"}), 422, "invalid_input")


async def test_unknown_paths_and_methods_are_problems(http: httpx.AsyncClient) -> None:
    check_problem(await http.get("/v1/nothing"), 404, "not_found")
    refused = await http.delete("/v1/threads/t/runs")
    check_problem(refused, 405, "method_not_allowed")
    assert {method.strip() for method in refused.headers["allow"].split(",")} >= {"GET", "POST"}
    options = await http.options("/v1/threads/t/runs")
    assert options.status_code == 204
    assert {method.strip() for method in options.headers["allow"].split(",")} >= {"GET", "POST"}
    head = await http.head("/v1/runs")
    assert (head.status_code, head.content) == (405, b"")


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "status=maybe", "limit=101"])
async def test_query_parameters_are_checked(http: httpx.AsyncClient, query: str) -> None:
    check_problem(await http.get(f"/v1/runs?{query}"), 422, "invalid_request")


async def test_the_interface_is_documented(http: httpx.AsyncClient) -> None:
    """OpenAPI and its page; every route of the interface is in it."""
    assert (await http.get("/docs")).status_code == 200
    paths = (await http.get("/openapi.json")).json()["paths"]
    assert set(paths) >= {
        "/v1/threads/{thread_id}/runs", "/v1/runs", "/v1/runs/{run_id}", "/v1/runs/{run_id}/events",
        "/healthz", "/readyz",
    }  # fmt: skip


# -- operations


async def test_it_can_be_mounted_into_another_app(store_url: str, broker_url: str) -> None:
    """Under a prefix, without its lifespan: routes, Location and problems work."""
    inner = create_app(Settings(redis_url=store_url, broker_url=broker_url))
    host = FastAPI()
    host.mount("/ai", inner)
    transport = httpx.ASGITransport(host)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        started = await http.post("/ai/v1/threads/t/runs", json={"engine": "demo"})
        assert started.headers["location"] == f"/ai/v1/runs/{started.json()['run_id']}"
        assert (await http.get(started.headers["location"])).json() == started.json()
        check_problem(await http.get("/ai/v1/nothing"), 404, "not_found")
        check_problem(await http.delete("/ai/v1/runs"), 405, "method_not_allowed")
    await inner.state.holder.close()


async def test_health_and_metrics(http: httpx.AsyncClient, store: Store) -> None:
    assert (await http.get("/healthz")).status_code == 200
    assert (await http.get("/readyz")).status_code == 200
    assert (await http.head("/readyz")).status_code == 200
    log = await RunLog.start(store)
    async with open_stream(http, log.run_id) as stream:
        await anext(stream)
        metrics = (await http.get("/metrics")).text
    assert "mainstem_gateway_streams 1.0" in metrics
    assert "mainstem_gateway_streamed_events_total 1.0" in metrics
    assert 'route="/v1/runs/{run_id}/events"' in metrics
    assert log.run_id not in metrics


async def test_an_unavailable_store_is_503(private_valkey: ValkeyProcess, broker_url: str) -> None:
    """With a problem document and Retry-After, for every route; and all is well when it is back."""
    with GatewayThread(private_valkey.url(), broker_url) as gateway:
        async with gateway.client() as http:
            await asyncio.to_thread(private_valkey.stop)
            run_id = ids.run_id("default", "t", ids.uuid7())
            for path in ("/readyz", f"/v1/runs/{run_id}", f"/v1/runs/{run_id}/events", "/v1/runs"):
                response = await http.get(path)
                check_problem(response, 503, "store_unavailable")
                assert int(response.headers["retry-after"]) > 0
            check_problem(
                await http.post("/v1/threads/t/runs", json={"engine": "demo"}), 503, "store_unavailable"
            )
            assert (await http.get("/healthz")).status_code == 200
            await asyncio.to_thread(private_valkey.start)
            assert (await http.get("/readyz")).status_code == 200


async def test_a_frozen_store_is_503_too(private_valkey: ValkeyProcess, broker_url: str) -> None:
    with GatewayThread(private_valkey.url(), broker_url) as gateway:
        async with gateway.client() as http:
            private_valkey.freeze()
            check_problem(await http.get("/readyz"), 503, "store_unavailable")
            private_valkey.thaw()


async def test_an_unavailable_broker_is_503_for_readyz_and_a_start_is_kept(
    store_url: str, private_valkey: ValkeyProcess
) -> None:
    """A run is durable before its message: a start is accepted, the outbox delivers later."""
    with GatewayThread(store_url, private_valkey.url()) as gateway:
        async with gateway.client() as http:
            await asyncio.to_thread(private_valkey.stop)
            response = await http.get("/readyz")
            check_problem(response, 503, "broker_unavailable")
            assert "retry-after" in response.headers
            started = await http.post("/v1/threads/t/runs", json={"engine": "demo"})
            assert started.status_code == 202
            assert started.json()["status"] == "queued"
