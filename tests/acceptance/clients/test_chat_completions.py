"""OpenAI's Python client on Chat Completions and Responses: what failed, what was retried, who runs which call."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from mainstem_api.gateway.middleware.request_limits import BODY_LIMIT
from support.engines.demowords import demo_text
from support.processes.gateways import GatewayThread


@pytest.fixture(scope="module")
def client(gateway: GatewayThread) -> Iterator[openai.OpenAI]:
    """PyPI's client, that does not retry."""
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="unused", max_retries=0) as opened:
        yield opened


def demo(**wanted: Any) -> dict[str, Any]:
    return {"mainstem": {"input": {"interval_ms": 0, **wanted}}}


SAID: list[Any] = [{"role": "user", "content": "Hello there"}]


def test_a_completion_whole_and_in_chunks(client: openai.OpenAI):
    """The same text both ways; usage is in the last chunk if it was asked for."""
    whole = client.chat.completions.create(model="demo", messages=SAID)
    assert whole.choices[0].message.content == "Hello there"
    assert (whole.choices[0].finish_reason, whole.model) == ("stop", "demo")
    options: Any = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(model="rich", messages=SAID, stream=True, stream_options=options)
    )
    text = "".join(piece.choices[0].delta.content or "" for piece in chunks if piece.choices)
    assert text == "I ask. One."
    assert chunks[-1].usage is not None
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.total_tokens) == (12, 19)
    assert "demo" in [model.id for model in client.models.list()]
    assert client.models.retrieve("demo").id == "demo"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nothing")


def test_a_stream_is_continued_at_any_event(gateway: GatewayThread):
    """`Last-Event-ID` gives exactly the rest, while the run lives and after its end."""
    body = {"model": "demo", "messages": SAID, "stream": True, **demo(tokens=40)}
    whole = httpx.post(f"{gateway.url}/v1/chat/completions", json=body, trust_env=False, timeout=60)
    events = [block.split("\n") for block in whole.text.split("\n\n") if block.startswith("id: ")]
    first = json.loads(events[0][1].removeprefix("data: "))
    assert _said(events) == demo_text(40)
    for at in (0, len(events) // 2, len(events) - 1):
        rest = httpx.get(
            f"{gateway.url}/v1/chat/completions/{first['id']}?stream=true",
            headers={"last-event-id": events[at][0].removeprefix("id: ")},
            trust_env=False,
        )
        following = [block.split("\n") for block in rest.text.split("\n\n") if block.startswith("id: ")]
        assert _said(events[: at + 1]) + _said(following) == demo_text(40)


def _said(events: list[list[str]]) -> str:
    chunks = [json.loads(event[1].removeprefix("data: ")) for event in events]
    return "".join(choice["delta"].get("content") or "" for piece in chunks for choice in piece["choices"])


def test_the_callers_own_call_and_a_decision(client: openai.OpenAI):
    """Calls that a run leaves open are the caller's; a pause is a call whose result decides."""
    asked = client.chat.completions.create(model="delegating", messages=SAID)
    (call,) = asked.choices[0].message.tool_calls or []
    assert asked.choices[0].finish_reason == "tool_calls"
    result = {"role": "tool", "tool_call_id": call.id, "content": "blue"}
    told: Any = [*SAID, asked.choices[0].message.model_dump(exclude_none=True), result]
    assert (
        client.chat.completions.create(model="delegating", messages=told).choices[0].message.content
        == "It is blue."
    )
    paused = client.chat.completions.create(
        model="demo", messages=SAID, extra_body=demo(tokens=5, approve_at=[2])
    )
    (call,) = paused.choices[0].message.tool_calls or []
    assert (paused.choices[0].message.content, call.function.name) == ("w0 w1", "approve_tool_call")
    verdict: Any = [*SAID, {"role": "tool", "tool_call_id": call.id, "content": "approve"}]
    rest = client.chat.completions.create(model="demo", messages=verdict)
    assert rest.choices[0].message.content == " w2 w3 w4"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"temperature": 0.5}, "temperature"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"extra_body": {"no_such_member": 1}}, "no_such_member"),
        ({"messages": [{"content": "x"}]}, "messages[0]"),
    ],
)
def test_what_nobody_would_honour_is_refused_by_name(
    client: openai.OpenAI, fields: dict[str, Any], param: str
):
    """400, as the client's own exception, with the member."""
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**{"model": "demo", "messages": SAID, **fields})
    assert refused.value.param == param


def test_errors_outside_the_routes_are_the_protocols(gateway: GatewayThread):
    """404, 405 and 413 under its prefixes have its shape; elsewhere they are problem documents."""
    with httpx.Client(base_url=gateway.url, trust_env=False, timeout=60) as http:
        for method, path, status in (
            ("GET", "/v1/responses", 405),
            ("GET", "/v1/chat/nothing", 404),
            ("POST", "/v1/responses/resp_x/nothing", 404),
            ("POST", "/v1/models", 405),
        ):
            reply = http.request(method, path)
            assert reply.status_code == status, path
            assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
        large = http.post(
            "/v1/chat/completions",
            content=b" " * (BODY_LIMIT + 1),
            headers={"content-type": "application/json"},
        )
        assert (large.status_code, large.json()["error"]["code"]) == (413, "body_too_large")
        assert http.get("/v1/nothing").headers["content-type"] == "application/problem+json"


def test_a_retry_never_starts_a_second_run(gateway: GatewayThread):
    """The client's own count of retries is enough, for both APIs; a first attempt is always a new run."""
    with httpx.Client(base_url=gateway.url, trust_env=False, timeout=60) as http:
        for path, body in (
            ("/v1/chat/completions", {"messages": SAID}),
            ("/v1/responses", {"input": "Hello"}),
        ):
            ids = []
            for count in ("0", "1", "2", "0"):
                reply = http.post(
                    path, json={"model": "demo", **body}, headers={"x-stainless-retry-count": count}
                )
                ids.append(reply.json()["id"])
            assert len(set(ids[:3])) == 1
            assert ids[3] != ids[0]


def test_store_false_is_not_retrievable(client: openai.OpenAI):
    """Nor continued; but it is answered."""
    said = client.responses.create(model="demo", input="Hello", store=False)
    assert (said.output_text, said.store) == ("Hello", False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(said.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="demo", input="More", previous_response_id=said.id)


def test_input_items_and_deletion(client: openai.OpenAI):
    """What was said to a response can be listed; a deleted one is gone."""
    said = client.responses.create(model="echo_history", input="Hello")
    (item,) = client.responses.input_items.list(said.id).data
    assert (item.type, item.role) == ("message", "user")
    client.responses.delete(said.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(said.id)


def test_a_conversation_is_a_thread(client: openai.OpenAI):
    """Its turns need not be sent again; its items are those of the thread."""
    talk = client.conversations.create()
    client.responses.create(model="echo_history", input="One", conversation=talk.id)
    second = client.responses.create(model="echo_history", input="Two", conversation=talk.id)
    assert second.output_text == "user:One|assistant:user:One|user:Two"
    items = client.conversations.items.list(talk.id, order="asc").data
    assert [item.role for item in items] == ["user", "assistant"] * 2  # type: ignore[union-attr]
    assert client.conversations.retrieve(talk.id).id == talk.id
    assert client.conversations.delete(talk.id).deleted
