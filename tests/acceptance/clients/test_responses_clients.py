"""OpenAI's own clients, of npm and of PyPI, against a live stack: what a program does, and what goes wrong meanwhile."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai
import pytest

from support.clients.cells import Showing
from support.clients.npm_clients import Program
from support.engines.demowords import demo_text
from support.paths import TESTS
from support.processes.gateways import GatewayThread
from support.processes.servers import free_port
from support.waiting import wait_until

QUICK = {
    "MAINSTEM_LEASE_S": "1.5",
    "MAINSTEM_SWEEP_S": "0.5",
    "MAINSTEM_ENGINES": "support.engines.engines",
    "PYTHONPATH": str(TESTS),
}
ENDS = ("response.completed", "response.failed", "response.incomplete")
_numbers = itertools.count(1)


class Python:
    """PyPI's client; it does what `stock_clients/openai.mjs` does with npm's."""

    def __init__(self) -> None:
        self._streams: dict[str, dict[str, Any]] = {}
        self._threads: list[threading.Thread] = []
        self._clients: dict[str, openai.OpenAI] = {}

    def do(self, action: str, **request: Any) -> Any:
        return getattr(self, action)(**request)

    def _client(self, url: str, retries: int = 0) -> openai.OpenAI:
        if url not in self._clients:
            self._clients[url] = openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=retries)
        return self._clients[url]

    def _responses(self, url: str) -> Any:
        return self._client(url).responses

    def create(self, url: str, body: dict[str, Any], retries: int = 0) -> Any:
        client = self._client(url, retries)
        return self._answer(lambda: client.responses.create(**_split(body)))

    def complete(self, url: str, body: dict[str, Any], retries: int = 0) -> Any:
        client: Any = self._client(url, retries)
        return self._answer(lambda: client.chat.completions.create(**_split(body)))

    def createStream(self, url: str, body: dict[str, Any], **tab: str) -> None:  # noqa: N802 - the other's name
        self._read(tab["as"], lambda: self._responses(url).create(**_split(body), stream=True))

    def completeStream(self, url: str, body: dict[str, Any], **tab: str) -> None:  # noqa: N802
        client: Any = self._client(url)
        self._read(tab["as"], lambda: client.chat.completions.create(**_split(body), stream=True))

    def retrieve(self, url: str, id: str) -> Any:  # noqa: A002
        return self._answer(lambda: self._responses(url).retrieve(id))

    def retrieveStream(self, url: str, id: str, query: dict[str, Any], **tab: str) -> None:  # noqa: A002, N802
        self._read(tab["as"], lambda: self._responses(url).retrieve(id, stream=True, **query))

    def helper(self, url: str, body: dict[str, Any]) -> Any:
        with self._responses(url).stream(**_split(body)) as stream:
            return stream.get_final_response().model_dump()

    def cancel(self, url: str, id: str) -> Any:  # noqa: A002
        return self._answer(lambda: self._responses(url).cancel(id))

    def upload(self, url: str, name: str, text: str) -> Any:
        file = (name, text.encode())
        return self._answer(lambda: self._client(url).files.create(file=file, purpose="user_data"))

    def files(self, url: str) -> list[str]:
        return [file.id for file in self._client(url).files.list()]

    def content(self, url: str, id: str) -> str:  # noqa: A002
        return self._client(url).files.content(id).text

    def discard(self, url: str, id: str) -> Any:  # noqa: A002
        return self._answer(lambda: self._client(url).files.delete(id))

    def state(self, **tab: str) -> dict[str, Any]:
        seen = self._streams[tab["as"]]
        return {**seen, "events": list(seen["events"])}

    def close(self) -> None:
        for thread in self._threads:
            thread.join(30)
        for client in self._clients.values():
            client.close()

    @staticmethod
    def _answer(call: Any) -> Any:
        try:
            return call().model_dump()
        except openai.APIStatusError as error:
            return {"refused": {"status": error.status_code, "code": error.code, "message": str(error)}}

    def _read(self, name: str, call: Any) -> None:
        seen: dict[str, Any] = {"events": [], "failure": None, "done": False}
        self._streams[name] = seen

        def read() -> None:
            try:
                with call() as stream:
                    for event in stream:
                        seen["events"].append(event.model_dump())
            except Exception as error:  # whatever it is, the test wants to see it
                seen["failure"] = (
                    f"{getattr(error, 'status_code', '')} {getattr(error, 'code', '')} {error!r}"
                )
            seen["done"] = True

        self._threads.append(threading.Thread(target=read, name=f"reader {name}"))
        self._threads[-1].start()


def _split(body: dict[str, Any]) -> dict[str, Any]:
    """What the client's signature does not know goes beside it."""
    return {**{name: value for name, value in body.items() if name != "mainstem"}, **_extra(body)}


def _extra(body: dict[str, Any]) -> dict[str, Any]:
    return {"extra_body": {"mainstem": body["mainstem"]}} if "mainstem" in body else {}


class Client:
    """One of both, at one gateway."""

    def __init__(self, driver: Any, url: str, *, retries: int = 0) -> None:
        self.driver, self.url, self._retries = driver, url, retries

    @property
    def _from(self) -> str:
        return "PyPI" if isinstance(self.driver, Python) else "npm"

    @property
    def name(self) -> str:
        """What docs/clients.md calls it."""
        return f"openai ({self._from}), Responses"

    @property
    def chat_name(self) -> str:
        """What docs/clients.md calls its other API."""
        return f"openai ({self._from}), Chat Completions"

    def create(self, text: Any = "Hello", **body: Any) -> dict[str, Any]:
        return self.driver.do("create", url=self.url, body=_body(text, body), retries=self._retries)

    def complete(self, *messages: dict[str, Any], **body: Any) -> dict[str, Any]:
        """Have a completion; these messages are the conversation."""
        body = {"model": "demo", "messages": list(messages), **body}
        return self.driver.do("complete", url=self.url, body=body, retries=self._retries)

    def stream(self, text: Any = "Hello", **body: Any) -> Stream:
        stream = Stream(self.driver)
        self.driver.do("createStream", **{"as": stream.name}, url=self.url, body=_body(text, body))
        return stream

    def chunks(self, *messages: dict[str, Any], **body: Any) -> Stream:
        """Have a completion in chunks."""
        stream = Stream(self.driver)
        body = {"model": "demo", "messages": list(messages), **body}
        self.driver.do("completeStream", **{"as": stream.name}, url=self.url, body=body)
        return stream

    def follow(self, response_id: str, **query: Any) -> Stream:
        stream = Stream(self.driver)
        self.driver.do("retrieveStream", **{"as": stream.name}, url=self.url, id=response_id, query=query)
        return stream

    def helped(self, text: Any, **body: Any) -> dict[str, Any]:
        """Use the client's own accumulation of a stream."""
        return self.driver.do("helper", url=self.url, body=_body(text, body))

    def get(self, response_id: str) -> dict[str, Any]:
        return self.driver.do("retrieve", url=self.url, id=response_id)

    def cancel(self, response_id: str) -> dict[str, Any]:
        return self.driver.do("cancel", url=self.url, id=response_id)


def _body(text: Any, body: dict[str, Any]) -> dict[str, Any]:
    return {"model": "demo", "background": True, "input": text, **body}


def demo(**wanted: Any) -> dict[str, Any]:
    """What makes the demo engine do this."""
    return {"mainstem": {"input": {"interval_ms": 0, **wanted}}}


class Stream:
    """A response's events, as the client gives them."""

    def __init__(self, driver: Any) -> None:
        self.name = f"s{next(_numbers)}"
        self._driver = driver

    @property
    def state(self) -> dict[str, Any]:
        return self._driver.do("state", **{"as": self.name})

    @property
    def text(self) -> str:
        return text_of(self.state["events"])

    def shows(self, text: str) -> dict[str, Any]:
        wait_until(lambda: text in self.text, description=f"the stream to show {text!r}", timeout_s=60)
        return self.state

    def anew(self) -> list[dict[str, Any]]:
        """The events since the response began again; none if it did not."""
        events = self.state["events"]
        begins = [at for at, event in enumerate(events) if event["type"] == "response.created"]
        return events[begins[-1] :] if len(begins) > 1 else []

    def ends(self) -> dict[str, Any]:
        wait_until(lambda: self.state["done"], description="the stream to end", timeout_s=60)
        return self.state

    def completes(self) -> list[dict[str, Any]]:
        """Wait for a proper end; returns the events."""
        state = self.ends()
        assert state["failure"] is None
        assert [event["type"] in ENDS for event in state["events"]].count(True) == 1
        assert state["events"][-1]["type"] in ENDS
        return state["events"]

    @property
    def response_id(self) -> str:
        wait_until(lambda: self.state["events"], description="the first event", timeout_s=60)
        return self.state["events"][0]["response"]["id"]


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")


def numbers(events: list[dict[str, Any]]) -> list[int]:
    return [event["sequence_number"] for event in events]


def said(response: dict[str, Any]) -> str:
    parts = [part for item in response["output"] if item["type"] == "message" for part in item["content"]]
    return "".join(part["text"] for part in parts)


def items(response: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [item for item in response["output"] if item["type"] == kind]


@contextmanager
def driven(kind: str) -> Iterator[Any]:
    """Have one of both clients."""
    if kind == "npm":
        with Program("openai.mjs") as running:
            yield running
    else:
        running = Python()
        yield running
        running.close()


@pytest.fixture(scope="module", params=["npm", "pypi"])
def driver(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Each client in turn."""
    with driven(request.param) as running:
        yield running


@pytest.fixture
def client(driver: Any, gateway: GatewayThread) -> Client:
    return Client(driver, gateway.url)


def test_a_whole_response(client: Client):
    """Numbers from 0 without a gap; deltas, final texts and the response object agree."""
    stream = client.stream("Grüße, 世界 out there", model="any-model", metadata={"k": "v"})
    events = stream.completes()
    assert numbers(events) == list(range(len(events)))
    kinds = [event["type"] for event in events]
    assert kinds[:3] == ["response.created", "response.queued", "response.in_progress"]
    response = events[-1]["response"]
    assert text_of(events) == said(response) == "Grüße, 世界 out there"
    assert (response["status"], response["metadata"]) == ("completed", {"k": "v"})
    assert client.get(stream.response_id)["output"] == response["output"]
    again = client.follow(stream.response_id).completes()
    assert numbers(again) == numbers(events)


def test_the_clients_own_accumulation(client: Client):
    """The helpers that fold a stream into a response accept every event, tool calls and pauses too."""
    assert said(client.helped("Hello there")) == "Hello there"
    paused = client.helped("x", **demo(tokens=4, approve_at=[2]))
    (asked,) = items(paused, "mcp_approval_request")
    continued = client.helped([verdict(asked, approve=True)])
    assert said(paused) + said(continued) == demo_text(4)
    assert [item["type"] for item in continued["output"]] == ["mcp_call", "message"]
    assert items(client.helped("x", **demo(tokens=2, ask_at=[1])), "function_call")


def test_polling(client: Client):
    """Without a stream the answer comes at once, and later the whole."""
    response = client.create([{"role": "user", "content": [{"type": "input_text", "text": "Hello"}]}])
    assert response["status"] in ("queued", "in_progress", "completed")
    wait_until(
        lambda: client.get(response["id"])["status"] == "completed", description="its end", timeout_s=30
    )
    assert said(client.get(response["id"])) == "Hello"
    foreground = client.create("Now", background=False)
    assert (foreground["status"], said(foreground)) == ("completed", "Now")


def test_reconnecting_in_mid_stream(client: Client, shows: Showing):
    """Whatever the number, what follows is what the first reader gets; also at the end, and after it."""
    first = client.stream(**demo(tokens=100_000, interval_ms=5))
    seen = first.shows("w20")["events"]
    second = client.follow(first.response_id, starting_after=seen[-1]["sequence_number"])
    third = client.follow(first.response_id, starting_after=2)
    for stream in (second, third):
        stream.shows("w60")
    whole = said(client.cancel(first.response_id))
    events = first.completes()
    assert text_of(events) == whole
    for stream, after in ((second, seen[-1]["sequence_number"]), (third, 2)):
        rest = stream.completes()
        assert numbers(rest) == list(range(after + 1, len(events)))
        assert text_of(events[: after + 1]) + text_of(rest) == whole
    late = client.follow(first.response_id, starting_after=len(events) - 3).completes()
    assert numbers(late) == [len(events) - 2, len(events) - 1]
    nothing = client.follow(first.response_id, starting_after=len(events) - 1).ends()
    assert (nothing["events"], nothing["failure"]) == ([], None)
    shows(client.name, "reload during the run", "reload after the run", "two tabs")


def test_cancel(client: Client, shows: Showing):
    """It ends as cancelled, with what it had; who follows gets a proper end. Twice is once, and the next goes on."""
    stream = client.stream(**demo(tokens=100_000, interval_ms=5))
    stream.shows("w20")
    response = client.cancel(stream.response_id)
    assert response["status"] == "cancelled"
    events = stream.completes()
    assert (events[-1]["type"], events[-1]["response"]["status"]) == ("response.incomplete", "cancelled")
    assert text_of(events) == said(response)
    assert demo_text(100_000).startswith(said(response))
    assert client.cancel(stream.response_id) == response
    after = client.create("Go on", previous_response_id=stream.response_id, background=False)
    assert said(after) == "Go on"
    shows(client.name, "stop, then go on")


def test_approve_edit_and_reject(client: Client, shows: Showing):
    """A pause completes the response with an approval request; answering it is the next response."""
    events = client.stream(**demo(tokens=8, approve_at=[2, 4, 6])).completes()
    first = events[-1]["response"]
    assert (first["status"], said(first)) == ("completed", "w0 w1")
    (asked,) = items(first, "mcp_approval_request")
    assert (asked["name"], asked["arguments"]) == ("demo_tool", '{"at":2}')
    events = client.stream([verdict(asked, approve=True)], previous_response_id=first["id"]).completes()
    assert numbers(events) == list(range(len(events)))
    second = events[-1]["response"]
    assert second["id"] != first["id"]
    (call,) = items(second, "mcp_call")
    assert (call["output"], call["approval_request_id"]) == ('{"word":"w2"}', asked["id"])
    assert said(second) == " w2 w3"
    (asked,) = items(second, "mcp_approval_request")
    edited = verdict(asked, approve=True, arguments='{"at": 77}')
    third = client.create([edited], background=False)
    assert said(third) == " w77 w5"
    (asked,) = items(third, "mcp_approval_request")
    fourth = client.create([verdict(asked, approve=False, reason="No.")], background=False)
    assert said(fourth) == " [rejected:6] w7"
    assert items(fourth, "mcp_call")[0]["status"] == "failed"
    for response in (first, second, third, fourth):
        assert client.get(response["id"])["output"] == response["output"]
    assert numbers(client.follow(second["id"], starting_after=2).completes()) == list(range(3, len(events)))
    shows(client.name, "approve", "approve an edited call", "reject")


def verdict(asked: dict[str, Any], **answer: Any) -> dict[str, Any]:
    return {"type": "mcp_approval_response", "approval_request_id": asked["id"], **answer}


def test_a_question_is_a_function_call(client: Client):
    """Its output is the answer, and the run goes on in the next response."""
    first = client.create(**demo(tokens=4, ask_at=[2]), background=False)
    (asked,) = items(first, "function_call")
    assert asked["name"] == "ask_user"
    output = {"type": "function_call_output", "call_id": asked["call_id"], "output": "blue"}
    second = client.create([output], previous_response_id=first["id"], background=False)
    assert said(first) + said(second) == "w0 w1 blue w2 w3"


def test_refusals(client: Client):
    """Errors have this API's shape and status; a decision that cannot be changes nothing."""
    assert client.get("resp_nothing")["refused"]["status"] == 404
    run = "a" * 16 + "_" + "a" * 26
    assert client.get(f"resp_{run}")["refused"] == {
        **client.get(f"resp_{run}")["refused"],
        "status": 404,
        "code": "not_found",
    }
    assert client.create(store=False)["refused"]["code"] == "invalid_request"
    assert client.create([{"type": "input_file"}])["refused"]["status"] == 400
    assert client.create(mainstem={"engine": "no_such_engine"})["refused"]["code"] == "model_not_found"
    first = client.create(**demo(tokens=4, approve_at=[2]), background=False)
    (asked,) = items(first, "mcp_approval_request")
    forged = {**asked, "id": asked["id"].replace(".act_", ".act_x")}
    assert client.create([verdict(forged, approve=True)])["refused"]["code"] == "stale_action"
    assert client.create([verdict(asked, approve="yes")])["refused"]["code"] == "invalid_decision"
    stolen = {**asked, "id": f"mcpr_{run}.act_1.c"}
    assert client.create([verdict(stolen, approve=True)])["refused"]["status"] == 404
    assert said(client.create([verdict(asked, approve=True)], background=False)) == " w2 w3"
    refused = client.create([verdict(asked, approve=False)])["refused"]
    assert (refused["status"], refused["code"]) == (409, "decision_conflict")


def test_a_failing_engine(client: Client, shows: Showing):
    """response.failed with the reason; what was said stays. What cannot be started is refused before."""
    events = client.stream(**demo(tokens=9, fail_at=5)).completes()
    response = events[-1]["response"]
    assert (events[-1]["type"], response["status"]) == ("response.failed", "failed")
    assert response["error"]["message"] == "DemoError: asked to fail before word 5"
    assert text_of(events) == said(response) == demo_text(5)
    assert response["output"][-1]["status"] == "incomplete"
    refused = client.create(mainstem={"engine": "no_such_engine"})["refused"]
    assert (refused["status"], refused["code"]) == (404, "model_not_found")
    shows(client.name, "error before the stream", "error in the stream")


def test_a_drained_gateway_is_an_error_and_not_an_end(stage: Any, driver: Any):
    """A gateway that stops resets the stream; the next one continues after the last number."""
    port = free_port()
    addresses = (stage.store.url(0), stage.broker.url(1))
    with GatewayThread(*addresses, port=port) as first:
        client = Client(driver, first.url)
        stream = client.stream(**demo(tokens=100_000, interval_ms=10))
        stream.shows("w20")
    state = stream.ends()
    assert state["failure"]
    seen = state["events"]
    with GatewayThread(*addresses, port=port):
        following = client.follow(stream.response_id, starting_after=numbers(seen)[-1])
        wait_until(lambda: len(following.state["events"]) > 9, description="what follows", timeout_s=60)
        client.cancel(stream.response_id)
        rest = following.completes()
    assert numbers(seen + rest) == list(range(len(seen) + len(rest)))
    assert text_of(seen + rest) == said(rest[-1]["response"])
    assert demo_text(100_000).startswith(text_of(seen + rest))


def test_a_killed_worker(live: Any, driver: Any):
    """A run that begins again counts anew, from its beginning; one that cannot ends with response.failed."""
    first = live.worker("first", **QUICK)
    with GatewayThread(live.store.url(0), live.broker.url(1)) as gateway:
        client = Client(driver, gateway.url)
        wanted = {"tokens": 100_000, "interval_ms": 10}
        resumed = client.stream(mainstem={"input": wanted, "on_worker_lost": "resume"})
        failed = client.stream(mainstem={"input": wanted})
        for stream in (resumed, failed):
            stream.shows("w9")
        live.worker("second", ready=False, **QUICK)
        first.sigkill()
        wait_until(
            lambda: "w9" in text_of(resumed.anew()), description="the run to begin again", timeout_s=60
        )
        client.cancel(resumed.response_id)
        events = resumed.completes()
        assert text_of(resumed.anew()) == said(events[-1]["response"])
        assert demo_text(100_000).startswith(said(events[-1]["response"]))
        assert numbers(events) == sorted(set(numbers(events)))
        again = client.follow(resumed.response_id, starting_after=9).completes()
        assert numbers(again) == numbers(resumed.anew())
        events = failed.completes()
        assert events[-1]["response"]["error"]["reason"] == "worker_lost"
        assert demo_text(100_000).startswith(text_of(events))
