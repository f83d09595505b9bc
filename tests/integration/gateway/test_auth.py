"""The locked gateway over real HTTP: who gets in, who does not, and what never shows."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import Scope

from mainstem_api.gateway import create_app
from mainstem_api.gateway.auth import stream_tokens
from mainstem_shared.model.principals import Principal
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.fakes.identity_provider import SETTINGS, bearer, token
from support.models.logs import RunLog
from support.processes.gateways import GatewayThread, Stream, check_problem


@pytest.fixture
def gateway(store_url: str, broker_url: str) -> Iterator[GatewayThread]:
    with GatewayThread(store_url, broker_url, **SETTINGS) as running:
        yield running


async def test_a_run_belongs_to_the_user_of_the_token(http: httpx.AsyncClient) -> None:
    """Whoever starts it reads it; the same name in another tenant is somebody else."""
    acme, other = bearer(tenant="acme"), bearer(tenant="other")
    started = await http.post("/v1/threads/t/runs", json={"engine": "demo"}, headers=acme)
    assert started.json()["user_id"] == "ann"
    path = started.headers["location"]
    assert (await http.get(path, headers=acme)).status_code == 200
    for stranger in (other, bearer(), bearer("bob", tenant="acme")):
        check_problem(await http.get(path, headers=stranger), 404, "not_found")
    again = await http.post("/v1/threads/t/runs", json={"engine": "demo"}, headers=other)
    assert again.status_code == 202  # the same thread id in another tenant is another thread


async def test_who_proves_nothing_gets_nowhere(http: httpx.AsyncClient) -> None:
    """Not even to the message that a path or a body is wrong; pages, probes and preflights stay open."""
    for path in ("/v1/runs", "/v1/nothing", "/v1", "/v1/", "/v1/runs/x/events", "/metrics"):
        refused = await http.get(path)
        check_problem(refused, 401, "not_authenticated")
        assert refused.headers["www-authenticate"] == "Bearer"
    refused = await http.post("/v1/threads/t/runs", content=b"{", headers={"authorization": "Bearer x"})
    check_problem(refused, 401, "not_authenticated")
    assert "invalid_token" in refused.headers["www-authenticate"]
    for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
        assert (await http.get(path)).status_code == 200, path
    assert (await http.options("/v1/runs")).status_code == 204
    for path in ("/V1/runs", "//x/v1/runs", "/%2e/v1/runs", "/v1%2fruns", "/docs/../v1/runs"):
        refused = await http.get(path)
        assert refused.status_code in {401, 404}, path


async def test_an_admin_sees_and_stops_the_runs_of_their_tenant(http: httpx.AsyncClient) -> None:
    """And nobody else does, nor an admin of another tenant."""

    async def start(user: str, tenant: str) -> str:
        headers = bearer(user, tenant=tenant)
        started = await http.post("/v1/threads/t/runs", json={"engine": "demo"}, headers=headers)
        return started.json()["run_id"]

    run_id, other = await start("ann", "acme"), await start("bob", "other")
    admin = bearer("root", tenant="acme", scope="read admin")

    async def listed(headers: dict[str, str], **query: str) -> list[str]:
        page = (await http.get("/v1/runs", params=query, headers=headers)).json()
        return [run["run_id"] for run in page["runs"]]

    assert await listed(admin) == []
    for user in ("*", "ann"):
        assert await listed(admin, user=user) == [run_id]
        assert await listed(bearer("bob", tenant="acme"), user=user) == []
        assert await listed(bearer("root", tenant="other", scope="admin"), user=user) == (
            [other] if user == "*" else []
        )
    assert await listed(bearer("ann", tenant="acme"), user="ann") == [run_id]
    assert (await http.get("/metrics", headers=admin)).status_code == 200
    check_problem(await http.get("/metrics", headers=bearer()), 403, "forbidden")
    check_problem(await http.post(f"/v1/runs/{other}/abort", headers=admin), 404, "not_found")
    assert (await http.post(f"/v1/runs/{run_id}/abort", headers=admin)).status_code == 200


# -- stream tokens


async def stream_token(http: httpx.AsyncClient, run_id: str, headers: dict[str, str]) -> str:
    issued = await http.post(f"/v1/runs/{run_id}/stream-token", headers=headers)
    assert issued.status_code == 200, issued.text
    assert issued.headers["cache-control"] == "no-store"
    assert issued.json()["expires_at"].endswith("Z")
    return issued.json()["token"]


async def test_a_stream_token_opens_one_runs_events_and_nothing_else(
    http: httpx.AsyncClient, store: Store
) -> None:
    """For its user's run, without any header; not another run, another route or another method."""
    log = await RunLog.start(store, user_id="ann", tenant="acme")
    sibling = await RunLog.start(store, user_id="ann", tenant="acme")
    given = await stream_token(http, log.run_id, bearer(tenant="acme"))
    events = f"/v1/runs/{log.run_id}/events"
    async with http.stream("GET", events, params={"token": given, "after": "0-0"}) as response:
        assert (await anext(Stream(response))).type == "run.created"
    for path in (f"/v1/runs/{sibling.run_id}/events", f"/v1/runs/{log.run_id}", "/v1/runs", "/metrics"):
        check_problem(await http.get(path, params={"token": given}), 401, "not_authenticated")
    check_problem(await http.post(events, params={"token": given}), 401, "not_authenticated")
    for bad in (given[:-2], "", "x", token(tenant="acme"), given + "&token=x"):
        refused = await http.get(f"{events}?token={bad}")
        check_problem(refused, 401, "not_authenticated")
    check_problem(
        await http.get(f"/v1/runs/{log.run_id}", headers={"authorization": f"Bearer {given}"}),
        401,
        "not_authenticated",
    )
    for stranger in (bearer("bob", tenant="acme"), bearer(tenant="other")):
        refused = await http.post(f"/v1/runs/{log.run_id}/stream-token", headers=stranger)
        check_problem(refused, 404, "not_found")


async def test_a_stream_token_expires_and_holds_at_every_gateway(
    store: Store, store_url: str, broker_url: str
) -> None:
    """Gateways share the secret through the store; a token that is too old is no use anywhere."""
    log = await RunLog.start(store)
    with (
        GatewayThread(store_url, broker_url, **SETTINGS, stream_token_s=0.001) as brief,
        GatewayThread(store_url, broker_url, **SETTINGS) as other,
    ):
        async with brief.client() as one, other.client() as two:
            events = f"/v1/runs/{log.run_id}/events"
            given = await stream_token(two, log.run_id, bearer("local"))
            async with one.stream("GET", events, params={"token": given}) as response:
                assert response.status_code == 200
            given = await stream_token(one, log.run_id, bearer("local"))
            refused = await two.get(events, params={"token": given})
            assert "expired" in check_problem(refused, 401, "not_authenticated")["detail"]
    assert await store.client.strlen(keys.STREAM_SECRET) == 32


async def test_a_lost_secret_comes_back(
    http: httpx.AsyncClient, gateway: GatewayThread, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that failed over without it gets it from the gateways: tokens that are out stay good."""
    log = await RunLog.start(store, user_id="ann")
    given = await stream_token(http, log.run_id, bearer())
    secret = await store.client.get(keys.STREAM_SECRET)
    await store.client.delete(keys.STREAM_SECRET)
    monkeypatch.setattr(stream_tokens, "REREAD_S", 0.0)
    async with http.stream("GET", f"/v1/runs/{log.run_id}/events", params={"token": given}) as response:
        assert response.status_code == 200
    assert await store.client.get(keys.STREAM_SECRET) == secret


async def test_no_token_is_ever_logged(
    store: Store, store_url: str, broker_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Not with access logs, not by a refusal, however it is spelled in the address."""
    log = await RunLog.start(store)
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.INFO, logger="uvicorn.access")
    with GatewayThread(store_url, broker_url, **SETTINGS) as gateway:
        async with gateway.client() as http:
            given = await stream_token(http, log.run_id, bearer("local"))
            events = f"/v1/runs/{log.run_id}/events"
            async with http.stream("GET", f"{events}?after=0-0&token={given}") as response:
                assert response.status_code == 200
            for address in (f"{events}?t%6fken={given}x", f"/v1/runs?token={given}", f"/docs?token={given}"):
                await http.get(address)
            await http.get("/v1/runs", headers=bearer("carl") | {"x-request-id": "seen"})
            bad = token("carl") + "x"
            await http.get("/v1/runs", headers={"authorization": f"Bearer {bad}"})
    ours = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    text = "\n".join(str(vars(record)) + record.getMessage() for record in ours)
    assert f'"GET {events}?after=0-0 HTTP/1.1" 200' in text
    for secret in (given, given.split(".")[2][:20], bad, "carl"):
        assert secret not in text


# -- behind a proxy, in front of one's own users, and with nobody in front


async def test_behind_a_proxy_only_its_connection_counts(
    store: Store, store_url: str, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client's own X-Forwarded-For makes nobody a proxy, whatever the server's defaults think of it."""
    log = await RunLog.start(store, user_id="ann", tenant="acme")
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    settings = {"auth": "proxy", "proxy_tenant_header": "X-Tenant"}
    headers = {"x-forwarded-user": "ann", "x-tenant": "acme", "x-forwarded-for": "10.0.0.5"}
    path = f"/v1/runs/{log.run_id}"
    for peers, status in (("127.0.0.1", 200), ("10.0.0.5", 401)):
        with GatewayThread(store_url, broker_url, **settings, proxy_peers=peers) as gateway:
            async with gateway.client() as http:
                assert (await http.get(path, headers=headers)).status_code == status
                assert (await http.get(path)).status_code == 401


async def test_a_host_may_bring_its_own_users(store: Store, store_url: str, broker_url: str) -> None:
    """Mounted into an app that knows its users, the door asks that app."""

    class Hosted:
        async def authenticate(self, scope: Scope) -> Principal:
            return Principal(user_id=scope["state"]["user"])

        async def aclose(self) -> None:
            pass

    log = await RunLog.start(store, user_id="ann")
    inner = create_app(Settings(redis_url=store_url, broker_url=broker_url), authenticator=Hosted())
    host = FastAPI()
    host.mount("/ai", inner)
    for user, status in (("ann", 200), ("bob", 404)):

        async def known(scope, receive, send, user: str = user) -> None:
            scope["state"] = {"user": user}
            await host(scope, receive, send)

        async with httpx.AsyncClient(transport=httpx.ASGITransport(known), base_url="http://host") as http:
            assert (await http.get(f"/ai/v1/runs/{log.run_id}")).status_code == status
    await inner.state.holder.close()


def refused_to_start(*arguments: str, pass_fds: tuple[int, ...] = (), **environment: str) -> str:
    """Run a command that must end by itself, at once, with a sentence instead of a traceback."""
    process = subprocess.run(
        [sys.executable, "-c", "from mainstem_api.cli import main; main()", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=50,
        pass_fds=pass_fds,
        check=False,
    )
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    return process.stderr


def test_without_authentication_it_does_not_listen_to_others(
    store_url: str, broker_url: str, tmp_path: Path
) -> None:
    """By its settings, or by a socket it inherits: it says why, and is gone."""
    servers = {"MAINSTEM_REDIS_URL": store_url, "MAINSTEM_BROKER_URL": broker_url}
    with socket.create_server(("0.0.0.0", 0)) as listening:
        descriptor = listening.fileno()
        said = refused_to_start("gateway", "--fd", str(descriptor), pass_fds=(descriptor,), **servers)
    assert "MAINSTEM_AUTH" in said
    data = str(tmp_path / "data")
    assert "MAINSTEM_AUTH" in refused_to_start("up", MAINSTEM_HOST="0.0.0.0", MAINSTEM_DATA_DIR=data)
    assert not (tmp_path / "data").exists()


async def test_keys_that_cannot_be_fetched_are_503(store_url: str, broker_url: str) -> None:
    """With Retry-After: nobody knows whether the token is good."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/jwks.json"
    settings = {**SETTINGS, "jwt_secret": None, "jwt_jwks": url}
    with GatewayThread(store_url, broker_url, **settings) as gateway:
        async with gateway.client() as http:
            answers = await asyncio.gather(*(http.get("/v1/runs", headers=bearer()) for _ in range(3)))
    for answer in answers:
        check_problem(answer, 503, "keys_unavailable")
        assert int(answer.headers["retry-after"]) > 0


# -- threads


async def test_a_thread_belongs_to_the_user_whose_runs_it_has(http: httpx.AsyncClient, store: Store) -> None:
    """Nobody else of the tenant starts there, waits there or replaces what runs; they learn nothing of it."""
    ann, bob = bearer(), bearer("bob")

    async def start(headers: dict[str, str], **body: str) -> httpx.Response:
        return await http.post("/v1/threads/t/runs", json={"engine": "demo", **body}, headers=headers)

    first = (await start(ann)).json()["run_id"]
    for if_active in ("reject", "enqueue", "replace"):
        refused = check_problem(await start(bob, if_active=if_active), 404, "not_found")
        assert first not in str(refused)
    check_problem(await http.delete("/v1/threads/t", headers=bob), 404, "not_found")
    assert (await http.get("/v1/threads/t/runs", headers=bob)).json()["runs"] == []
    assert (await http.get(f"/v1/runs/{first}", headers=ann)).json()["status"] == "queued"
    await http.post(f"/v1/runs/{first}/abort?wait=5", headers=ann)
    check_problem(await start(bob), 404, "not_found")  # also while nothing runs there
    assert (await start(ann)).status_code == 202
    assert (await http.get("/v1/runs", headers=bob)).json()["runs"] == []
    assert (await http.delete("/v1/threads/t", headers=ann)).status_code == 204
    assert (await start(bob)).status_code == 202


async def test_a_limit_of_runs_names_no_other_users_run(
    store: Store, store_url: str, broker_url: str
) -> None:
    """Where both refusals would do, the one that says nothing of anybody else."""
    with GatewayThread(store_url, broker_url, **SETTINGS, max_active_runs_per_user=1) as gateway:
        async with gateway.client() as http:
            held = await http.post("/v1/threads/t/runs", json={"engine": "demo"}, headers=bearer())
            await http.post("/v1/threads/b/runs", json={"engine": "demo"}, headers=bearer("bob"))
            refused = await http.post("/v1/threads/t/runs", json={"engine": "demo"}, headers=bearer("bob"))
            check_problem(refused, 429, "too_many_runs")
            assert held.json()["run_id"] not in refused.text
