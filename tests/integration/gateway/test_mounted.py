"""A gateway in somebody else's app, under somebody else's server: the promises that are not its own server's."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from mainstem_api.gateway import create_app
from mainstem_shared.model.principals import Principal
from mainstem_shared.settings import Settings
from support.fakes.identity_provider import SETTINGS, bearer
from support.processes.gateways import check_problem
from support.waiting import wait_until


def under_fastapi(inner: ASGIApp) -> ASGIApp:
    host = FastAPI()
    host.mount("/ai", inner)
    return host


def under_starlette(inner: ASGIApp) -> ASGIApp:
    return Starlette(routes=[Mount("/ai", app=inner)])


def wrapped(inner: ASGIApp) -> ASGIApp:
    """A host that is no framework: it takes the prefix off, and passes on."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await inner({**scope, "root_path": "/ai"}, receive, send)

    return app


def own_address() -> str:
    """An address of this machine that is not loopback; the kernel accepts connections to it from itself."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("198.51.100.1", 9))  # nothing is sent
        return probe.getsockname()[0]


@pytest.fixture
def settings(store_url: str, broker_url: str) -> Settings:
    return Settings(redis_url=store_url, broker_url=broker_url)


def client(scope_client: Any, app: ASGIApp, base_url: str = "http://localhost") -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, client=scope_client), base_url=base_url)


@pytest.mark.parametrize("host", [under_fastapi, under_starlette, wrapped])
async def test_without_authentication_a_mounted_gateway_serves_this_machine_only(
    host: Callable[[ASGIApp], ASGIApp], settings: Settings
) -> None:
    """Whoever connects from elsewhere gets 403, whatever they say about themselves; own names, else 421."""
    inner = create_app(settings)
    app = host(inner)
    for peer, status in (
        ("127.0.0.1", 200),
        ("127.8.9.1", 200),
        ("::1", 200),
        ("::ffff:127.0.0.1", 200),
        ("10.0.0.5", 403),
        ("::ffff:10.0.0.5", 403),
        ("fe80::1%eth0", 403),
        ("testclient", 403),
        ("", 403),
    ):
        async with client((peer, 1), app) as http:
            answer = await http.get("/ai/v1/runs")
            assert answer.status_code == status, peer
            if status == 403:
                check_problem(answer, 403, "not_local")
    async with client(("127.0.0.1", 1), app, "http://evil.test") as http:
        check_problem(await http.get("/ai/v1/runs"), 421, "misdirected_request")
        check_problem(await http.post("/ai/v1/threads/t/runs", json={}), 421, "misdirected_request")
    await inner.state.holder.close()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x-forwarded-for": "203.0.113.9"}, 403),
        ({"x-forwarded-for": "127.0.0.1, 203.0.113.9"}, 403),
        ({"x-real-ip": "203.0.113.9"}, 403),
        ({"forwarded": 'for="[2001:db8::1]:4711";proto=https'}, 403),
        ({"forwarded": "for=unknown"}, 403),
        ({"x-forwarded-for": "127.0.0.1"}, 200),
        ({"x-forwarded-for": "[::1]:80"}, 200),
        ({"forwarded": "for=127.0.0.1:99, for=localhost"}, 403),
        ({"forwarded": "for=127.0.0.1:99"}, 200),
    ],
)
async def test_a_proxy_on_this_machine_lets_nobody_else_in(
    headers: dict[str, str], status: int, settings: Settings
) -> None:
    """What is forwarded for somebody elsewhere comes from there, though its connection is local."""
    app = create_app(settings)
    async with client(("127.0.0.1", 1), app) as http:
        assert (await http.get("/v1/runs", headers=headers)).status_code == status
    await app.state.holder.close()


async def test_real_servers_say_who_connects(settings: Settings, tmp_path: Path) -> None:
    """Under uvicorn on all addresses, and on a Unix socket: loopback and the socket are served, others are not."""
    inner = create_app(settings)
    with hosted(under_fastapi(inner), host="0.0.0.0", port=0) as server:
        port = server.servers[0].sockets[0].getsockname()[1]
        async with httpx.AsyncClient(trust_env=False) as http:
            assert (await http.get(f"http://127.0.0.1:{port}/ai/v1/runs")).status_code == 200
            outside = await http.get(
                f"http://{own_address()}:{port}/ai/v1/runs", headers={"host": "localhost"}
            )
            check_problem(outside, 403, "not_local")
    path = str(tmp_path / "s")
    inner = create_app(settings)
    with hosted(under_fastapi(inner), uds=path):
        async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=path)) as http:
            assert (await http.get("http://localhost/ai/v1/runs")).status_code == 200
            check_problem(await http.get("http://evil.test/ai/v1/runs"), 421, "misdirected_request")


async def test_who_authenticates_is_served_under_any_name(settings: Settings) -> None:
    """The host's own users, and tokens: neither address nor name matters; and they are no operators."""

    class Hosted:
        async def authenticate(self, scope: Scope) -> Principal:
            return Principal(user_id="ann", is_admin="admin" in str(scope["query_string"]))

        async def aclose(self) -> None:
            pass

    app = create_app(settings, authenticator=Hosted())
    async with client(("10.0.0.5", 1), app, "https://chat.example.com") as http:
        assert (await http.get("/v1/runs")).status_code == 200
        check_problem(await http.get("/metrics"), 403, "forbidden")
        assert (await http.get("/metrics?admin")).status_code == 200
    await app.state.holder.close()
    locked = create_app(Settings(**{**settings.model_dump(), **SETTINGS}))
    async with client(("10.0.0.5", 1), locked, "https://chat.example.com") as http:
        assert (await http.get("/v1/runs", headers=bearer())).status_code == 200
    await locked.state.holder.close()


async def test_two_hosts_are_refused(settings: Settings) -> None:
    """Whoever authenticates; under any server: which of them would it be?"""
    for more in ({}, SETTINGS):
        app = create_app(Settings(**{**settings.model_dump(), **more}))
        async with client(("127.0.0.1", 1), app) as http:
            for second in ("localhost", "evil.test", ""):
                request = http.build_request("GET", "/healthz")
                request.headers = httpx.Headers([("host", "localhost"), ("Host", second)])
                check_problem(await http.send(request), 400, "ambiguous_host")
            request = http.build_request("GET", "/healthz")
            del request.headers["host"]
            check_problem(await http.send(request), 400, "ambiguous_host")
        await app.state.holder.close()


@contextmanager
def hosted(app: ASGIApp, **options: Any) -> Iterator[uvicorn.Server]:
    """Run an app under uvicorn as it comes, in a thread, with none of the gateway's own parts."""
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None, **options))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), name="host")
    thread.start()
    try:
        wait_until(lambda: server.started, description="the host to serve")
        yield server
    finally:
        server.should_exit = True
        thread.join(20)
