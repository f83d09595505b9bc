"""Below each protocol's prefix, what no route of it saw is refused in its own shape, and `Retry-After` is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from mainstem_api.gateway.adapters.routers import ERROR_FORMATS
from mainstem_api.gateway.middleware.request_limits import BODY_LIMIT
from support.fakes.identity_provider import SETTINGS, bearer
from support.processes.gateways import GatewayThread
from support.processes.servers import ValkeyProcess

JSON = {"content-type": "application/json"}


def openai(body: Any) -> None:
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["code"]


def a2a(body: Any) -> None:
    assert (body["jsonrpc"], body["id"]) == ("2.0", None)
    assert body["error"]["code"] < -32000
    assert body["error"]["data"][0]["reason"]


def langgraph(body: Any) -> None:
    assert set(body) == {"detail", "code"}


SHAPES: dict[str, Callable[[Any], None]] = {
    **dict.fromkeys(("/v1/responses", "/v1/chat", "/v1/models", "/v1/conversations", "/v1/files"), openai),
    "/v1/a2a": a2a,
    "/v1/langgraph": langgraph,
}
POSTED = {
    "/v1/responses": "/v1/responses",
    "/v1/chat": "/v1/chat/completions",
    "/v1/conversations": "/v1/conversations",
    "/v1/files": "/v1/files",
    "/v1/a2a": "/v1/a2a/demo",
    "/v1/langgraph": "/v1/langgraph/threads/search",
}
"""By prefix: a route that takes a body."""


def test_every_prefix_has_its_shape_here() -> None:
    """A protocol that is added says what its errors look like."""
    assert SHAPES.keys() == ERROR_FORMATS.keys()


@pytest.fixture(scope="module")
def http(valkey_server: ValkeyProcess) -> Iterator[httpx.Client]:
    with (
        GatewayThread(valkey_server.url(0), valkey_server.url(1), **SETTINGS) as gateway,
        httpx.Client(base_url=gateway.url, trust_env=False, timeout=30) as client,
    ):
        yield client


@pytest.mark.parametrize("prefix", SHAPES, ids=lambda prefix: prefix.rpartition("/")[2])
def test_what_no_route_saw(http: httpx.Client, prefix: str):
    """401 before anything else; 404 of a path, 405 of a method, 413 of a body, 415 or 422 of what is no JSON."""
    path = POSTED.get(prefix, prefix)
    ours = bearer()
    answers = [
        (401, http.get(path)),
        (401, http.post(path, json={}, headers={"authorization": "Bearer nonsense"})),
        (404, http.get(f"{prefix}/no/such/path/here", headers=ours)),
        (405, http.put(path, json={}, headers=ours)),
    ]
    if prefix in POSTED:
        large = b" " * (BODY_LIMIT + 1)
        answers += [
            (413, http.post(path, content=large, headers={**ours, **JSON})),
            (422, http.post(path, content=b"{", headers={**ours, **JSON})),
        ]
    for status, answer in answers:
        assert answer.status_code in ((400, 422) if status == 422 else (status,)), (status, answer.text)
        SHAPES[prefix](answer.json())
        if status == 401:
            assert answer.headers["www-authenticate"].startswith("Bearer")
        if answer.status_code == 405:
            assert answer.headers["allow"]


@pytest.mark.parametrize("prefix", SHAPES, ids=lambda prefix: prefix.rpartition("/")[2])
def test_who_asks_too_often(hurried: httpx.Client, prefix: str):
    """429, with the seconds to wait in the header that clients read."""
    path = POSTED.get(prefix, prefix)
    answer = hurried.get(path, headers=bearer())
    if answer.status_code != 429:  # a minute has passed meanwhile
        answer = hurried.get(path, headers=bearer())
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) > 0
    SHAPES[prefix](answer.json())


@pytest.fixture(scope="module")
def hurried(valkey_server: ValkeyProcess) -> Iterator[httpx.Client]:
    """A gateway whose user has had the one request of this minute."""
    with (
        GatewayThread(
            valkey_server.url(0), valkey_server.url(1), **SETTINGS, max_requests_per_minute=1
        ) as gateway,
        httpx.Client(base_url=gateway.url, trust_env=False, timeout=30) as client,
    ):
        client.get("/v1/runs", headers=bearer())
        yield client
