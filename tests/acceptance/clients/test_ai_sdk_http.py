"""The AI SDK's routes over plain HTTP: what its client does not do by itself. Real clients: `stock_clients`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from support.engines.demowords import demo_text
from support.processes.gateways import GatewayThread, check_problem
from support.waiting import wait_until_async

CHAT = "/v1/ai-sdk/chat"


class Chat:
    """One chat of a client that posts what it likes."""

    def __init__(self, http: httpx.AsyncClient, chat: str) -> None:
        self.http, self.id = http, chat

    async def post(self, *messages: dict[str, Any], **fields: Any) -> httpx.Response:
        """Submit messages; `demo`: what the demo engine is to do, `mainstem`: other options."""
        demo = fields.pop("demo", None)
        options = {"input": demo, **fields.pop("mainstem", {})} if demo is not None else {}
        body = {"id": self.id, "messages": messages, "trigger": "submit-message", "mainstem": options}
        return await self.http.post(CHAT, json={**body, **fields})

    async def stream(self) -> httpx.Response:
        return await self.http.get(f"{CHAT}/{self.id}/stream")

    async def stop(self) -> httpx.Response:
        return await self.http.post(f"{CHAT}/{self.id}/stop")

    async def runs(self) -> list[dict[str, Any]]:
        return (await self.http.get(f"/v1/threads/{self.id}/runs")).json()["runs"]


@pytest.fixture
async def chat(gateway: GatewayThread, request: pytest.FixtureRequest) -> AsyncIterator[Chat]:
    """A chat of this test's own."""
    async with gateway.client() as http:
        yield Chat(http, request.node.name.split("[")[0])


def user(text: str = "Hello", message_id: str = "u1") -> dict[str, Any]:
    return {"id": message_id, "role": "user", "parts": [{"type": "text", "text": text}]}


def wanted(**demo: Any) -> dict[str, Any]:
    return {"tokens": 5, "interval_ms": 0, **demo}


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


async def test_a_submit_streams_a_run_in_the_sdks_words(chat: Chat):
    """The engine gets what it knows: `demo` the text that was said last."""
    said = chunks(await chat.post(user("Grüße, 世界 out there")))
    assert text_of(said) == "Grüße, 世界 out there"
    assert [chunk["type"] for chunk in said[:2]] == ["start", "start-step"]
    assert said[-1]["finishReason"] == "stop"
    run = (await chat.http.get(f"/v1/runs/{said[0]['messageMetadata']['runId']}")).json()
    assert (run["thread_id"], run["text"], run["engine"]) == (chat.id, "Grüße, 世界 out there", "demo")
    assert chunks(await chat.stream()) == said  # a tab that was away, or has nothing yet
    named = await chat.http.get(f"{CHAT}/{chat.id}/stream", params={"messageId": run["run_id"]})
    assert chunks(named) == said
    elsewhere = await chat.http.get(f"{CHAT}/never/stream", params={"messageId": run["run_id"]})
    check_problem(elsewhere, 404, "not_found")
    assert (await chat.http.get(f"{CHAT}/never/stream")).status_code == 204
    older = await chat.http.get(f"/v1/ai-sdk/v6/chat/{chat.id}/stream")
    assert older.status_code == 204  # it would append the replay to what it has
    check_problem(await chat.http.get(f"/v1/ai-sdk/v4/chat/{chat.id}/stream"), 404, "not_found")
    assert (await chat.stop()).json() == {"stopped": []}


async def test_only_our_own_pending_action_is_decided(chat: Chat):
    """Forged, stale and incomplete decisions are refused; the input that the client claims means nothing."""
    said = chunks(await chat.post(user(), demo=wanted(approve_at=[2, 3])))
    assert [chunk["type"] for chunk in said[-2:]] == ["finish-step", "finish"]
    assert text_of(said) == "w0 w1"
    message = approved(said)
    forged = approved(said, id="act_forged:demo_tool_2")
    other_call = approved(said, id=message["parts"][1]["approval"]["id"] + "0")
    check_problem(await chat.post(user(), forged), 409, "stale_action")
    check_problem(await chat.post(user(), other_call), 400, "invalid_decision")
    check_problem(await chat.post(user(), approved(said, approved="yes")), 400, "invalid_decision")
    elsewhere = await chat.post(user(), message, id="another")
    check_problem(elsewhere, 409, "stale_action")

    second = chunks(await chat.post(user(), message))
    assert (second[0]["messageId"], text_of(second)) == (said[0]["messageId"], " w2")
    assert "start-step" not in [chunk["type"] for chunk in second]
    assert "tool-approval-response" not in [chunk["type"] for chunk in second]  # which 6 refuses
    again = chunks(await chat.post(user(), message))
    assert again[1] == {"type": "reset-step"}
    assert text_of(again) == "w0 w1 w2"
    check_problem(await chat.post(user(), approved(said, approved=False)), 409, "decision_conflict")

    third = chunks(await chat.post(user(), approved(second)))
    assert text_of(third) == " w3 w4"
    assert (await chat.http.get(f"/v1/runs/{said[0]['messageId']}")).json()["text"] == demo_text(5)
    finished = chunks(await chat.post(user(), approved(second)))
    assert text_of(finished) == demo_text(5)


async def test_a_paused_run_is_told_to_who_attaches(chat: Chat):
    """A reload before the decision: the whole message with its request, and a proper end."""
    said = chunks(await chat.post(user(), demo=wanted(approve_at=[2])))
    assert chunks(await chat.stream()) == said
    stopped = await chat.stop()
    assert (stopped.status_code, stopped.json()) == (200, {"stopped": [said[0]["messageId"]]})
    check_problem(await chat.post(user(), approved(said)), 409, "not_paused")


async def test_who_says_something_else_does_not_decide(chat: Chat):
    """A new message while a call waits: the paused run is replaced, its call never made, and cannot be decided."""
    said = chunks(await chat.post(user(), demo=wanted(approve_at=[2])))
    undecided = approved(said)
    undecided["parts"][1]["state"] = "approval-requested"
    assert text_of(chunks(await chat.post(user(), undecided, user("Something else")))) == "Something else"
    run = (await chat.http.get(f"/v1/runs/{said[0]['messageId']}")).json()
    assert (run["status"], run["reason"], run["text"]) == ("aborted", "replaced", "w0 w1")
    check_problem(await chat.post(user(), approved(said)), 409, "not_paused")


async def test_questions_are_calls_of_the_clients_own_tool(chat: Chat):
    """An answer is the tool's output; said again it changes nothing, and it is not sent twice for ever."""
    said = chunks(await chat.post(user(), demo=wanted(ask_at=[2])))
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
    second = chunks(await chat.post(user(), message))
    assert text_of(second) == " blue w2 w3 w4"
    acknowledged = [chunk for chunk in second if chunk["type"] == "tool-output-available"]
    assert (acknowledged[0]["output"], acknowledged[0]["providerExecuted"]) == ("blue", True)
    assert text_of(chunks(await chat.post(user(), message))) == "w0 w1 blue w2 w3 w4"


async def test_what_the_user_says_replaces_what_runs(chat: Chat):
    """A new message ends the active run as replaced; `reject` and requests of clients by themselves do not."""
    slow = wanted(tokens=100_000, interval_ms=5)
    first = asyncio.create_task(chat.post(user(), demo=slow))

    async def speaking() -> list[dict[str, Any]]:
        return [run for run in await chat.runs() if run["text"]]

    (run,) = await wait_until_async(speaking, description="the first run to speak", timeout_s=20)
    refused = await chat.post(user("More"), demo=slow, mainstem={"if_active": "reject"})
    assert check_problem(refused, 409, "thread_busy")["run_id"] == run["run_id"]
    own = {"id": run["run_id"], "role": "assistant", "parts": [{"type": "text", "text": "w0"}]}
    check_problem(await chat.post(user(), own), 409, "thread_busy")
    assert text_of(chunks(await chat.post(user("Something else", "u2")))) == "Something else"
    ended = chunks(await first)
    assert {"type": "abort", "reason": "replaced"} in ended
    assert ended[-1]["finishReason"] == "other"


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
async def test_requests_that_do_not_fit_are_refused(chat: Chat, body: dict[str, Any]):
    """With a problem document, before anything starts."""
    check_problem(await chat.http.post(CHAT, json=body), 422, "invalid_request")


async def test_another_users_run_is_neither_seen_nor_touched(stage: Any, request: pytest.FixtureRequest):
    """Same chat, same tenant: nothing to resume or stop, nothing to decide; what runs there is not replaced."""
    options = {"auth": "proxy", "proxy_peers": "127.0.0.1", "default_engine": "demo"}
    with GatewayThread(stage.store.url(0), stage.broker.url(1), **options) as gateway:
        async with gateway.client() as ann, gateway.client() as bob:
            ann.headers["X-Forwarded-User"], bob.headers["X-Forwarded-User"] = "ann", "bob"
            hers, his = Chat(ann, request.node.name), Chat(bob, request.node.name)
            said = chunks(await hers.post(user(), demo=wanted(approve_at=[2])))
            assert (await his.stream()).status_code == 204
            assert (await his.stop()).json() == {"stopped": []}
            check_problem(await his.post(user(), approved(said)), 409, "stale_action")
            check_problem(await his.post(user()), 404, "not_found")
            assert text_of(chunks(await hers.post(user(), approved(said)))) == " w2 w3 w4"
            check_problem(await his.post(user(), approved(said)), 409, "stale_action")


def nested(depth: int) -> str:
    return ':{"a"' * depth + ":1" + "}" * depth


@pytest.mark.parametrize("depth", [100, 300, 5000, 100_000])
@pytest.mark.parametrize("kind", ["tool-x", "tool-ask_user", "text"])
async def test_deep_json_is_taken_or_refused(chat: Chat, depth: int, kind: str):
    """Never a failure of the server's."""
    part = {"type": kind, "state": "output-available", "toolCallId": "x", "text": 0, "input": 0, "output": 0}
    message = {"id": "m", "role": "assistant", "parts": [part]}
    body = json.dumps({"id": f"{chat.id}{depth}{kind}", "messages": [message]}).replace(": 0", nested(depth))
    reply = await chat.http.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert reply.status_code in (200, 409, 413, 422), reply.text


@pytest.mark.parametrize("said", ["\ud83d half", "\x00\x1f", "\u2028\u0085", "🌍" * 1000])
async def test_any_text_comes_back_as_it_was(chat: Chat, said: str):
    """Control characters, what some take for line breaks; of half a surrogate pair, the replacement character."""
    body = json.dumps({"id": f"{chat.id}{len(said)}", "messages": [user(said)]})
    reply = await chat.http.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert text_of(chunks(reply)) == said.replace("\ud83d", "\ufffd")
