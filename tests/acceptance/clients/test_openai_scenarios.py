"""OpenAI's own clients, of npm and of PyPI, on both APIs against a live stack: turns, branches, tools, broken lines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from acceptance.clients.test_responses_clients import (
    Client,
    demo,
    driven,
    items,
    numbers,
    said,
    text_of,
)
from mainstem_shared.model import blob_references
from support.clients.cells import Showing
from support.engines.demowords import demo_text
from support.processes.breaking_proxy import BreakingProxy
from support.processes.gateways import GatewayThread


@pytest.fixture(scope="module", params=["npm", "pypi"])
def driver(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Each client in turn."""
    with driven(request.param) as running:
        yield running


@pytest.fixture
def client(driver: Any, gateway: GatewayThread) -> Client:
    return Client(driver, gateway.url)


def test_turns_and_branches(client: Client, shows: Showing):
    """A response goes on from any earlier one: from the last, from the same again, or with something else said."""

    def says(text: str, after: str | None = None) -> dict[str, Any]:
        before = {} if after is None else {"previous_response_id": after}
        return client.create(text, model="echo_history", background=False, **before)

    first = says("One")
    turns = [says(text, first["id"]) for text in ("Two", "Two", "Three")]
    before = "user:One|assistant:user:One|user:"
    assert [said(turn) for turn in turns] == [f"{before}Two", f"{before}Two", f"{before}Three"]
    assert len({turn["id"] for turn in turns}) == 3
    shows(client.name, "several turns", "regenerate", "edit a message")


def test_a_function_of_the_callers_own(client: Client, shows: Showing):
    """Its output, in the next response, goes on from there."""
    asked = client.create("Which colour?", model="delegating", background=False)
    (call,) = items(asked, "function_call")
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "blue"}
    after = client.create([output], model="delegating", previous_response_id=asked["id"], background=False)
    assert said(after) == "It is blue."
    shows(client.name, "own tool")


def test_a_broken_line(driver: Any, gateway: GatewayThread, shows: Showing):
    """Wherever it broke, the rest follows the last number."""
    with BreakingProxy(gateway.port) as line:
        client = Client(driver, line.url)
        line.cut_after(4096)
        stream = client.stream(**demo(tokens=100))
        assert stream.ends()["failure"]
        seen = stream.state["events"]
        for limit in (600, 5001):
            line.cut_after(limit)
            rest = client.follow(stream.response_id, starting_after=numbers(seen)[-1]).ends()
            assert rest["failure"]
            seen = [*seen, *rest["events"]]
        seen += client.follow(stream.response_id, starting_after=numbers(seen)[-1]).completes()
        assert numbers(seen) == list(range(len(seen)))
        assert (text_of(seen), line.cuts) == (demo_text(100), 3)
    shows(client.name, "cut, then continued")


@pytest.mark.parametrize("api", ["responses", "chat"])
def test_a_create_that_is_tried_again(driver: Any, gateway: GatewayThread, shows: Showing, api: str):
    """The client's own retries, after its connection broke twice, are one run."""
    with BreakingProxy(gateway.port) as line:
        client = Client(driver, line.url, retries=2)
        name = client.name if api == "responses" else client.chat_name
        line.cut_after(1, 1)
        if api == "responses":
            answered = client.create("Once", background=False, metadata={"once": name})
        else:
            answered = client.complete({"role": "user", "content": "Once"}, metadata={"once": name})
        assert answered["metadata"] == {"once": name}
        assert (line.cuts, _tagged(gateway, name)) == (2, 1)
    shows(name, "retry is idempotent")


def _tagged(gateway: GatewayThread, tag: str) -> int:
    """How many runs carry this in their metadata; all runs of the stage are one user's."""
    listed = httpx.get(f"{gateway.url}/v1/runs?limit=100", trust_env=False).json()["runs"]
    return sum(tag in str(run["metadata"]) for run in listed)


def test_completions(client: Client, shows: Showing):
    """The conversation is the client's: turns, another answer, an edit, its own function, decisions, errors."""

    def content(answered: dict[str, Any]) -> str:
        return answered["choices"][0]["message"]["content"]

    one, two = {"role": "user", "content": "One"}, {"role": "user", "content": "Two"}
    told = {"role": "assistant", "content": "First"}
    for _ in range(2):
        assert content(client.complete(one, told, two, model="echo_history")) == (
            "user:One|assistant:First|user:Two"
        )
    edited = {"role": "user", "content": "Three"}
    assert content(client.complete(one, told, edited, model="echo_history")).endswith("user:Three")
    shows(client.chat_name, "several turns", "regenerate", "edit a message")
    asked = client.complete(one, model="delegating")["choices"][0]["message"]
    output = {"role": "tool", "tool_call_id": asked["tool_calls"][0]["id"], "content": "blue"}
    asked = {name: value for name, value in asked.items() if value is not None}
    assert content(client.complete(one, asked, output, model="delegating")) == "It is blue."
    shows(client.chat_name, "own tool")
    for verdict, rest in (("approve", " w2 w3"), ("reject", " [rejected:2] w3")):
        paused = client.complete(one, **demo(tokens=4, approve_at=[2]))["choices"][0]["message"]
        decided = {"role": "tool", "tool_call_id": paused["tool_calls"][0]["id"], "content": verdict}
        assert content(client.complete(one, decided)) == rest
        shows(client.chat_name, verdict)
    refused = client.complete(one, mainstem={"engine": "no_such_engine"})["refused"]
    assert (refused["status"], refused["code"]) == (404, "model_not_found")
    failed = client.chunks(one, **demo(tokens=9, fail_at=5)).ends()
    deltas = [piece["delta"] for event in failed["events"] for piece in event["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == demo_text(5)
    assert "asked to fail before word 5" in failed["failure"]
    shows(client.chat_name, "error before the stream", "error in the stream")


def test_an_upload_is_named_in_a_request(client: Client):
    """It is listed, read, shown to the engine as what it is, and deleted."""

    def does(action: str, **given: str) -> Any:
        return client.driver.do(action, url=client.url, **given)

    file = does("upload", name="report.pdf", text="%PDF")
    assert (file["object"], file["bytes"], file["purpose"]) == ("file", 4, "user_data")
    assert file["id"] in does("files")
    assert does("content", id=file["id"]) == "%PDF"
    parts = [{"type": "input_text", "text": "See"}, {"type": "input_file", "file_id": file["id"]}]
    response = client.create([{"role": "user", "content": parts}], model="echo_history", background=False)
    assert does("discard", id=file["id"])["deleted"]
    assert file["id"] not in does("files")
    run_id = response["id"].removeprefix("resp_")
    given = httpx.get(f"{client.url}/v1/runs/{run_id}/input", trust_env=False).json()
    shown = given["messages"][-1]["content"][1]["file"]
    blob = blob_references.parse(shown["file_data"])
    assert blob is not None
    assert (shown["filename"], blob.media_type, blob.size) == ("report.pdf", "application/pdf", 4)
    assert httpx.get(f"{client.url}{blob.path}", trust_env=False).content == b"%PDF"


def test_items_are_referred_to(client: Client):
    """A client that keeps ids alone has the conversation by them; what is not there is refused by name."""
    first = client.create("One", model="echo_history", background=False)
    (message,) = items(first, "message")
    reference = {"type": "item_reference", "id": message["id"]}
    before, after = {"role": "user", "content": "One"}, {"role": "user", "content": "Two"}
    second = client.create([before, reference, after], model="echo_history", background=False)
    assert said(second) == "user:One|assistant:user:One|user:Two"
    asked = client.create("Which colour?", model="delegating", background=False)
    (call,) = items(asked, "function_call")
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "blue"}
    told = [{"type": "item_reference", "id": item["id"]} for item in asked["output"]]
    assert said(client.create([*told, output], model="delegating", background=False)) == "It is blue."
    nothing = {"type": "item_reference", "id": f"{message['id']}0"}
    assert client.create([nothing, after], background=False)["refused"]["status"] == 400
