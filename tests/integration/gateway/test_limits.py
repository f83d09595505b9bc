"""Limits over real HTTP: how much, how often, how long, from where; and that a refusal harms nobody else."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from mainstem_api.gateway.middleware import http_protocol, rate_limits, request_limits
from mainstem_api.gateway.middleware.origins import Origins
from mainstem_api.gateway.middleware.rate_limits import Limits
from mainstem_shared import errors
from mainstem_shared.model.principals import Principal
from mainstem_shared.settings import Settings
from mainstem_shared.store.client import Store
from support.fakes.identity_provider import SETTINGS, bearer
from support.models.logs import RunLog
from support.processes.gateways import GatewayThread, check_problem, open_stream
from support.waiting import wait_until_async

JSON = {"content-type": "application/json"}


# -- how often


async def test_a_user_who_asks_too_often_waits(store_url: str, broker_url: str) -> None:
    """A minute's worth at once; then 429 with the time to wait. Others, and probes, do not notice."""
    with GatewayThread(store_url, broker_url, **SETTINGS, max_requests_per_minute=5) as gateway:
        async with gateway.client() as http:
            for _ in range(5):
                assert (await http.get("/v1/runs", headers=bearer())).status_code == 200
            refused = await http.get("/v1/runs", headers=bearer())
            check_problem(refused, 429, "too_many_requests")
            assert 1 <= int(refused.headers["retry-after"]) <= 12
            for other in (bearer("bob"), bearer(tenant="other")):
                assert (await http.get("/v1/runs", headers=other)).status_code == 200
            assert (await http.get("/readyz")).status_code == 200


def test_requests_come_back_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """After what `retry_after_s` says there is room for one; what was not used does not add up for ever."""
    now = [1000.0]
    monkeypatch.setattr(rate_limits.time, "monotonic", lambda: now[0])
    kept = Limits(Settings(max_requests_per_minute=60))
    ann = Principal(user_id="ann")
    for idle in (0.0, 1000.0):
        now[0] += idle
        for _ in range(60):
            kept.admit(ann)
        for _ in range(3):
            with pytest.raises(errors.TooManyRequests) as refused:
                kept.admit(ann)
            now[0] += float(refused.value.fields["retry_after_s"])  # type: ignore[arg-type]
            kept.admit(ann)


def test_users_who_left_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory does not grow with everybody who ever came."""
    now = [1000.0]
    monkeypatch.setattr(rate_limits.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(rate_limits, "FORGET_AT", 100)
    kept = Limits(Settings(max_requests_per_minute=60))
    for number in range(1000):
        now[0] += 0.1
        kept.admit(Principal(user_id=str(number)))
        assert len(kept._full_at) <= 101


async def test_a_user_has_so_many_streams(store: Store, store_url: str, broker_url: str) -> None:
    """One more is refused with 429, whether it says that it wants a stream or not; a closed one makes room."""
    log = await RunLog.start(store, user_id="ann")
    other = await RunLog.start(store, user_id="bob")
    with GatewayThread(store_url, broker_url, **SETTINGS, max_streams_per_user=2) as gateway:
        async with gateway.client() as http, AsyncExitStack() as held:
            http.headers.update(bearer())

            async def opened(stack: AsyncExitStack) -> int:
                stream = await stack.enter_async_context(open_stream(http, log.run_id))
                return stream.response.status_code

            async with AsyncExitStack() as first:
                assert [await opened(first), await opened(held)] == [200, 200]
                for accept in ("text/event-stream", "*/*"):
                    refused = await http.get(f"/v1/runs/{log.run_id}/events", headers={"accept": accept})
                    check_problem(refused, 429, "too_many_streams")
                    assert "retry-after" in refused.headers
                assert (await http.get(f"/v1/runs/{log.run_id}")).status_code == 200
                async with http.stream(
                    "GET", f"/v1/runs/{other.run_id}/events", headers=bearer("bob")
                ) as response:
                    assert response.status_code == 200
            await wait_until_async(
                lambda: len(gateway.server.server_state.tasks) == 1,
                description="the closed streams to be gone",
            )
            assert await opened(held) == 200
            await log.claim()
            await log.finish()
        async with gateway.client() as http:
            done = await http.get(f"/v1/runs/{log.run_id}/events?after={log.top}", headers=bearer())
            assert done.status_code == 204


# -- how much


@pytest.mark.parametrize("where", ["header", "address", "many"])
async def test_headers_have_a_limit(http: httpx.AsyncClient, where: str) -> None:
    """431, for one long header, a long address, or very many headers; and the connection serves on."""
    size = request_limits.HEADER_LIMIT + 1
    headers: list[tuple[str, str]] = [("x-a", "b" * size)] if where == "header" else []
    if where == "many":
        headers = [(f"x-{number}", "b" * 100) for number in range(size // 100)]
    query = {"cursor": "c" * size} if where == "address" else {}
    check_problem(await http.get("/v1/runs", headers=headers, params=query), 431, "headers_too_large")
    assert (await http.get("/v1/runs")).status_code == 200


async def raw(gateway: GatewayThread, *parts: bytes) -> bytes:
    """Send bytes, and return what comes until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        return await asyncio.wait_for(reader.read(), 20)
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_headers_without_an_end_are_cut_off(gateway: GatewayThread) -> None:
    """No layer of the app ever sees them: the server itself must not store them."""
    endless = [b"GET / HTTP/1.1\r\nhost: localhost\r\n"] + [b"x-a: " + b"b" * 8000 + b"\r\n"] * 200
    assert b" 431 " in await raw(gateway, *endless) or not gateway.server.server_state.connections
    long_name = [b"GET / HTTP/1.1\r\n"] + [b"x" * 8000] * 200
    assert b" 4" in await raw(gateway, *long_name) or not gateway.server.server_state.connections
    await wait_until_async(
        lambda: not gateway.server.server_state.connections, description="the connections to be gone"
    )


async def test_who_says_nothing_is_sent_away(gateway: GatewayThread, monkeypatch: pytest.MonkeyPatch) -> None:
    """No head within HEAD_S: 408. One request done, the next may take its time to begin."""
    monkeypatch.setattr(http_protocol, "HEAD_S", 0.2)
    assert b" 408 " in await raw(gateway)
    assert b" 408 " in await raw(gateway, b"GET / HT")
    monkeypatch.setattr(http_protocol, "HEAD_S", 60.0)
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    request = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
    for _ in range(2):
        writer.write(request)
        assert b" 200 " in await asyncio.wait_for(reader.readuntil(b"}"), 20)
        monkeypatch.setattr(http_protocol, "HEAD_S", 0.2)
        with pytest.raises(TimeoutError):  # idle for longer than a head may take: still open
            await asyncio.wait_for(reader.read(1), 0.5)
    writer.write(request[:10])
    assert b" 408 " in await asyncio.wait_for(reader.read(), 20)
    writer.close()


@pytest.mark.parametrize("value", [b"[]", b"{}", b"1", b'""'])
async def test_a_body_has_so_many_values(http: httpx.AsyncClient, value: bytes) -> None:
    """Each becomes an object while no other request is served: 32 MB of them took half a minute."""
    body = b'{"engine": "demo", "input": [' + value + (b"," + value) * 300_000 + b"]}"
    headers = {"content-type": "application/json"}
    answer = await http.post("/v1/threads/t/runs", content=body, headers=headers)
    assert "250,000 values" in check_problem(answer, 422, "invalid_request")["detail"]


async def test_a_body_that_does_not_come_is_not_waited_for(
    gateway: GatewayThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """408 after BODY_S; a client that leaves in the middle leaves nothing behind."""
    head = b"POST /v1/threads/t/runs HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    monkeypatch.setattr(request_limits, "BODY_S", 0.3)
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(head + b'content-length: 100\r\n\r\n{"engine":')
    answer = await asyncio.wait_for(reader.readuntil(b"body_too_slow"), 20)
    assert b" 408 " in answer
    writer.close()
    monkeypatch.setattr(request_limits, "BODY_S", 60.0)
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(head + b'content-length: 100\r\n\r\n{"engine":')
    await writer.drain()
    await wait_until_async(lambda: len(gateway.server.server_state.tasks) == 1, description="the request")
    writer.close()
    await wait_until_async(lambda: not gateway.server.server_state.tasks, description="nobody to wait")


# -- what requests may look like

POST = b"POST /v1/threads/t/runs HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
JSON_BODY = b"content-type: application/json\r\n"
GET = b"GET /v1/runs%s HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\r\n\r\n\x00\xff\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"G\x00T / HTTP/1.1\r\n\r\n",
        GET % b"" + b"bad header\r\n\r\n",
        GET % b"" + b"x: a\x00b\r\n\r\n",
        GET % b"?cursor=%00" + b"\r\n",
        GET % b"?cursor=%ff%fe" + b"\r\n",
        GET % b"?limit=1e400" + b"\r\n",
        GET % b"?limit=" + b"9" * 5000 + b"\r\n",
        GET % b"?limit=%f0%9f%98%80" + b"\r\n",
        GET % b"?status=%ed%a0%80" + b"\r\n",
        GET % b"/%ed%a0%80" + b"\r\n",
        GET % b"/x/events" + b"last-event-id: \xff\xfe\r\n\r\n",
        GET % b"/x/events?after=%00" + b"\r\n",
        GET % b"/x/events?token=%ff" + b"\r\n",
        POST.replace(b"t/runs", b"t/../../runs") + b"\r\n",
        POST + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"content-length: -1\r\n\r\n",
        POST + b"content-length: 99999999999999999999\r\n\r\n",
        POST + b"content-length: 9999999999\r\n\r\n",
        POST + JSON_BODY + b"transfer-encoding: chunked\r\n\r\nzz\r\n\r\n",
        POST + JSON_BODY + b"transfer-encoding: identity, chunked\r\n\r\n0\r\n\r\n",
        POST + JSON_BODY + b"content-encoding: gzip\r\ncontent-length: 4\r\n\r\n\x1f\x8b\x08\x00",
        POST + JSON_BODY + b"idempotency-key: \x01\r\ncontent-length: 2\r\n\r\n{}",
        POST + b"content-type: application/json; charset=utf-16\r\ncontent-length: 2\r\n\r\n{}",
        POST + b"content-type: \xff/\xff\r\ncontent-length: 2\r\n\r\n{}",
    ],
)
async def test_hostile_requests_get_a_clear_4xx(gateway: GatewayThread, request_bytes: bytes) -> None:
    """Neither a failure of ours, nor silence; and nothing of them is left."""
    if not request_bytes.endswith(b"\r\n\r\n") and b"\r\n\r\n" not in request_bytes:
        request_bytes += b"\r\n"
    answer = await raw(gateway, request_bytes)
    assert answer.startswith(b"HTTP/1.1 4"), answer[:200]
    await wait_until_async(
        lambda: not gateway.server.server_state.connections, description="the connection to be gone"
    )


# -- what JSON may be


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"engine": "demo", "input": {"a": NaN}}', "NaN"),
        (b'{"engine": "demo", "input": {"a": -Infinity}}', "Infinity"),
        (b'{"engine": "demo", "input": {"a": 1e999}}', "bounds"),
        (b'{"engine": "demo", "input": {"a": ' + b"9" * 5000 + b"}}", "bounds"),
        (b'{"engine": "demo", "engine": "other"}', "twice"),
        (b'{"engine": "demo", "input": {"a": 1, "\\u0061": 2}}', "twice"),
        (b'{"engine": "demo", "input": {"a": ' + b"[" * 101 + b"]" * 101 + b"}}", "deeply"),
        (b'{"engine": "demo", "input": {"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}", "deeply"),
        (b"[" * 200_000, "deeply"),
        (b'{"engine": "demo"} x', "Extra"),
        (b'{"engine": "demo\xff"}', "UTF-8"),
        ('{"engine": "demo"}'.encode("utf-16"), "UTF-8"),
    ],
)
async def test_json_that_two_readers_could_read_differently_is_refused(
    http: httpx.AsyncClient, body: bytes, words: str
) -> None:
    """Clear words, at once, and nothing was started."""
    refused = await http.post("/v1/threads/t/runs", content=body, headers=JSON)
    assert words in check_problem(refused, 422, "invalid_request")["detail"]
    assert (await http.get("/v1/runs")).json()["runs"] == []


@pytest.mark.parametrize(
    "value", [10**400, -(10**30), 1e308, 5e-324, "\u0000", "\ud7ff", "😀", {"": {"": ""}}, [[[]]] * 50]
)
async def test_what_is_only_unusual_is_taken(http: httpx.AsyncClient, value: Any) -> None:
    started = await http.post("/v1/threads/t/runs", json={"engine": "demo", "input": {"a": value}})
    assert started.status_code == 202, started.text
    assert (await http.get(started.headers["location"])).status_code == 200


async def test_only_json_is_taken_for_json(http: httpx.AsyncClient) -> None:
    """A body that claims to be something else is not guessed at: a foreign page can send those."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "x", ""):
        refused = await http.post(
            "/v1/threads/t/runs", content=b'{"engine": "demo"}', headers={"content-type": kind}
        )
        check_problem(refused, 422, "invalid_request")


# -- from where


async def test_pages_of_other_sites_can_do_nothing(http: httpx.AsyncClient, store: Store) -> None:
    """Where no token is needed, a foreign page's request is refused; tools and our own pages are not."""
    log = await RunLog.start(store)
    path = f"/v1/runs/{log.run_id}/abort"
    for foreign in (
        {"origin": "https://evil.test"},
        {"origin": "https://evil.test", "sec-fetch-site": "cross-site"},
        {"origin": "http://localhost:1", "sec-fetch-site": "same-site"},
        {"origin": "null"},
        {"origin": "http://[broken"},
    ):
        assert (await http.post(path, headers=foreign)).status_code == 403, foreign
    preflight = {"origin": "https://evil.test", "access-control-request-method": "POST"}
    answer = await http.options(path, headers=preflight)
    assert not {name for name in answer.headers if name.startswith("access-control")}
    assert (await http.get(f"/v1/runs/{log.run_id}")).json()["status"] == "queued"
    own = {"origin": "http://localhost:8000", "sec-fetch-site": "same-origin"}
    assert (await http.post(path, headers=own)).status_code == 200


async def test_without_authentication_only_own_names_are_served(http: httpx.AsyncClient) -> None:
    """A name that somebody made to lead here is not one of them."""
    for host in (
        "evil.test",
        "evil.test:80",
        "localhost.evil.test",
        "127.0.0.1.evil.test",
        "[",
        "a@localhost",
    ):
        answer = await http.get("/v1/runs", headers={"host": host})
        assert answer.status_code in {400, 421}, host
    for host in ("localhost", "localhost:9000", "127.0.0.1", "[::1]:8000", "app.localhost"):
        assert (await http.get("/v1/runs", headers={"host": host})).status_code == 200, host


async def test_configured_origins_are_let_in(store: Store, store_url: str, broker_url: str) -> None:
    """With a preflight's answer, readable headers, and no cookies where tokens are used; others are not."""
    log = await RunLog.start(store, user_id="ann")
    settings = {**SETTINGS, "cors_origins": "https://chat.test, https://two.test"}
    with GatewayThread(store_url, broker_url, **settings) as gateway:
        async with gateway.client() as http:
            preflight = {
                "origin": "https://chat.test",
                "access-control-request-method": "POST",
                "access-control-request-headers": "authorization,content-type,x-stainless-lang",
            }
            for method in ("GET", "POST", "PATCH", "DELETE"):
                asks = {**preflight, "access-control-request-method": method}
                answer = await http.options("/v1/threads/t/runs", headers=asks)
                assert answer.status_code == 200, method
            assert answer.headers["access-control-allow-origin"] == "https://chat.test"
            assert "access-control-allow-credentials" not in answer.headers
            answer = await http.get("/v1/runs", headers={**bearer(), "origin": "https://two.test"})
            assert answer.headers["access-control-allow-origin"] == "https://two.test"
            exposed = answer.headers["access-control-expose-headers"].split(", ")
            assert {"Retry-After", "Location", "Content-Location"} <= set(exposed)
            refused = await http.get("/v1/runs", headers={"origin": "https://two.test"})
            assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (
                401, "https://two.test",
            )  # fmt: skip
            foreign = await http.get("/v1/runs", headers={**bearer(), "origin": "https://evil.test"})
            assert "access-control-allow-origin" not in foreign.headers
            headers = {**bearer(), "origin": "https://chat.test"}
            async with http.stream("GET", f"/v1/runs/{log.run_id}/events", headers=headers) as stream:
                assert stream.headers["access-control-allow-origin"] == "https://chat.test"


@pytest.mark.parametrize(
    ("auth", "origins"),
    [("none", "*"), ("proxy", "*"), ("jwt", "chat.test"), ("jwt", "https://chat.test/")],
)
def test_origins_that_are_none_are_refused_at_the_start(auth: str, origins: str) -> None:
    with pytest.raises(errors.Misconfigured, match="CORS"):
        Origins(Settings(auth=auth, cors_origins=origins))  # type: ignore[arg-type]


async def test_every_answer_has_the_headers_of_safety(http: httpx.AsyncClient, store: Store) -> None:
    """Refusals, failures and streams too; what belongs to a user is kept by nobody on the way."""
    log = await RunLog.start(store)
    for path in (
        "/v1/runs",
        "/v1/runs/x",
        "/nothing",
        "/healthz",
        "/metrics",
        f"/v1/runs/{log.run_id}/events",
    ):
        async with http.stream("GET", path) as answer:
            assert answer.headers["x-content-type-options"] == "nosniff", path
            assert answer.headers["x-frame-options"] == "DENY"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
            stream = answer.headers["content-type"].startswith("text/event-stream")
            kept = "no-cache" if stream else "no-store" if path.startswith(("/v1", "/m")) else None
            assert answer.headers.get("cache-control") == kept
    assert "jsdelivr" in (await http.get("/docs")).headers["content-security-policy"]


# -- failures


async def test_a_failure_is_answered_and_the_connection_serves_on(
    gateway: GatewayThread, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """500 as a problem document, logged and counted; the next request on the same connection is not reset."""

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("ann's secret")

    holder = gateway.app.state.holder
    ports = set()
    for number in range(5):
        with monkeypatch.context() as patch:
            patch.setattr(holder.gateway.runs, "get", broken)
            failed = await http.get("/v1/runs/x")
        assert "secret" not in str(check_problem(failed, 500, "internal_error"))
        assert failed.headers["x-content-type-options"] == "nosniff"
        fine = await http.get("/v1/runs")
        assert fine.status_code == 200
        for answer in (failed, fine):
            connection: socket.socket = answer.extensions["network_stream"].get_extra_info("socket")
            ports.add(connection.getsockname()[1] if connection.fileno() >= 0 else -number)
    assert len(ports) == 1
    assert 'route="/v1/runs/{run_id}",status="500"' in (await http.get("/metrics")).text
    assert [record.action for record in caplog.records if record.levelname == "ERROR"] == [
        "request_failed"
    ] * 5
