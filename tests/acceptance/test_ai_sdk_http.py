"""The AI SDK's routes over plain HTTP: what its client does not do by itself. Real clients: `stock_clients`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from demowords import demo_text
from gateways import GatewayThread, check_problem
from waiting import wait_until_async

CHAT = "/v1/ai-sdk/chat"


@pytest.fixture
async def http(live: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway beside the live system's workers."""
    with GatewayThread(live.store.url(0), live.broker.url(1), default_engine="demo") as gateway:
        async with gateway.client() as made:
            yield made


def user(text: str = "Hello", message_id: str = "u1") -> dict[str, Any]:
    return {"id": message_id, "role": "user", "parts": [{"type": "text", "text": text}]}


def wanted(**demo: Any) -> dict[str, Any]:
    return {"tokens": 5, "interval_ms": 0, **demo}


async def post(http: httpx.AsyncClient, *messages: dict[str, Any], **fields: Any) -> httpx.Response:
    demo = fields.pop("demo", None)
    options = {"input": demo, **fields.pop("mainstem", {})} if demo is not None else {}
    body = {"id": "chat", "messages": messages, "trigger": "submit-message", "mainstem": options, **fields}
    return await http.post(CHAT, json=body)


def chunks(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    assert response.headers["x-vercel-ai-ui-message-stream"] == "v1"
    assert response.headers["content-type"].startswith("text/event-stream")
    *events, done, rest = response.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events if not event.startswith(":")]


def text_of(said: list[dict[str, Any]]) -> str:
    return "".join(chunk["delta"] for chunk in said if chunk["type"] == "text-delta")


def approved(said: list[dict[str, Any]], **approval: Any) -> dict[str, Any]:
    """The assistant's message as a client has it after `said`, with the user's verdict."""
    (request,) = [chunk for chunk in said if chunk["type"] == "tool-approval-request"]
    part = {
        "type": "tool-demo_tool",
        "toolCallId": request["toolCallId"],
        "state": "approval-responded",
        "input": {"at": 1000},
        "approval": {"id": request["approvalId"], "approved": True, **approval},
    }
    return {"id": said[0]["messageId"], "role": "assistant", "parts": [{"type": "step-start"}, part]}


async def test_a_submit_streams_a_run_in_the_sdks_words(live, http: httpx.AsyncClient):
    """The engine gets what it knows: `demo` the text that was said last."""
    live.worker()
    said = chunks(await post(http, user("Grüße, 世界 out there")))
    assert text_of(said) == "Grüße, 世界 out there"
    assert [chunk["type"] for chunk in said[:2]] == ["start", "start-step"]
    assert said[-1]["finishReason"] == "stop"
    run = (await http.get(f"/v1/runs/{said[0]['messageMetadata']['runId']}")).json()
    assert (run["thread_id"], run["text"], run["engine"]) == ("chat", "Grüße, 世界 out there", "demo")
    assert (await http.get(f"{CHAT}/chat/stream")).status_code == 204
    assert (await http.get(f"{CHAT}/never/stream")).status_code == 204
    assert (await http.post(f"{CHAT}/chat/stop")).json() == {"stopped": []}


async def test_only_our_own_pending_action_is_decided(live, http: httpx.AsyncClient):
    """Forged, stale and incomplete decisions are refused; the input that the client claims means nothing."""
    live.worker()
    said = chunks(await post(http, user(), demo=wanted(approve_at=[2, 3])))
    assert [chunk["type"] for chunk in said[-2:]] == ["finish-step", "finish"]
    assert text_of(said) == "w0 w1"
    message = approved(said)
    forged = approved(said, id="act_forged:demo_tool_2")
    other_call = approved(said, id=message["parts"][1]["approval"]["id"] + "0")
    check_problem(await post(http, user(), forged), 409, "stale_action")
    check_problem(await post(http, user(), other_call), 400, "invalid_decision")
    check_problem(await post(http, user(), approved(said, approved="yes")), 400, "invalid_decision")
    elsewhere = await post(http, user(), message, id="another")
    check_problem(elsewhere, 409, "stale_action")

    second = chunks(await post(http, user(), message))
    assert (second[0]["messageId"], text_of(second)) == (said[0]["messageId"], " w2")
    assert "start-step" not in [chunk["type"] for chunk in second]
    assert {"type": "tool-approval-response", "approvalId": message["parts"][1]["approval"]["id"],
            "approved": True} in second  # fmt: skip
    again = chunks(await post(http, user(), message))
    assert again[1] == {"type": "reset-step"}
    assert text_of(again) == "w0 w1 w2"
    check_problem(await post(http, user(), approved(said, approved=False)), 409, "decision_conflict")

    third = chunks(await post(http, user(), approved(second)))
    assert text_of(third) == " w3 w4"
    assert (await http.get(f"/v1/runs/{said[0]['messageId']}")).json()["text"] == demo_text(5)
    finished = chunks(await post(http, user(), approved(second)))
    assert text_of(finished) == demo_text(5)


async def test_a_paused_run_is_told_to_who_attaches(live, http: httpx.AsyncClient):
    """A reload before the decision: the whole message with its request, and a proper end."""
    live.worker()
    said = chunks(await post(http, user(), demo=wanted(approve_at=[2])))
    assert chunks(await http.get(f"{CHAT}/chat/stream")) == said
    stopped = await http.post(f"{CHAT}/chat/stop")
    assert (stopped.status_code, stopped.json()) == (200, {"stopped": [said[0]["messageId"]]})
    check_problem(await post(http, user(), approved(said)), 409, "not_paused")


async def test_questions_are_calls_of_the_clients_own_tool(live, http: httpx.AsyncClient):
    """An answer is the tool's output; said again it changes nothing, and it is not sent twice for ever."""
    live.worker()
    said = chunks(await post(http, user(), demo=wanted(ask_at=[2])))
    (call,) = [chunk for chunk in said if chunk["type"] == "tool-input-available"]
    assert (call["toolName"], "providerExecuted" in call) == ("ask_user", False)
    part = {
        "type": "tool-ask_user",
        "toolCallId": call["toolCallId"],
        "state": "output-available",
        "input": call["input"],
        "output": "blue",
    }
    message = {"id": said[0]["messageId"], "role": "assistant", "parts": [part]}
    second = chunks(await post(http, user(), message))
    assert text_of(second) == " blue w2 w3 w4"
    acknowledged = [chunk for chunk in second if chunk["type"] == "tool-output-available"]
    assert (acknowledged[0]["output"], acknowledged[0]["providerExecuted"]) == ("blue", True)
    assert text_of(chunks(await post(http, user(), message))) == "w0 w1 blue w2 w3 w4"


async def test_what_the_user_says_replaces_what_runs(live, http: httpx.AsyncClient):
    """A new message ends the active run as replaced; `reject` and requests of clients by themselves do not."""
    live.worker()
    slow = wanted(tokens=100_000, interval_ms=5)
    first = asyncio.create_task(post(http, user(), demo=slow))

    async def runs() -> list[dict[str, Any]]:
        found = (await http.get("/v1/threads/chat/runs")).json()["runs"]
        return [run for run in found if run["text"]]

    (run,) = await wait_until_async(runs, description="the first run to speak", timeout_s=20)
    refused = await post(http, user("More"), demo=slow, mainstem={"if_active": "reject"})
    assert check_problem(refused, 409, "thread_busy")["run_id"] == run["run_id"]
    own = {"id": run["run_id"], "role": "assistant", "parts": [{"type": "text", "text": "w0"}]}
    check_problem(await post(http, user(), own), 409, "thread_busy")
    assert text_of(chunks(await post(http, user("Something else", "u2")))) == "Something else"
    ended = chunks(await first)
    assert {"type": "abort", "reason": "replaced"} in ended
    assert ended[-1]["finishReason"] == "interrupted"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"id": "chat", "messages": []},
        {"id": "", "messages": [user()]},
        {"id": "chat", "messages": [{"role": "robot", "parts": []}]},
        {"id": "chat", "messages": [user()], "trigger": "resume-stream"},
        {"id": "chat", "messages": [user()], "mainstem": {"enigne": "demo"}},
        {"id": "chat", "messages": [{"role": "user", "parts": "text"}]},
    ],
)
async def test_requests_that_do_not_fit_are_refused(http: httpx.AsyncClient, body: dict[str, Any]):
    """With a problem document, before anything starts."""
    check_problem(await http.post(CHAT, json=body), 422, "invalid_request")
