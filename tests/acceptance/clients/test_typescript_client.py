"""The TypeScript client against a live stack: in Node over a bad network, and its React hook in Chromium."""

from __future__ import annotations

import asyncio
import functools
import http.server
import itertools
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.clients import typescript_client
from support.clients.browsers import chromium, tabs
from support.clients.npm_clients import Program
from support.engines.demowords import demo_text
from support.paths import TESTS
from support.processes.gateways import GatewayThread
from support.processes.proxy import Plan, Proxy
from support.waiting import wait_until

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def program() -> Iterator[Program]:
    typescript_client.build()
    with Program("mainstem.mjs") as running:
        yield running


class Client:
    """One client in the Node program."""

    def __init__(self, program: Program, url: str, **headers: str) -> None:
        self._program = program
        program.do("open", url=url, headers=headers)

    def ask(self, method: str, *given: Any) -> dict[str, Any]:
        return self._program.do("call", method=method, given=list(given))

    def call(self, method: str, *given: Any) -> Any:
        answer = self.ask(method, *given)
        assert "error" not in answer, answer
        return answer.get("value")

    def demo(self, thread: str, **wanted: Any) -> str:
        return self.call("start", thread, {"engine": "demo", "input": {"interval_ms": 2, **wanted}})["run_id"]

    def follow(self, run_id: str, after: str | None = None) -> Followed:
        name = f"f{next(_numbers)}"
        self._program.do("follow", **{"as": name, "runId": run_id, "after": after})
        return Followed(self._program, name)


class Followed:
    """A run that the Node program follows."""

    def __init__(self, program: Program, name: str) -> None:
        self._program, self._name = program, name

    @property
    def state(self) -> dict[str, Any]:
        return self._program.do("state", **{"as": self._name})

    def leave(self) -> None:
        self._program.do("leave", **{"as": self._name})

    def until(self, text: str) -> None:
        wait_until(lambda: text in self.state["text"], description=f"{text!r} to come", timeout_s=60)

    def paused(self) -> dict[str, Any]:
        wait_until(
            lambda: self.state["status"] == "requires_action", description="the run to pause", timeout_s=60
        )
        return self.state["action"]

    def ended(self) -> dict[str, Any]:
        """Wait until the iteration ended; each event came once and in order."""
        wait_until(
            lambda: self.state["over"] or self.state["failure"],
            description="the iteration to end",
            timeout_s=60,
        )
        state = self.state
        order = [tuple(map(int, cursor.split("-"))) for cursor in state["cursors"]]
        assert order == sorted(set(order))
        return state


@pytest.fixture
def client(program: Program, gateway: GatewayThread) -> Client:
    return Client(program, gateway.url)


@pytest.fixture
async def network(gateway: GatewayThread) -> AsyncIterator[Proxy]:
    """A way to the gateway that a test can break."""
    async with Proxy(gateway.port) as proxy:
        yield proxy


def address(proxy: Proxy) -> str:
    return proxy.url.replace("redis://", "http://").removesuffix("/0")


def test_what_is_packed():
    """Declarations and JavaScript of every module, and nothing of the build."""
    names = typescript_client.names_in(typescript_client.build())
    modules = {"client", "errors", "fold", "following", "index", "openapi", "react"}
    assert names == {"package.json", "README.md"} | {
        f"dist/{each}{end}" for each in modules for end in (".js", ".d.ts")
    }


def test_a_run_from_start_to_end(client: Client, thread: str):
    run_id = client.demo(thread, tokens=30)
    state = client.follow(run_id).ended()
    assert (state["status"], state["text"]) == ("succeeded", demo_text(30))
    assert state["types"][0] == "run.created"
    assert state["types"][-1] == "run.finished"
    assert [each["run_id"] for each in client.call("runs", {"thread_id": thread})["runs"]] == [run_id]
    assert [each["role"] for each in client.call("messages", thread)["messages"]][-1] == "assistant"
    fork = client.call("forkThread", thread, {"message_id": run_id})
    assert len(client.call("messages", fork["thread_id"])["messages"]) == 2
    client.call("describeThread", thread, {"title": "Words"})
    assert thread in [each["thread_id"] for each in client.call("threads", {"search": "Words"})["threads"]]


async def test_every_event_once_over_a_bad_network(program: Program, network: Proxy, thread: str):
    """Connections break after a few hundred bytes, before, within and after events."""
    client = Client(program, address(network))
    run_id = await asyncio.to_thread(client.demo, thread, tokens=200)
    network.cut_all()
    limits = iter([900, 1, 1333, 2000, 50, 1512, 1100, 3000])
    network.plan = lambda _: Plan(down=next(limits, None))
    state = await asyncio.to_thread(lambda: client.follow(run_id).ended())
    assert (state["status"], state["text"]) == ("succeeded", demo_text(200))
    assert network.cuts == 8
    assert {"connecting", "live", "reconnecting"} == set(state["connections"])


async def test_a_start_whose_answer_was_lost_starts_once(program: Program, network: Proxy, thread: str):
    cuts = iter([Plan(down=1), Plan(down=20)])
    network.plan = lambda _: next(cuts, Plan())
    client = Client(program, address(network))
    run_id = await asyncio.to_thread(client.demo, thread, tokens=1)
    listed = await asyncio.to_thread(client.call, "runs", {"thread_id": thread})
    assert [each["run_id"] for each in listed["runs"]] == [run_id]
    assert network.cuts == 2


def test_whoever_comes_back_goes_on_where_they_were(client: Client, thread: str):
    run_id = client.demo(thread, tokens=400, interval_ms=5)
    other, first = client.follow(run_id), client.follow(run_id)
    first.until("w20")
    first.leave()
    wait_until(lambda: first.state["failure"], description="the reader to leave")
    seen = first.state
    assert seen["failure"] == {"name": "AbortError"}
    rest = client.follow(run_id, after=seen["cursor"]).ended()
    whole = other.ended()
    assert seen["cursors"] + rest["cursors"] == whole["cursors"]
    assert rest["text"] == whole["text"] == demo_text(400)
    again = client.follow(run_id, after=whole["cursor"]).ended()  # 204: nothing more will come
    assert (again["over"], again["cursors"]) == (True, [])


def test_abort_and_approval(client: Client, thread: str):
    run_id = client.demo(thread, tokens=5000, interval_ms=5)
    reader = client.follow(run_id)
    reader.until("w10")
    assert client.call("abort", run_id, {"waitS": 10})["outcome"] == "aborted"
    assert (reader.ended()["status"], reader.state["reason"]) == ("aborted", "user_abort")

    run_id = client.demo(thread, tokens=4, approve_at=[2])
    reader = client.follow(run_id)
    action = reader.paused()
    calls = [{"call_id": call["call_id"], "type": "approve"} for call in action["calls"]]
    client.call("resume", run_id, {"action_id": action["action_id"], "decisions": calls})
    assert (reader.ended()["status"], reader.state["text"]) == ("succeeded", demo_text(4))


def test_the_state_is_the_gateways(client: Client, thread: str):
    """Whatever an engine emits, folding its events gives what the gateway says of the run."""
    run_id = client.call("start", thread, {"engine": "rich", "input": {}})["run_id"]
    state = client.follow(run_id).ended()
    run = client.call("get", run_id)
    assert len(run["content"]) > 1
    for name in ("status", "reason", "error", "text", "content", "steps", "usage", "title", "action"):
        assert state[name] == run[name], name


def test_errors_say_what_the_gateway_says(client: Client, thread: str):
    run_id = client.demo(thread, tokens=500, interval_ms=5)
    assert client.ask("start", thread, {"engine": "demo", "input": {}})["error"]["code"] == "thread_busy"
    client.call("abort", run_id, {"waitS": 10})
    assert client.ask("get", "no_such_run")["error"] == {
        "status": 404,
        "code": "not_found",
        "retryAfter": None,
    }
    assert client.ask("resume", run_id, {"action_id": "x"})["error"]["status"] in {409, 422}
    state = client.follow(f"{run_id}x").ended()
    assert state["failure"]["status"] == 404


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Keep it to itself."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """An app's own server, with the page."""
    typescript_client.bundle(TESTS / "stock_clients" / "use_run.jsx", tmp_path / "page.js")
    (tmp_path / "index.html").write_text(
        '<!doctype html><html lang="en"><link rel="icon" href="data:,"><title>A run</title><div id="root"></div>'
        '<script type="module" src="page.js"></script></html>'
    )
    handler = functools.partial(_Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


async def test_the_hook_in_a_browser(stage: Any, site: str, thread: str):
    """A page of another origin shows a run through cuts, decides for it, and stops it."""
    with GatewayThread(stage.store.url(0), stage.broker.url(1), cors_origins=site) as gateway:
        async with Proxy(gateway.port) as network, chromium() as browser, tabs(browser, site) as opened:
            page = await opened.open(
                f"/?url={address(network)}&run={await started(gateway, thread, tokens=300, approve_at=[50])}"
            )
            text = page.locator("#text")
            await page.get_by_role("button", name="Approve").wait_for()
            assert await text.text_content() == demo_text(50)
            network.cut_all()
            await page.get_by_role("button", name="Approve").click()
            await page.wait_for_function("document.querySelector('#text').textContent.includes('w80')")
            network.cut_all()
            await page.wait_for_function("document.querySelector('#connection').textContent === 'ended'")
            assert await text.text_content() == demo_text(300)
            assert await page.locator("#status").text_content() == "succeeded"
            assert await page.get_by_role("button").count() == 0
            run_id = await started(gateway, f"{thread}-2", tokens=5000)
            page = await opened.open(f"/?url={address(network)}&run={run_id}")
            await page.wait_for_function("document.querySelector('#text').textContent.includes('w20')")
            await page.get_by_role("button", name="Stop").click()
            await page.wait_for_function("document.querySelector('#status').textContent === 'aborted'")
            page = await opened.open(f"/?url={address(network)}&run={run_id}x")
            await page.wait_for_function("document.querySelector('#error').textContent === 'not_found'")
            opened.expect_broken_requests()


async def started(gateway: GatewayThread, thread: str, **wanted: Any) -> str:
    body = {"engine": "demo", "input": {"interval_ms": 5, **wanted}}
    async with httpx.AsyncClient(trust_env=False) as http_client:
        answer = await http_client.post(f"{gateway.url}/v1/threads/{thread}/runs", json=body)
    return answer.json()["run_id"]
