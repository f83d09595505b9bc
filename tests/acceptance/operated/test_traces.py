"""The trace of a run, from real processes to a collector: through a pause, to the provider's calls and tools."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from celery import Celery

from mainstem_api import Runs
from mainstem_shared import tracing
from mainstem_shared.settings import Settings
from support.fakes.openai_server import Events, OpenAIServer, answer, call_chunk, chunk
from support.paths import TESTS
from support.processes import processes, topologies
from support.processes.collectors import MARK, Collector
from support.processes.servers import ValkeyProcess, free_port
from support.processes.trace_pictures import waterfall
from support.waiting import wait_until

SECRET = "zebra-crossing"


class Traced:
    """A gateway and a worker that export their spans to a collector."""

    def __init__(
        self, server: ValkeyProcess, provider: OpenAIServer, directory: Path, stack: ExitStack
    ) -> None:
        self.server, self.provider, self.port = server, provider, free_port()
        self.collector = Collector(directory, stack)
        env = {
            "MAINSTEM_REDIS_URL": server.url(0),
            "MAINSTEM_BROKER_URL": server.url(1),
            "MAINSTEM_ENGINES": "support.engines.toolshed",
            "MAINSTEM_OPENAI_BASE_URL": provider.url,
            "MAINSTEM_OPENAI_MODEL": "model-1",
            "PYTHONPATH": str(TESTS),
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.collector.endpoint,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        worker = stack.enter_context(processes.worker(env, directory))
        stack.enter_context(processes.gateway(env, directory, self.port))
        wait_until(lambda: "@test ready" in worker.log, description="the worker", timeout_s=40)
        wait_until(self._answers, description="the gateway", timeout_s=40)
        self.http = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{self.port}"))
        self.runs = stack.enter_context(Runs(Settings(redis_url=server.url(0), broker_url=server.url(1))))

    def _answers(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def named(self, trace: str, name: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait for so many spans of this name in a trace."""

        def found() -> list[dict[str, Any]] | None:
            here = [span for span in self.collector.spans(trace) if span["name"] == name]
            return here if len(here) == count else None

        return wait_until(found, description=f"{count} spans {name}", timeout_s=20) or []

    def start(self, thread: str, body: dict[str, Any], trace: str) -> str:
        parent = f"00-{trace}-{'ab' * 8}-01"
        answered = self.http.post(f"/v1/threads/{thread}/runs", json=body, headers={"traceparent": parent})
        assert answered.status_code == 202, answered.text
        return answered.json()["run_id"]


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory, valkey_binary: Path) -> Iterator[Traced]:
    directory = tmp_path_factory.mktemp("traces")
    with ExitStack() as stack:
        server = stack.enter_context(topologies.store(directory / "valkey"))
        provider = stack.enter_context(OpenAIServer())
        yield Traced(server, provider, directory, stack)


def test_a_paused_and_resumed_run_is_one_trace(traced: Traced, tmp_path: Path):
    """A caller's traceparent leads to request, start, and both segments' tasks, engines, calls and tools."""
    trace = secrets.token_hex(16)
    arguments = '{"amount": 20, "to": "Ann"}'
    asks = [call_chunk(0, arguments, call_id="c1", name="transfer"), chunk(finish="tool_calls")]
    traced.provider.reply(Events(chunks=asks), answer("sent"))
    run_input = {"messages": [{"role": "user", "content": SECRET}], "use_tools": ["transfer"]}
    run_id = traced.start("paused", {"engine": "openai", "input": run_input}, trace)
    wait_until(lambda: traced.runs.get(run_id).action, description="the question", timeout_s=40)
    action = traced.runs.get(run_id).action
    assert action is not None
    body = {"action_id": action["action_id"], "decisions": [{"call_id": "c1", "type": "approve"}]}
    traced.http.post(f"/v1/runs/{run_id}/resume", json=body).raise_for_status()
    wait_until(lambda: traced.runs.get(run_id).status.is_terminal, description="the end", timeout_s=40)
    traced.http.get(f"/v1/runs/{run_id}/events", params={"token": SECRET})  # addresses of streams hold tokens
    (request,) = traced.named(trace, "POST /v1/threads/{thread_id}/runs")
    (start,) = traced.named(trace, "mainstem.start")
    tasks = traced.named(trace, "process mainstem.generate", 2)
    engines = traced.named(trace, "invoke_agent openai", 2)
    chats = traced.named(trace, "chat model-1", 2)
    (tool,) = traced.named(trace, "execute_tool transfer")
    assert request["parent"] == "ab" * 8
    assert request["attributes"]["http.route"] == "/v1/threads/{thread_id}/runs"
    assert start["parent"] == request["id"]
    assert {task["parent"] for task in tasks} == {start["id"]}
    assert {engine["parent"] for engine in engines} == {task["id"] for task in tasks}
    by_segment = {engine["attributes"]["mainstem.segment"]: engine for engine in engines}
    assert [by_segment[n]["attributes"]["mainstem.outcome"] for n in (1, 2)] == ["paused", "completed"]
    assert {chat["parent"] for chat in chats} == {engine["id"] for engine in engines}
    assert tool["parent"] == by_segment[2]["id"]
    assert {one["service"] for one in tasks} == {"mainstem-worker"}
    assert {one["collected"] for one in (request, start, *tasks, *engines)} == {MARK}
    assert {one["attributes"]["mainstem.run.id"] for one in (*tasks, *engines)} == {run_id}
    assert SECRET not in traced.collector.file.read_text()
    kept = Path(os.environ.get("MAINSTEM_PICTURES") or tmp_path) / "trace.svg"
    kept.write_text(waterfall(traced.collector.spans(trace)))
    assert kept.read_text().count("<rect") == len(traced.collector.spans(trace)) + 1


def test_provider_calls_and_tools_are_below_their_engine(traced: Traced):
    """With the conventions' names: chat with model and tokens, execute_tool with the call's id."""
    trace = secrets.token_hex(16)
    call = call_chunk(0, '{"city": "Rome"}', call_id="c1", name="weather")
    traced.provider.reply(Events(chunks=[call, chunk(finish="tool_calls")]), answer("sun"))
    run_input = {"messages": [{"role": "user", "content": SECRET}], "use_tools": ["weather"]}
    run_id = traced.start("tools", {"engine": "openai", "input": run_input}, trace)
    wait_until(lambda: traced.runs.get(run_id).status.is_terminal, description="the end")
    assert traced.runs.get(run_id).text == "sun"
    (engine,) = traced.named(trace, "invoke_agent openai")
    chats = traced.named(trace, "chat model-1", 2)
    (tool,) = traced.named(trace, "execute_tool weather")
    assert {one["parent"] for one in (*chats, tool)} == {engine["id"]}
    assert tool["attributes"]["gen_ai.tool.call.id"] == "c1"
    assert {one["attributes"]["gen_ai.provider.name"] for one in chats} == {"openai"}
    assert SECRET not in traced.collector.file.read_text()


def test_plain_celery_hands_its_trace_on(traced: Traced):
    """A `traceparent` among a message's headers is taken up by `mainstem.submit`."""
    trace = secrets.token_hex(16)
    with Celery(broker=traced.server.url(1)) as app:
        given = {"thread_id": "plain", "engine": "demo", "input": {"fail_at": 0}, "user_id": "ann"}
        app.send_task("mainstem.submit", kwargs=given, headers={"traceparent": f"00-{trace}-{'cd' * 8}-01"})
    (engine,) = traced.named(trace, "invoke_agent demo")
    assert engine["attributes"]["mainstem.outcome"] == "engine_error"
    assert engine["status"] == 2


def test_off_costs_nothing(monkeypatch: pytest.MonkeyPatch):
    """Without a tracer no span is made: each place gets the same object, that does nothing."""
    assert not tracing.is_on()
    opened: list[str] = []
    monkeypatch.setattr(tracing, "_open", lambda name, **_: opened.append(name))
    assert {id(tracing.span("a")), id(tracing.span("b", kind="CLIENT"))} == {id(tracing.OFF)}
    assert opened == []
