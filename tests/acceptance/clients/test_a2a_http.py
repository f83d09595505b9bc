"""A2A over plain HTTP against a live stack: what its SDK does not do by itself. The real one: `make frameworks`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from support.engines.demowords import demo_text
from support.processes.gateways import GatewayThread

AGENT = "/v1/a2a/demo"


@pytest.fixture
def http(gateway: GatewayThread) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, trust_env=False, timeout=60) as client:
        yield client


def call(http: httpx.Client, method: str, **params: Any) -> dict[str, Any]:
    reply = http.post(AGENT, json={"jsonrpc": "2.0", "id": 7, "method": method, "params": params})
    assert reply.status_code == 200, reply.text
    answer = reply.json()
    assert (answer["jsonrpc"], answer["id"]) == ("2.0", 7)
    return answer


def said(message_id: str, text: str = "Hello", **about: Any) -> dict[str, Any]:
    return {"messageId": message_id, "role": "ROLE_USER", "parts": [{"text": text}], **about}


def demo(**wanted: Any) -> dict[str, Any]:
    return {"mainstem": {"input": {"interval_ms": 0, **wanted}}}


def test_an_engine_is_an_agent(http: httpx.Client):
    """Its card names the address of its methods; an engine that nobody offers has none."""
    card = http.get(f"{AGENT}/.well-known/agent-card.json").json()
    assert card["supportedInterfaces"][0]["url"] == str(http.base_url).rstrip("/") + "/v1/a2a/demo"
    assert card["capabilities"]["streaming"]
    missing = http.get("/v1/a2a/nothing/.well-known/agent-card.json")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, -32001)


def test_a_message_is_one_task(http: httpx.Client):
    """A message that is sent again is the same task; what it waits for is decided by the next message to it."""
    tasks = [
        call(http, "SendMessage", message=said("a2a-1"), metadata=demo(tokens=4, approve_at=[2]))["result"][
            "task"
        ]
        for _ in range(2)
    ]
    assert tasks[0]["id"] == tasks[1]["id"]
    assert tasks[0]["status"]["state"] == "TASK_STATE_INPUT_REQUIRED"
    about = {"taskId": tasks[0]["id"], "contextId": tasks[0]["contextId"]}
    done = call(http, "SendMessage", message=said("a2a-2", "approve", **about))["result"]["task"]
    assert done["status"]["state"] == "TASK_STATE_COMPLETED"
    assert done["artifacts"][0]["parts"] == [{"text": demo_text(4)}]
    late = call(http, "SendMessage", message=said("a2a-3", "approve", **about))
    assert late["error"]["code"] == -32004


def test_a_failing_task_and_what_is_not_there(http: httpx.Client):
    """States and codes of the protocol, with words."""
    failed = call(http, "SendMessage", message=said("a2a-4"), metadata=demo(tokens=9, fail_at=5))["result"][
        "task"
    ]
    assert failed["status"]["state"] == "TASK_STATE_FAILED"
    assert "asked to fail" in failed["status"]["message"]["parts"][0]["text"]
    assert call(http, "GetTask", id="nothing")["error"]["code"] == -32001
    assert call(http, "CancelTask", id=failed["id"])["error"]["code"] == -32002
    assert call(http, "SubscribeToTask", id=failed["id"])["error"]["code"] == -32004
    for method, code, reason in (
        ("CreateTaskPushNotificationConfig", -32003, "PUSH_NOTIFICATION_NOT_SUPPORTED"),
        ("ListTaskPushNotificationConfigs", -32003, "PUSH_NOTIFICATION_NOT_SUPPORTED"),
        ("GetExtendedAgentCard", -32004, "UNSUPPORTED_OPERATION"),
        ("Nothing", -32601, "METHOD_NOT_FOUND"),
    ):
        error = call(http, method)["error"]
        assert (error["code"], error["data"][0]["reason"]) == (code, reason)
    assert call(http, "SendMessage", message={"messageId": "x"})["error"]["code"] == -32602
    bad = http.post(AGENT, content=b"{", headers={"content-type": "application/json"})
    assert (bad.status_code, bad.json()["error"]["code"]) == (422, -32700)


def test_a_subscription_has_everything_once(http: httpx.Client):
    """The task as of now, then what is appended."""
    wanted = demo(tokens=60, interval_ms=10)
    body = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage"}
    configuration = {"returnImmediately": True}
    params = {"message": said("a2a-5"), "metadata": wanted, "configuration": configuration}
    task = http.post(AGENT, json={**body, "params": params}).json()["result"]["task"]
    stream = http.post(AGENT, json={**body, "method": "SubscribeToTask", "params": {"id": task["id"]}})
    text = ""
    for line in stream.text.split("\n"):
        if line.startswith("data: "):
            result = json.loads(line.removeprefix("data: "))["result"]
            for artifact in result.get("task", {}).get("artifacts", ()):
                text = artifact["parts"][0]["text"]
            if update := result.get("artifactUpdate"):
                text = (text if update["append"] else "") + update["artifact"]["parts"][0]["text"]
    assert text == demo_text(60)
