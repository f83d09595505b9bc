"""The authorisation matrix: every route of the gateway, for everybody who may come.

Routes are taken from the app itself: one that is added without a row here fails.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from fastapi import FastAPI

from mainstem_api.gateway import create_app
from mainstem_shared.settings import Settings
from mainstem_shared.store.client import Store
from support.fakes.identity_provider import SETTINGS, bearer
from support.models.logs import RunLog
from support.processes.gateways import GatewayThread

OWNER, TENANT = "owner-ann", "tenant-acme"
THREAD = "thread-of-ann"
NOBODY = {
    "no token": {},
    "bad token": {"authorization": bearer(OWNER, tenant=TENANT)["authorization"] + "x"},
    "expired": bearer(OWNER, tenant=TENANT, exp=int(time.time()) - 3600),
}
STRANGERS = {
    "other user": bearer("bob", tenant=TENANT),
    "other tenant": bearer(OWNER, tenant="other"),
    "admin of another tenant": bearer(OWNER, tenant="third", scope="admin"),
}
ADMIN = bearer("root", tenant=TENANT, scope="admin")
OWN = bearer(OWNER, tenant=TENANT)


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a route answers to whom. `path` and `body` are filled with the run's id, and the thread's."""

    stranger: int
    admin: int
    owner: int
    elsewhere: int | None = None
    """In another tenant the thread's name means another thread."""
    body: dict[str, Any] | None = None
    query: dict[str, str] = field(default_factory=dict)
    running: bool = False
    """The run is with a worker; else it waits for one."""
    over: bool = False
    """The run is over."""


def public(status: int = 200) -> Row:
    return Row(stranger=status, admin=status, owner=status)


USER_MESSAGE = {"id": "m", "role": "user", "parts": [{"type": "text", "text": "hi"}]}
AG_UI = {
    "threadId": THREAD, "runId": "r1", "protocolVersion": "1.0", "state": {}, "tools": [], "context": [],
    "messages": [{"id": "m", "role": "user", "content": "hi"}], "forwardedProps": {"mainstem": {"engine": "demo", "if_active": "reject"}},
}  # fmt: skip

A2A = {"jsonrpc": "2.0", "id": 1, "method": "GetTask", "params": {"id": "{run_id}"}}
NO_MODE = {"assistant_id": "demo", "stream_mode": "nothing"}
SDK_CHAT = {"id": THREAD, "messages": [USER_MESSAGE], "trigger": "submit-message"}
EMPTY_OR_OWN = Row(stranger=200, admin=200, owner=200)
LANGGRAPH_START = Row(
    stranger=404,
    admin=404,
    owner=409,
    body={"assistant_id": "demo", "input": {}, "multitask_strategy": "reject"},
    elsewhere=200,
)

MATRIX: dict[tuple[str, str], Row] = {
    ("POST", "/v1/threads/{thread_id}/runs"): Row(
        stranger=404, admin=404, owner=409, body={"engine": "demo", "if_active": "reject"},
        elsewhere=202,
    ),
    ("GET", "/v1/threads/{thread_id}/runs"): Row(stranger=200, admin=200, owner=200),
    ("GET", "/v1/threads/{thread_id}/messages"): Row(stranger=404, admin=200, owner=200),
    ("GET", "/v1/ag-ui/threads/{thread_id}/messages"): EMPTY_OR_OWN,
    ("GET", "/v1/ai-sdk/chat/{id}/messages"): EMPTY_OR_OWN,
    ("GET", "/v1/ai-sdk/v{version}/chat/{id}/messages"): EMPTY_OR_OWN,
    ("POST", "/v1/threads/{thread_id}/fork"): Row(stranger=404, admin=404, owner=201, body={}, over=True),
    ("DELETE", "/v1/threads/{thread_id}"): Row(stranger=404, admin=404, owner=204),
    ("GET", "/v1/runs"): Row(stranger=200, admin=200, owner=200, query={"user": OWNER}),
    ("GET", "/v1/runs/{run_id}"): Row(stranger=404, admin=200, owner=200),
    ("GET", "/v1/threads"): public(),
    ("PATCH", "/v1/threads/{thread_id}"): Row(stranger=404, admin=404, owner=200, body={"title": "T"}),
    ("PATCH", "/v1/runs/{run_id}"): Row(stranger=404, admin=404, owner=200, body={"labels": ["l"]}),
    ("GET", "/v1/runs/{run_id}/input"): Row(stranger=404, admin=200, owner=200),
    ("GET", "/v1/runs/{run_id}/blobs/{digest}"): Row(stranger=404, admin=404, owner=404),
    ("GET", "/v1/runs/{run_id}/events"): Row(stranger=404, admin=200, owner=200),
    ("POST", "/v1/runs/{run_id}/stream-token"): Row(stranger=404, admin=200, owner=200),
    ("POST", "/v1/runs/{run_id}/abort"): Row(stranger=404, admin=200, owner=200),
    ("POST", "/v1/runs/{run_id}/resume"): Row(
        stranger=404, admin=404, owner=409,
        body={"action_id": "a", "answers": [{"question_id": "q", "text": "x"}]},
    ),
    ("POST", "/v1/runs/{run_id}/input"): Row(
        stranger=404, admin=404, owner=202, body={"text": "hello"}, running=True
    ),
    ("POST", "/v1/events/{key}"): Row(stranger=202, admin=202, owner=202, body={"payload": "arrived"}),
    ("GET", "/v1/me"): Row(stranger=200, admin=200, owner=200),
    ("GET", "/v1/usage"): Row(stranger=200, admin=200, owner=200, query={"user": OWNER}),
    ("GET", "/v1/callbacks"): Row(stranger=200, admin=200, owner=200),
    ("POST", "/v1/runs/{run_id}/callbacks/resend"): Row(stranger=404, admin=409, owner=404),
    ("GET", "/v1/overview"): Row(stranger=200, admin=200, owner=200, query={"user": OWNER}),
    ("POST", "/v1/overview/rerun"): Row(stranger=200, admin=200, owner=200, query={"user": OWNER}),
    ("GET", "/v1/overview/trends"): Row(stranger=200, admin=200, owner=200),
    ("POST", "/v1/ai-sdk/chat"): Row(
        stranger=404, admin=404, owner=409,
        body={"id": THREAD, "messages": [USER_MESSAGE], "trigger": "submit-message",
              "mainstem": {"engine": "demo", "if_active": "reject"}},
        elsewhere=200,
    ),
    ("POST", "/v1/overview/abort"): Row(stranger=200, admin=200, owner=200, query={"user": OWNER}),
    ("GET", "/v1/runs/{run_id}/details"): Row(stranger=404, admin=200, owner=200),
    ("GET", "/v1/ai-sdk/chat/{id}/stream"): Row(stranger=204, admin=204, owner=200),
    ("POST", "/v1/ai-sdk/chat/{id}/stop"): Row(stranger=200, admin=200, owner=200),
    ("POST", "/v1/ag-ui"): Row(stranger=404, admin=404, owner=409, elsewhere=200, body=AG_UI),
    ("POST", "/v1/responses"): Row(
        stranger=404, admin=404, owner=409,
        body={"model": "demo", "input": "hi", "background": True, "previous_response_id": "resp_{run_id}"},
    ),
    ("GET", "/v1/responses/{response_id}"): Row(stranger=404, admin=200, owner=200),
    ("POST", "/v1/responses/{response_id}/cancel"): Row(stranger=404, admin=200, owner=200),
    ("GET", "/v1/responses/{response_id}/input_items"): Row(stranger=404, admin=200, owner=200),
    ("DELETE", "/v1/responses/{response_id}"): Row(stranger=404, admin=404, owner=200),
    ("POST", "/v1/conversations"): Row(stranger=200, admin=200, owner=200, body={}),
    ("GET", "/v1/conversations/{conversation_id}"): Row(stranger=404, admin=200, owner=200),
    ("DELETE", "/v1/conversations/{conversation_id}"): Row(stranger=404, admin=404, owner=200),
    ("GET", "/v1/conversations/{conversation_id}/items"): Row(stranger=404, admin=200, owner=200),
    ("POST", "/v1/chat/completions"): Row(
        stranger=404, admin=404, owner=409,
        body={"model": "demo", "messages": [{"role": "tool", "tool_call_id": "ask_{run_id}.a.q", "content": "x"}]},
    ),
    ("GET", "/v1/chat/completions/{completion_id}"): Row(
        stranger=404, admin=200, owner=200, query={"stream": "true"}
    ),
    ("POST", "/v1/files"): Row(stranger=400, admin=400, owner=400, body={}),  # files: test_files.py
    ("GET", "/v1/files"): Row(stranger=200, admin=200, owner=200),
    ("GET", "/v1/files/{file_id}"): Row(stranger=404, admin=404, owner=404),
    ("GET", "/v1/files/{file_id}/content"): Row(stranger=404, admin=404, owner=404),
    ("DELETE", "/v1/files/{file_id}"): Row(stranger=404, admin=404, owner=404),
    ("GET", "/v1/models"): Row(stranger=200, admin=200, owner=200),
    ("GET", "/v1/models/{model}"): Row(stranger=404, admin=404, owner=404),
    ("GET", "/v1/a2a/{engine}/.well-known/agent-card.json"): Row(stranger=404, admin=404, owner=404),
    ("POST", "/v1/a2a/{engine}"): Row(stranger=200, admin=200, owner=200, body=A2A),
    ("POST", "/v1/langgraph/assistants/search"): Row(stranger=200, admin=200, owner=200, body={}),
    ("GET", "/v1/langgraph/assistants/{assistant_id}"): Row(stranger=404, admin=404, owner=404),
    ("GET", "/v1/langgraph/assistants/{assistant_id}/schemas"): Row(stranger=404, admin=404, owner=404),
    ("POST", "/v1/langgraph/threads"): Row(stranger=200, admin=200, owner=200, body={}),
    ("GET", "/v1/langgraph/threads/{thread_id}"): EMPTY_OR_OWN,
    ("POST", "/v1/langgraph/threads/search"): Row(stranger=200, admin=200, owner=200, body={}),
    ("PATCH", "/v1/langgraph/threads/{thread_id}"): Row(
        stranger=404, admin=404, owner=200, body={"metadata": {"a": "b"}}
    ),
    ("POST", "/v1/langgraph/threads/{thread_id}/state"): Row(stranger=404, admin=404, owner=404, body={}),
    ("POST", "/v1/langgraph/runs/crons"): Row(stranger=404, admin=404, owner=404, body={}),
    ("POST", "/v1/langgraph/threads/{thread_id}/runs/crons"): Row(stranger=404, admin=404, owner=404, body={}),
    ("DELETE", "/v1/langgraph/threads/{thread_id}"): Row(stranger=404, admin=404, owner=204),
    ("GET", "/v1/langgraph/threads/{thread_id}/state"): EMPTY_OR_OWN,
    ("POST", "/v1/langgraph/threads/{thread_id}/history"): Row(stranger=200, admin=200, owner=200, body={}),
    ("POST", "/v1/langgraph/threads/{thread_id}/runs"): LANGGRAPH_START,
    ("POST", "/v1/langgraph/threads/{thread_id}/runs/stream"): LANGGRAPH_START,
    ("POST", "/v1/langgraph/threads/{thread_id}/runs/wait"): Row(stranger=422, admin=422, owner=422, body=NO_MODE),
    ("GET", "/v1/langgraph/threads/{thread_id}/runs"): Row(stranger=200, admin=200, owner=200),
    ("GET", "/v1/langgraph/threads/{thread_id}/runs/{run_id}"): Row(stranger=404, admin=200, owner=200),
    ("GET", "/v1/langgraph/threads/{thread_id}/runs/{run_id}/stream"): Row(stranger=404, admin=200, owner=200),
    ("POST", "/v1/langgraph/threads/{thread_id}/runs/{run_id}/cancel"): Row(stranger=404, admin=404, owner=202),
    ("GET", "/v1/langgraph/threads/{thread_id}/runs/{run_id}/join"): Row(stranger=404, admin=200, owner=200, over=True),
    ("POST", "/v1/langgraph/runs"): Row(stranger=422, admin=422, owner=422, body=NO_MODE),
    **{
        (method, "/v1/langgraph/store/{path:path}"): Row(stranger=404, admin=404, owner=404)
        for method in ("GET", "PUT", "POST", "DELETE")
    },
    ("POST", "/v1/langgraph/runs/stream"): Row(stranger=422, admin=422, owner=422, body=NO_MODE),
    ("POST", "/v1/langgraph/runs/wait"): Row(stranger=422, admin=422, owner=422, body=NO_MODE),
    ("POST", "/v1/ai-sdk/v{version}/chat"): Row(stranger=404, admin=404, owner=404, body=SDK_CHAT),
    ("GET", "/v1/ai-sdk/v{version}/chat/{id}/stream"): Row(stranger=404, admin=404, owner=404),
    ("POST", "/v1/ai-sdk/v{version}/chat/{id}/stop"): Row(stranger=200, admin=200, owner=200),
    ("GET", "/metrics"): Row(stranger=403, admin=200, owner=403),
    ("GET", "/healthz"): public(),
    ("HEAD", "/healthz"): public(),
    ("GET", "/readyz"): public(),
    ("HEAD", "/readyz"): public(),
    ("GET", "/"): public(),
    ("HEAD", "/"): public(),
    ("GET", "/runs"): public(),
    ("HEAD", "/runs"): public(),
    ("GET", "/runs/{run_id}"): public(),
    ("HEAD", "/runs/{run_id}"): public(),
    ("GET", "/pages/{path:path}"): public(404),
    ("HEAD", "/pages/{path:path}"): public(404),
    ("GET", "/docs"): public(),
    ("HEAD", "/docs"): public(),
    ("GET", "/openapi.json"): public(),
    ("HEAD", "/openapi.json"): public(),
}  # fmt: skip


def routes(app: FastAPI) -> Iterator[tuple[str, str]]:
    """Yield method and path of everything that an app answers."""
    for route in app.routes:
        for one in getattr(getattr(route, "original_router", None), "routes", [route]):
            for method in one.methods:
                yield method, one.path


@pytest.fixture(scope="module")
def gateway(valkey_server) -> Iterator[GatewayThread]:
    with valkey_server.client() as client:
        client.flushall()
    with GatewayThread(valkey_server.url(0), valkey_server.url(1), **SETTINGS) as running:
        yield running


@pytest.fixture
async def store(gateway: GatewayThread) -> AsyncIterator[Store]:
    assert gateway.settings.redis_url is not None
    connected = Store(gateway.settings.redis_url.get_secret_value())
    await connected.client.flushdb()
    yield connected
    await connected.close()


def test_every_route_has_a_row() -> None:
    """And every row a route: nothing is served that nobody thought about."""
    app = create_app(Settings(redis_url="redis://h", broker_url="redis://h"))
    assert set(routes(app)) == set(MATRIX)


@pytest.mark.parametrize(("method", "path"), MATRIX, ids=lambda part: part)
async def test_who_may_what(gateway: GatewayThread, store: Store, method: str, path: str) -> None:
    """Nobody without a token; strangers get, see and change nothing; an admin and the owner what is theirs."""
    row = MATRIX[method, path]
    log = await RunLog.start(store, user_id=OWNER, tenant=TENANT, thread_id=THREAD)
    if row.running or row.over:
        await log.claim()
    if row.over:
        await log.finish()
    body = _filled(row.body, lambda text: text.replace("{run_id}", log.run_id))
    target = (
        path.replace("{thread_id}", THREAD).replace("{id}", THREAD).replace("{run_id}", log.run_id)
        .replace("{response_id}", f"resp_{log.run_id}").replace("{path:path}", "../app.py")
        .replace("{conversation_id}", THREAD).replace("{engine}", "demo").replace("{completion_id}", f"chatcmpl-{log.run_id}")
    )  # fmt: skip
    is_public = not path.startswith("/v1") and path != "/metrics"

    async with gateway.client() as http:

        async def ask(headers: dict[str, str]) -> tuple[int, str]:
            options: dict[str, Any] = {"headers": headers, "params": row.query}
            async with http.stream(method, target, json=body, **options) as answer:
                streams = answer.headers.get("content-type", "").startswith("text/event-stream")
                return answer.status_code, "" if streams else (await answer.aread()).decode()

        async def state() -> Any:
            return (await http.get(f"/v1/runs/{log.run_id}", headers=OWN)).json()

        before = await state()
        for who, headers in NOBODY.items():
            status, text = await ask(headers)
            assert status == (row.owner if is_public else 401), who
            _check_silence(text, log.run_id)
        for who, headers in STRANGERS.items():
            status, text = await ask(headers)
            if path == "/metrics" and "admin" in who:
                assert status == 200
            else:
                elsewhere = row.elsewhere is not None and headers is not STRANGERS["other user"]
                assert status == (row.elsewhere if elsewhere else row.stranger), (who, text)
            if path != "/v1/me" and status != 202:  # which tell users of themselves
                _check_silence(text, log.run_id)
        assert await state() == before, "a stranger changed something"
        assert (await ask(ADMIN))[0] == row.admin
        assert (await ask(OWN))[0] == row.owner


def _filled(value: Any, fill: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {name: _filled(child, fill) for name, child in value.items()}
    if isinstance(value, list):
        return [_filled(child, fill) for child in value]
    return fill(value) if isinstance(value, str) else value


def _check_silence(text: str, run_id: str) -> None:
    """Nothing of the run, its user, tenant or thread is in an answer to somebody else."""
    for secret in (run_id, run_id.partition("_")[2], OWNER, TENANT):
        assert secret not in text


async def test_metrics_and_logs_name_nobody(
    gateway: GatewayThread, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Labels are routes, methods and statuses; log lines of refusals hold no user, tenant or thread."""
    log = await RunLog.start(store, user_id=OWNER, tenant=TENANT, thread_id=THREAD)
    async with gateway.client() as http:
        for headers in (*NOBODY.values(), *STRANGERS.values(), ADMIN, OWN):
            await http.get(f"/v1/runs/{log.run_id}", headers=headers)
            await http.get(f"/v1/threads/{THREAD}/runs", headers=headers)
            await http.request("X" + OWNER.replace("-", ""), "/v1/runs", headers=headers)
            await http.get(f"/v1/{OWNER}", headers=headers)
            async with http.stream("GET", f"/v1/runs/{log.run_id}/events", headers=headers) as answer:
                assert answer.status_code
        text = (await http.get("/metrics", headers=ADMIN)).text
    ours = [r for r in caplog.records if r.name.startswith(("mainstem", "uvicorn"))]
    said = "\n".join(str(vars(record)) for record in ours)
    for secret in (log.run_id, OWNER, TENANT, THREAD, "bob", OWNER.replace("-", "")):
        assert secret not in text
        assert secret not in said
