"""The Responses API over plain HTTP and a real store: numbers outlive the log; conversations; refusals."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from mainstem_shared.model import jsontext
from mainstem_shared.model.events import Type
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.models.logs import RunLog
from support.processes.gateways import GatewayThread


@pytest.fixture
def other_gateway(store_url: str, broker_url: str) -> Iterator[GatewayThread]:
    with GatewayThread(store_url, broker_url) as running:
        yield running


async def events(
    gateway: GatewayThread, log: RunLog, *, after: int | None = None, count: int | None = None
) -> list[dict[str, Any]]:
    """Read a response's events: all of them, or so many and then leave."""
    params = {"stream": "true", **({} if after is None else {"starting_after": str(after)})}
    found: list[dict[str, Any]] = []
    path = f"/v1/responses/resp_{log.run_id}"
    async with gateway.client() as client, client.stream("GET", path, params=params) as response:
        assert response.status_code == 200
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                found.append(json.loads(line.removeprefix("data: ")))
                if len(found) == count:
                    break
    return found


async def test_numbers_outlive_the_log(
    gateway: GatewayThread, other_gateway: GatewayThread, store: Store
) -> None:
    """From the whole log, a trimmed one, the final event alone: each number continues with the same events."""
    log = await RunLog.start(store)
    await log.claim()
    await log.say(40)
    first = asyncio.create_task(events(gateway, log))
    early = await events(gateway, log, count=20)
    await log.snapshot()
    await log.say(30)
    await log.snapshot()
    trimmed: Any = await store.client.xlen(log.keys.log)
    assert trimmed < len(log.entries)
    middle = await events(other_gateway, log, after=early[-1]["sequence_number"], count=20)
    await log.append(
        (
            Type.STEP_STARTED,
            {"step_id": "c", "kind": "tool_call", "name": "f", "at": 1, "arguments": {"a": 1}},
        ),
        (Type.STEP_COMPLETED, {"step_id": "c", "state": "completed", "result": 2, "at": 2}),
    )
    await log.say(10)
    await log.finish()
    whole = await asyncio.wait_for(first, 20)
    assert [event["sequence_number"] for event in whole] == list(range(len(whole)))
    assert [*early, *middle] == whole[:40]
    for after in (0, 17, 39, len(whole) - 2):
        assert await events(gateway, log, after=after) == whole[after + 1 :]
    await log.compact()
    for after in (0, 17, 39, len(whole) - 2):
        assert await events(other_gateway, log, after=after) == whole[after + 1 :]
    assert await events(gateway, log, after=len(whole) - 1) == []
    assert await events(gateway, log, after=len(whole)) == whole


async def test_a_resync_counts_anew(gateway: GatewayThread, store: Store) -> None:
    """What the store lost is taken back by another count; an old number gets that from its beginning."""
    log = await RunLog.start(store)
    await log.claim()
    await log.say(20)
    before = await events(gateway, log, count=20)
    await log.lose_tail(5)
    await log.resync()
    await log.finish()
    after = await events(gateway, log, after=before[-1]["sequence_number"])
    assert after[0]["type"] == "response.created"
    assert after[0]["sequence_number"] == 2**32
    text = "".join(event["delta"] for event in after if event["type"] == "response.output_text.delta")
    assert text == log.fold.text
    assert await events(gateway, log, after=after[4]["sequence_number"]) == after[5:]


async def test_a_conversation_goes_on(http: httpx.AsyncClient, store: Store) -> None:
    """`previous_response_id`: the same thread, what was said so far, and no instructions of before."""
    tools = [{"type": "function", "name": "f", "parameters": {"type": "object"}}]
    wanted = {"model": "chat", "background": True}
    first = await http.post(
        "/v1/responses", json={**wanted, "input": "Hello", "instructions": "Be brief.", "tools": tools}
    )
    assert first.status_code == 200
    response = first.json()
    assert (response["status"], response["output"], response["model"]) == ("queued", [], "chat")
    log = RunLog(store, response["run_id"])
    await log.learn()
    await log.claim()
    await log.append(
        (Type.MESSAGE_DELTA, {"part": 0, "text": "I ask."}),
        (
            Type.STEP_STARTED,
            {"step_id": "c", "kind": "tool_call", "name": "f", "at": 1, "arguments": {"a": 1}},
        ),
    )
    await log.finish()
    response = (await http.get(f"/v1/responses/{response['id']}")).json()
    assert [item["type"] for item in response["output"]] == ["message", "function_call"]
    output = {"type": "function_call_output", "call_id": response["output"][1]["call_id"], "output": "2"}
    second = await http.post(
        "/v1/responses",
        json={
            **wanted,
            "previous_response_id": response["id"],
            "input": [output, {"role": "user", "content": "And?"}],
            "instructions": "Be long.",
        },
    )
    run = second.json()
    assert run["conversation"] == response["conversation"]
    stored: Any = await store.client.hget(keys.run(run["run_id"]).record, "input")
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    assert jsontext.loads(stored)["messages"] == [
        {"role": "system", "content": "Be long."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "I ask.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "2"},
        {"role": "user", "content": "And?"},
    ]
    busy = await http.post("/v1/responses", json={**wanted, "previous_response_id": run["id"], "input": "x"})
    assert (busy.status_code, busy.json()["error"]["code"]) == (409, "thread_busy")
    assert busy.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": 1}, "input"),
        ({"store": False}, "background"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"max_tool_calls": 3}, "max_tool_calls"),
        ({"truncation": "auto"}, "truncation"),
        ({"context_management": []}, "context_management"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"no_such_member": 1}, "no_such_member"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        ({"input": [{"role": "wizard", "content": "x"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content"),
        (
            {
                "input": [
                    {
                        "type": "function_call_output",
                        "call_id": "c",
                        "output": [{"type": "input_image", "image_url": "data:,"}],
                    }
                ]
            },
            "input[0].output",
        ),
        ({"conversation": {"id": 1}}, "conversation"),
        ({"mainstem": {"engine": "no such engine"}}, "mainstem.engine"),
    ],
)
async def test_what_does_not_fit_is_refused_by_name(
    http: httpx.AsyncClient, fields: dict[str, Any], param: str
) -> None:
    """400, in this API's shape, with the member that is wrong."""
    body = {"model": "chat", "input": "x", "background": True, **fields}
    refused = await http.post("/v1/responses", json=body)
    assert refused.status_code == 400, refused.text
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_request")
    assert error["param"].startswith(param)
    assert error["message"]


@pytest.mark.parametrize("after", ["-1", "x", str(2**53), "1.5", ""])
async def test_a_number_that_is_none_is_refused(http: httpx.AsyncClient, store: Store, after: str) -> None:
    log = await RunLog.start(store)
    path = f"/v1/responses/resp_{log.run_id}"
    refused = await http.get(path, params={"stream": "true", "starting_after": after})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "starting_after")


async def test_a_cancelled_response_that_never_ran(
    http: httpx.AsyncClient, gateway: GatewayThread, store: Store
) -> None:
    """It ends at once, without `response.in_progress`."""
    log = await RunLog.start(store)
    cancelled = (await http.post(f"/v1/responses/resp_{log.run_id}/cancel")).json()
    assert (cancelled["status"], cancelled["output"]) == ("cancelled", [])
    told = [(event["sequence_number"], event["type"]) for event in await events(gateway, log)]
    assert told == [(0, "response.created"), (1, "response.queued"), (3, "response.incomplete")]
