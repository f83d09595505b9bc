"""What a model's provider says, as each stock client hears it: refusals, cuts, errors, files, and both kinds of tools.

One worker asks a scripted provider; every client speaks its own protocol to one gateway.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import openai
import pytest

from acceptance.clients.test_ag_ui_clients import last
from acceptance.clients.test_ag_ui_versions import Page
from acceptance.clients.test_ai_sdk_clients import answer_of, text_of
from acceptance.clients.test_client_versions import Site
from acceptance.clients.test_responses_clients import Client, driven, items, said
from support.clients.cells import Showing
from support.clients.npm_clients import Program
from support.fakes.openai_server import (
    Events,
    OpenAIServer,
    Refusal,
    answer,
    call_chunk,
    chunk,
    text_chunks,
)
from support.paths import TESTS
from support.processes import topologies
from support.processes.gateways import GatewayThread
from support.waiting import wait_until

_numbers = itertools.count(1)
PIXEL: Final = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
PICTURE: Final = f"data:image/png;base64,{PIXEL}"
PAPER: Final = "data:application/pdf;base64,JVBERi0xLjQK"
PICK: Final = {"type": "object", "properties": {"of": {"type": "integer"}}}
"""The parameters of the tool that is the client's own; `weather` is the worker's."""


@dataclass(kw_only=True)
class Heard:
    """What a client has of one answer."""

    text: str = ""
    refusal: str = ""
    reason: str = ""
    """Why it ended, in the client's words."""
    failure: str = ""


class Face:
    """One client's way to ask, and to hear the answer."""

    name: str
    url: str
    errors: Mapping[int, str]
    """By the provider's status: what the client's error says, or the class it has."""
    reasons: Mapping[str, str]

    @abstractmethod
    def asks(self, text: str = "Hello", *, files: bool = False) -> Heard: ...

    @abstractmethod
    def uses_both_tools(self) -> str:
        """Ask with a tool of its own, answer the call of that, and return the last text."""


class SDK(Face):
    def __init__(self, program: Program, url: str, version: int) -> None:
        self.name, self.url = f"ai {version}", url
        self._site = Site(program, url, version, f"/v1/ai-sdk/v{version}/chat")
        self.errors = dict.fromkeys((400, 401, 429, 503), "{status}")
        self.reasons = {"length": "length", "content_filter": "content-filter"}

    def asks(self, text: str = "Hello", *, files: bool = False) -> Heard:
        tab = self._site.open()
        given = [_file("image/png", PICTURE), _file("application/pdf", PAPER)] if files else None
        tab.does("send", text=text, files=given)
        state = self._over(tab)
        if state["status"] == "error":
            return Heard(failure=state["error"])
        parts = [part for part in answer_of(state)["parts"] if part["type"] == "text"]
        refused = [part for part in parts if (part.get("providerMetadata") or {}).get("mainstem")]
        reason = state["finishes"][-1].get("finishReason") or answer_of(state)["metadata"]["finishReason"]
        return Heard(text=text_of(state), refusal="".join(each["text"] for each in refused), reason=reason)

    @staticmethod
    def _over(tab: Any) -> dict[str, Any]:
        wait_until(lambda: tab.state["finishes"], description="the answer", timeout_s=60)
        wait_until(lambda: tab.state["status"] in ("ready", "error"), description="its end", timeout_s=60)
        return tab.state

    def uses_both_tools(self) -> str:
        tools = [{"type": "function", "function": {"name": "pick", "parameters": PICK}}]
        tab = self._site.open(input={"use_tools": ["weather"], "tools": tools})
        tab.does("send", text="Weather?")
        parts = answer_of(tab.until("ready", text="I look."))["parts"]
        states = {part["type"]: part["state"] for part in parts if "toolCallId" in part}
        assert states == {"tool-weather": "output-available", "tool-pick": "input-available"}
        tab.does("answer", tool="pick", output="blue")
        return text_of(tab.until("ready", text="blue.")).removeprefix("I look. ")


def _file(kind: str, url: str) -> dict[str, Any]:
    return {"type": "file", "mediaType": kind, "url": url, "filename": "it"}


class AgUi(Face):
    def __init__(self, program: Program, url: str, version: int) -> None:
        self.name = "@ag-ui/client 1" if version else "@ag-ui/client 0.0"
        self._program, self.url, self._version = program, url, version
        self.errors = dict.fromkeys((400, 401, 429, 503), "{status}")
        self.reasons = {"length": "length", "content_filter": "content_filter"}

    def _page(self) -> Page:
        return Page(self._program, self.url, self._version, f"provided{next(_numbers)}")

    def asks(self, text: str = "Hello", *, files: bool = False) -> Heard:
        page = self._page()
        page.say([{"type": "text", "text": text}, *self._files()] if files else text)
        state = page.run("r1").ends()
        if state["failure"] or last(state)["type"] == "RUN_ERROR":
            return Heard(failure=f"{state['failure']} {last(state)}")
        events = state["events"]
        marked = [
            event["messageId"]
            for event in events
            if event["type"] == "TEXT_MESSAGE_START" and (event.get("metadata") or {}).get("mainstem")
        ]
        refused = [
            event["delta"] for event in events if event.get("messageId") in marked and "delta" in event
        ]
        reasons = [event["value"]["finish_reason"] for event in events if event.get("name") == "finish"]
        return Heard(text=page.text, refusal="".join(refused), reason="".join(reasons))

    def _files(self) -> list[dict[str, Any]]:
        picture = {"type": "data", "value": PIXEL, "mimeType": "image/png"}
        paper = {"type": "data", "value": PAPER.partition(",")[2], "mimeType": "application/pdf"}
        return [{"type": "image", "source": picture}, {"type": "document", "source": paper}]

    def uses_both_tools(self) -> str:
        page = self._page()
        page.say("Weather?")
        tools = [{"name": "pick", "description": "", "parameters": PICK}]
        state = page.run("r1", tools=tools, input={"use_tools": ["weather"]}).ends()
        calls = [call for each in state["messages"] for call in each.get("toolCalls", ())]
        answered = {each["toolCallId"] for each in state["messages"] if each["role"] == "tool"}
        (own,) = [call for call in calls if call["id"] not in answered]
        assert (state["failure"], own["function"]["name"], len(calls)) == (None, "pick", 2)
        page.give(own["id"], "blue")
        state = page.run("r2", tools=tools, input={"use_tools": ["weather"]}).ends()
        assert state["failure"] is None
        return state["messages"][-1]["content"]


class Responses(Face):
    def __init__(self, client: Client) -> None:
        self.name, self.url, self._client = client.name, client.url, client
        self.errors = {400: "400", 401: "401", 429: "429", 503: "503"}
        self.reasons = {"length": "max_output_tokens", "content_filter": "content_filter"}

    def asks(self, text: str = "Hello", *, files: bool = False) -> Heard:
        content: Any = text
        if files:
            paper = {"type": "input_file", "filename": "it", "file_data": PAPER}
            picture = {"type": "input_image", "image_url": PICTURE}
            content = [{"role": "user", "content": [{"type": "input_text", "text": text}, picture, paper]}]
        response = self._client.create(content, model="m", background=False)
        if "refused" in response:
            return Heard(failure=str(response["refused"]["status"]))
        parts = [part for item in items(response, "message") for part in item["content"]]
        return Heard(
            text="".join(part.get("text") or "" for part in parts),
            refusal="".join(part.get("refusal") or "" for part in parts),
            reason=(response["incomplete_details"] or {}).get("reason", ""),
        )

    def uses_both_tools(self) -> str:
        tools = [{"type": "function", "name": "pick", "parameters": PICK, "strict": None}]
        about = {"model": "m", "background": False, "tools": tools}
        about["mainstem"] = {"input": {"use_tools": ["weather"]}}
        asked = self._client.create("Weather?", **about)
        assert [item["type"] for item in asked["output"]] == ["message", "function_call", "mcp_call"]
        output = {"type": "function_call_output", "call_id": "c1", "output": "blue"}
        return said(self._client.create([output], previous_response_id=asked["id"], **about))


class Completions(Face):
    def __init__(self, client: Client) -> None:
        self.name, self.url, self._client = client.chat_name, client.url, client
        self.errors = {400: "400", 401: "401", 429: "429", 503: "503"}
        self.reasons = {"length": "length", "content_filter": "content_filter"}

    def asks(self, text: str = "Hello", *, files: bool = False) -> Heard:
        content: Any = text
        if files:
            paper = {"type": "file", "file": {"filename": "it", "file_data": PAPER}}
            picture = {"type": "image_url", "image_url": {"url": PICTURE}}
            content = [{"type": "text", "text": text}, picture, paper]
        answered = self._client.complete({"role": "user", "content": content}, model="m")
        if "refused" in answered:
            return Heard(failure=str(answered["refused"]["status"]))
        (choice,) = answered["choices"]
        message = choice["message"]
        return Heard(
            text=message["content"] or "",
            refusal=message.get("refusal") or "",
            reason=choice["finish_reason"],
        )

    def uses_both_tools(self) -> str:
        tools = [{"type": "function", "function": {"name": "pick", "parameters": PICK}}]
        about = {"model": "m", "tools": tools, "mainstem": {"input": {"use_tools": ["weather"]}}}
        user = {"role": "user", "content": "Weather?"}
        asked = self._client.complete(user, **about)["choices"][0]["message"]
        assert [call["function"]["name"] for call in asked["tool_calls"]] == ["pick"]
        asked = {name: value for name, value in asked.items() if value is not None}
        output = {"role": "tool", "tool_call_id": asked["tool_calls"][0]["id"], "content": "blue"}
        return self._client.complete(user, asked, output, **about)["choices"][0]["message"]["content"]


@pytest.fixture(scope="module")
def provider() -> Iterator[OpenAIServer]:
    with OpenAIServer() as running:
        yield running


@pytest.fixture(scope="module")
def faces(
    live_system: Any, tmp_path_factory: pytest.TempPathFactory, valkey_binary: Path, provider: OpenAIServer
) -> Iterator[dict[str, Face]]:
    """Every client, at one gateway whose default engine asks the provider."""
    directory = tmp_path_factory.mktemp("provided")
    with ExitStack() as stack:
        server = stack.enter_context(topologies.store(directory / "valkey"))
        system = live_system(server, server, directory)
        stack.enter_context(system.stack)
        system.worker(
            MAINSTEM_OPENAI_BASE_URL=provider.url,
            MAINSTEM_OPENAI_API_KEY="x",
            MAINSTEM_OPENAI_MODEL="m",
            MAINSTEM_ENGINES="support.engines.toolshed",
            PYTHONPATH=str(TESTS),
        )
        gateway = stack.enter_context(GatewayThread(server.url(0), server.url(1), default_engine="openai"))
        sdk, ag_ui = (stack.enter_context(Program(name)) for name in ("ai_sdk.mjs", "ag_ui.mjs"))
        clients = [Client(stack.enter_context(driven(kind)), gateway.url) for kind in ("npm", "pypi")]
        made: list[Face] = [
            *(SDK(sdk, gateway.url, version) for version in (5, 6, 7)),
            *(AgUi(ag_ui, gateway.url, version) for version in (0, 1)),
            *(Responses(client) for client in clients),
            *(Completions(client) for client in clients),
        ]
        yield {face.name: face for face in made}


NAMES = (
    *("ai 5", "ai 6", "ai 7", "@ag-ui/client 0.0", "@ag-ui/client 1"),
    *("openai (npm), Responses", "openai (PyPI), Responses"),
    *("openai (npm), Chat Completions", "openai (PyPI), Chat Completions"),
)


@pytest.fixture(params=NAMES, ids=[name.replace(" ", "-") for name in NAMES])
def face(request: pytest.FixtureRequest, faces: dict[str, Face], provider: OpenAIServer) -> Face:
    provider.clear()
    return faces[request.param]


def test_a_refusal_is_no_answer(face: Face, provider: OpenAIServer, shows: Showing):
    """It shows as a refusal, where the protocol has one, or marked as one."""
    refused = [
        chunk({"role": "assistant", "content": ""}),
        chunk({"refusal": "I "}),
        chunk({"refusal": "won't."}),
    ]
    provider.reply(Events(chunks=[*refused, chunk(finish="stop")]))
    heard = face.asks()
    assert (heard.refusal, heard.failure) == ("I won't.", "")
    shows(face.name, "refusal")


def test_a_cut_answer_says_so(face: Face, provider: OpenAIServer, shows: Showing):
    """What there is of it, and why it is no more."""
    for reason, word in face.reasons.items():
        provider.reply(Events(chunks=[*text_chunks("Half"), chunk(finish=reason)]))
        heard = face.asks()
        assert (heard.text, heard.reason) == ("Half", word)
    shows(face.name, "length")


def test_a_providers_errors_are_told(face: Face, provider: OpenAIServer, shows: Showing):
    """By the status, or by name."""
    for status, code in (
        (400, "invalid_request"),
        (401, "invalid_api_key"),
        (429, "insufficient_quota"),
        (503, "server_error"),
    ):
        provider.clear()
        body = {"error": {"message": "no", "code": code}}
        provider.reply(*[Refusal(status=status, body=body, headers={"retry-after": "0"})] * 5)
        heard = face.asks()
        assert face.errors[status].format(status=status) in heard.failure
    shows(face.name, "provider's 400, 401, 429, 503")


def test_files_reach_the_provider(face: Face, provider: OpenAIServer, shows: Showing):
    """A picture and a PDF, whole, whichever client sends them."""
    provider.reply(answer("Seen."))
    assert face.asks(files=True).text == "Seen."
    said = provider.requests[-1].body["messages"][-1]["content"]
    assert [part["type"] for part in said] == ["text", "image_url", "file"]
    assert (said[1]["image_url"]["url"], said[2]["file"]["file_data"]) == (PICTURE, PAPER)
    shows(face.name, "files")


def test_each_call_goes_to_who_owns_it(face: Face, provider: OpenAIServer, shows: Showing):
    """The worker's is run first; the client's stays open; the provider then gets the batch with both results."""
    batch = [
        *text_chunks("I look. "),
        call_chunk(0, '{"of":1}', call_id="c1", name="pick"),
        call_chunk(1, '{"city":"Bonn"}', call_id="c2", name="weather"),
        chunk(finish="tool_calls"),
    ]
    provider.reply(Events(chunks=batch), answer("Sun and blue."))
    assert face.uses_both_tools() == "Sun and blue."
    told = provider.requests[-1].body["messages"]
    (calls,) = [message["tool_calls"] for message in told if message.get("tool_calls")]
    results = {message["tool_call_id"] for message in told if message["role"] == "tool"}
    assert {call["function"]["name"] for call in calls} == {"pick", "weather"}
    assert results == {call["id"] for call in calls}
    shows(face.name, "own + worker's tool")


def test_statuses_are_the_clients_own_exceptions(faces: dict[str, Face], provider: OpenAIServer):
    """Each raises what it raises elsewhere, from both APIs."""
    base = f"{faces[NAMES[0]].url}/v1"
    said: list[Any] = [{"role": "user", "content": "Hello"}]
    with openai.OpenAI(base_url=base, api_key="unused", max_retries=0) as client:
        for status, kind in (
            (400, openai.BadRequestError),
            (401, openai.AuthenticationError),
            (429, openai.RateLimitError),
            (503, openai.InternalServerError),
        ):
            for ask in (
                lambda: client.chat.completions.create(model="m", messages=said),
                lambda: client.responses.create(model="m", input="Hello"),
            ):
                provider.clear()
                body = {"error": {"message": "no", "code": "insufficient_quota"}}
                provider.reply(*[Refusal(status=status, body=body, headers={"retry-after": "0"})] * 5)
                with pytest.raises(kind):
                    ask()
