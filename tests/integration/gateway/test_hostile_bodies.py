"""Every route that takes a body gets hostile values in each place of it: refused or taken, never a failure of ours."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from integration.gateway.test_refusals import BODIES, named
from support.processes.gateways import GatewayThread

HOSTILE = {
    "half a character as a name": '{"\\ud800": 1}',
    "half a character": '"\\udfff"',
    "NUL": '{"\\u0000": "a\\u0000b"}',
    "a number of 400 digits": "9" * 400,
    "a negative number": "-1e308",
    "90 levels": "[" * 90 + "]" * 90,
    "a line break": '"x\\r\\nset-cookie: y=z"',
}
STREAMED: dict[str, Any] = {"/v1/chat/completions": {"stream": True}, "/v1/responses": {"background": True}}
"""What makes these routes answer before their run is over: nobody executes it here."""
RICH: dict[str, Any] = {
    "/v1/threads/{thread_id}/runs": {
        "metadata": {"a": 1}, "max_duration_s": 5, "if_active": "enqueue", "message_id": "m",
        "budget": {"tokens": 5}, "callback": {"task": "shop.paid"}, "parent": "p",
    },
    "/v1/runs/{run_id}/resume": {"answers": [{"question_id": "q", "value": 1}]},
}  # fmt: skip


def places(body: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a JSON value, the whole of it included."""
    yield path
    members = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    for name, value in members:
        yield from places(value, (*path, name))


def with_hole(body: Any, path: tuple[Any, ...]) -> Any:
    """The same value with a mark in one place."""
    if not path:
        return "@hole@"
    name, *rest = path
    changed = dict(body) if isinstance(body, dict) else list(body)
    changed[name] = with_hole(body[name], tuple(rest))
    return changed


def routes() -> list[tuple[str, dict[str, Any]]]:
    return [
        (path, {**body, **STREAMED.get(path, {}), **RICH.get(path, {})})
        for path, body in BODIES.items()
        if not path.endswith("/wait") and "/a2a/" not in path  # they answer when their run is over
    ]


@pytest.mark.parametrize("hostile", HOSTILE)
async def test_no_value_is_a_failure_of_ours(gateway: GatewayThread, hostile: str):
    """Whatever stands wherever: no 5xx; and what was taken is listed, read and deleted afterwards."""
    async with gateway.client() as http:
        started = await http.post("/v1/threads/thread/runs", json={"engine": "demo"})
        run_id = started.json()["run_id"]
        room = asyncio.Semaphore(8)
        asked = [
            (path.format(**named(path, run_id=run_id, key="k")), body, place)
            for path, body in routes()
            for place in places(body)
        ]
        assert len(asked) > 60
        await asyncio.gather(*(check(http, room, path, body, place, hostile) for path, body, place in asked))
        for path in ("/v1/runs", "/v1/threads", "/v1/threads/thread/messages", f"/v1/runs/{run_id}"):
            assert (await http.get(path)).status_code == 200, path
        assert (await http.delete("/v1/threads/thread")).status_code in (204, 409)


async def check(
    http: httpx.AsyncClient, room: asyncio.Semaphore, path: str, body: Any, place: Any, hostile: str
) -> None:
    content = json.dumps(with_hole(body, place)).replace('"@hole@"', HOSTILE[hostile])
    method = "PATCH" if "title" in body else "POST"
    headers = {"content-type": "application/json"}
    async with room, http.stream(method, path, content=content, headers=headers) as answer:
        assert answer.status_code < 500, (method, path, place, content[:300])
