"""Engines in a real worker process: a model provider, a user's own package, a plain function in a thread."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.clients.clients import client
from support.fakes.openai_server import (
    Events,
    OpenAIServer,
    Refusal,
    call_chunk,
    chunk,
    text_chunks,
    usage_chunk,
)
from support.processes.processes import Child
from support.waiting import wait_until_async

OWN = """
import time
from mainstem_tasks import SyncRunContext, engine

@engine("patient")
def patient(run: SyncRunContext) -> None:
    run.text("begun")
    while not run.stopping:
        time.sleep(0.01)

@engine("plain")
def plain(run: SyncRunContext) -> None:
    with run.step("counting"):
        for k in range(run.input["n"]):
            run.text(f"{k} ")
    run.tool_call("c1", "add", {"a": 1})
    run.tool_result("c1", 2)

@engine("exits")
async def exits(run) -> None:
    await run.text("partial")
    raise SystemExit(3)
"""
ASK = {"messages": [{"role": "user", "content": "Why?"}]}


@pytest.fixture
def provider() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture
def asking(live, provider: OpenAIServer) -> Child:
    """A worker that asks this provider."""
    return live.worker(
        MAINSTEM_OPENAI_BASE_URL=provider.url,
        MAINSTEM_OPENAI_API_KEY="sk-the-secret-key",
        MAINSTEM_OPENAI_MODEL="scripted-1",
        MAINSTEM_IDLE_TIMEOUT_S="1.5",
    )


async def test_a_completion_becomes_a_run(live, asking: Child, provider: OpenAIServer):
    """Reasoning, text, a tool call and usage of the provider's stream are the run's content."""
    provider.reply(
        Events(
            chunks=[
                chunk({"reasoning_content": "hm"}),
                *text_chunks("Be", "cause"),
                call_chunk(0, '{"q":', call_id="call_a", name="search"),
                call_chunk(0, "1}"),
                chunk(finish="tool_calls"),
                usage_chunk(10, 5, cached=4, reasoning=1),
            ]
        )
    )
    async with client(live) as runs:
        started = await runs.start("thread", "openai", ASK)
        run = await runs.wait(started.run_id, timeout=20)
        assert (run.status, run.reason, run.text) == ("succeeded", "completed", "Because")
        assert [part["type"] for part in run.content] == ["reasoning", "text", "tool_call"]
        assert run.content[2]["arguments"] == {"q": 1}
        assert run.usage is not None
        assert (run.usage.total_tokens, run.usage.cached_input_tokens) == (15, 4)


async def test_a_provider_that_fails_is_the_runs_reason(live, asking: Child, provider: OpenAIServer):
    """`provider_error`, with the provider's words and the partial text; the key is nowhere."""
    said = "no key sk-the-secret-key here"
    provider.reply(
        Refusal(status=401, body={"error": {"message": said}}),
        Events(chunks=text_chunks("par", "tial"), end="cut"),
    )
    async with client(live) as runs:
        refused = await runs.wait((await runs.start("a", "openai", ASK)).run_id, timeout=20)
        cut = await runs.wait((await runs.start("b", "openai", ASK)).run_id, timeout=20)
        assert (refused.status, refused.reason) == ("failed", "provider_error")
        assert refused.error is not None
        assert refused.error.message == "The provider answered 401: no key [key] here"
        assert (cut.reason, cut.text) == ("provider_error", "partial")
    assert "secret" not in asking.log


async def test_a_provider_that_hangs_is_the_idle_timeouts_business(
    live, asking: Child, provider: OpenAIServer
):
    """The run ends `timed_out` with its partial text, and the provider's connection is closed."""
    hangs = Events(chunks=text_chunks("par"), end="silent")
    provider.reply(hangs)
    async with client(live) as runs:
        run = await runs.wait((await runs.start("a", "openai", ASK)).run_id, timeout=20)
        assert (run.reason, run.text) == ("timed_out", "par")
    await wait_until_async(hangs.left.is_set, description="the provider to see the end")


async def test_a_users_own_engines(live, tmp_path: Path):
    """Engines of a user's module run: plain ones in threads, stopped ones at once, exiting ones alone."""
    (tmp_path / "own_engines.py").write_text(OWN)
    live.worker(
        PYTHONPATH=str(tmp_path), MAINSTEM_ENGINES="own_engines, not_there", MAINSTEM_IDLE_TIMEOUT_S="0.7"
    )
    async with client(live) as runs:
        counted = await runs.wait((await runs.start("a", "plain", {"n": 500})).run_id, timeout=20)
        assert counted.reason == "completed"
        assert counted.text == "".join(f"{k} " for k in range(500))
        assert [step["state"] for step in counted.steps] == ["completed", "completed"]
        assert counted.content[-1]["result"] == 2
        patient = await runs.wait((await runs.start("b", "patient", {})).run_id, timeout=20)
        assert (patient.reason, patient.text) == ("timed_out", "begun")
        exits = await runs.wait((await runs.start("c", "exits", {})).run_id, timeout=20)
        assert (exits.reason, exits.text) == ("engine_error", "partial")
        after = await runs.wait((await runs.start("d", "plain", {"n": 1})).run_id, timeout=20)
        assert after.text == "0 "
