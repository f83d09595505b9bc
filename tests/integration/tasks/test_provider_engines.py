"""What the engines for Anthropic's Messages and OpenAI's Responses send, keep, and let go, on real sockets."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from mainstem_api import AsyncRuns
from mainstem_shared import errors
from mainstem_shared.model.actions import Decision
from mainstem_shared.settings import Settings
from mainstem_tasks.execution import segments
from mainstem_tasks.execution.runtime import Runtime
from mainstem_tasks.testing import HOLD, EngineRun, MemoryChannel, ProviderServer, run_engine, strict
from mainstem_tasks.testing.dialects import messages, responses
from support.engines import builtin_engines, dialect_tools, toolshed
from support.processes.in_process_worker import working
from support.waiting import wait_until_async

PICTURE = "data:image/png;base64,iVBORw0KGgo="
PDF = "data:application/pdf;base64,JVBERi0="
NOTE = "data:text/plain;base64,aGVsbG8="
DIALECTS = {"anthropic": messages, "openai_responses": responses}
TOOLS = (dialect_tools, toolshed)
"""Modules that register tools."""

pytestmark = pytest.mark.usefixtures("closing_clients")


@pytest.fixture(scope="module")
def server() -> Iterator[ProviderServer]:
    with ProviderServer() as running:
        yield running


async def asked(
    server: ProviderServer, column: str, content: Any, *, given: dict[str, Any] | None = None, **options: Any
) -> EngineRun:
    run_input = {"messages": [{"role": "user", "content": content}], **(given or {})}
    settings = Settings(**builtin_engines.settings(column, server.url))
    return await run_engine(builtin_engines.ENGINES[column], run_input, settings=settings, **options)


def thinking_then_calling(column: str, name: str, arguments: str) -> Any:
    kind = DIALECTS[column]
    end = messages.end("tool_use") if column == "anthropic" else [responses.end()]
    return strict(kind.stream(*kind.thought(0, "Hm, so."), *kind.call(1, name, arguments), *end))


# -- what is sent


async def test_pictures_and_files_are_blocks_for_anthropic(server: ProviderServer):
    """A picture, an address, a PDF, a text; what the model cannot read is named to it."""
    server.reply(messages.DONE)
    parts = [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": PICTURE}},
        {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": PDF}},
        {"type": "file", "file": {"filename": "a.txt", "file_data": NOTE}},
        {"type": "file", "file": {"filename": "a.zip", "file_data": "data:application/zip;base64,AAAA"}},
    ]
    await asked(server, "anthropic", parts)
    assert server.requests[0].path == "/v1/messages"
    (message,) = server.requests[0].body["messages"]
    pdf, text = (
        {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="},
        {"type": "text", "media_type": "text/plain", "data": "hello"},
    )
    assert message["content"] == [
        {"type": "text", "text": "look"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}},
        {"type": "image", "source": {"type": "url", "url": "https://x.test/a.png"}},
        {"type": "document", "source": pdf, "title": "a.pdf"},
        {"type": "document", "source": text, "title": "a.txt"},
        {"type": "text", "text": "[a.zip (application/zip), which this model cannot read]"},
    ]


async def test_pictures_and_files_are_parts_for_responses(server: ProviderServer):
    """Under the names that they have there."""
    server.reply(responses.DONE)
    parts = [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": PICTURE}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": PDF}},
    ]
    await asked(server, "openai_responses", parts)
    assert server.requests[0].path == "/v1/responses"
    assert server.requests[0].body["input"][0]["content"] == [
        {"type": "input_text", "text": "look"},
        {"type": "input_image", "image_url": PICTURE, "detail": "auto"},
        {"type": "input_file", "filename": "a.pdf", "file_data": PDF},
    ]


async def test_parameters_have_their_names_in_each_protocol(server: ProviderServer):
    """Bounds, stops, tools and their choice, structured answers, effort."""
    schema = {"type": "object"}
    function = {"name": "f", "description": "d", "parameters": schema}
    given = {
        "max_tokens": 5,
        "tools": [{"type": "function", "function": function}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "parallel_tool_calls": False,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
        "reasoning_effort": "low",
        "extra_body": {"service_tier": "auto"},
    }
    server.reply(messages.DONE)
    await asked(server, "anthropic", "x", given={**given, "stop": "END"})
    assert {name: value for name, value in server.requests[0].body.items() if name != "messages"} == {
        "model": "mock-1",
        "stream": True,
        "max_tokens": 5,
        "stop_sequences": ["END"],
        "tools": [{"name": "f", "description": "d", "input_schema": schema}],
        "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
        "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": schema}},
        "service_tier": "auto",
    }
    server.reply(responses.DONE)
    await asked(server, "openai_responses", "x", given=given)
    assert {name: value for name, value in server.requests[0].body.items() if name != "input"} == {
        "model": "mock-1",
        "stream": True,
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "max_output_tokens": 5,
        "tools": [{"type": "function", "strict": False, **function}],
        "tool_choice": {"type": "function", "name": "f"},
        "parallel_tool_calls": False,
        "text": {"format": {"type": "json_schema", "name": "n", "schema": schema}},
        "reasoning": {"summary": "auto", "effort": "low"},
        "service_tier": "auto",
    }


async def test_histories_of_others_are_spelled_as_anthropic_takes_them(server: ProviderServer):
    """Ids and names in its letters, roles that alternate, results at the head, nothing blank."""
    server.reply(strict(messages.DONE))
    call = {"id": "call:1|x", "type": "function", "function": {"name": "a.b", "arguments": '{"x":1}'}}
    history = [
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": " "},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call:1|x", "content": ""},
        {"role": "user", "content": "two"},
    ]
    settings = Settings(**builtin_engines.settings("anthropic", server.url))
    run = await run_engine("anthropic", {"messages": history}, settings=settings)
    assert run.text == "done"


# -- what comes back


@pytest.mark.parametrize("column", DIALECTS)
async def test_thoughts_outlive_a_pause_and_an_edit(server: ProviderServer, column: str):
    """They go back unchanged, on another worker, beside a call whose arguments a human changed."""
    server.reply(
        thinking_then_calling(column, "transfer", '{"amount":10,"to":"bob"}'), strict(DIALECTS[column].DONE)
    )
    given = {"use_tools": ["transfer"]}
    paused = await asked(server, column, "pay", given=given)
    assert paused.action is not None
    (call,) = paused.action.calls
    edited = Decision(id=call.call_id, type="edit", name="transfer", arguments={"amount": 3, "to": "eve"})
    run = await asked(
        server,
        column,
        "pay",
        given=given,
        state=paused.checkpoint,
        segment=2,
        decisions={call.call_id: edited},
        channel=MemoryChannel(paused.fold, epoch=3),
    )
    assert run.text == "done"
    body = server.requests[-1].body
    sent = body["messages"][1]["content"] if column == "anthropic" else body["input"][1:]
    assert [one["type"] for one in sent[:2]] == [
        ["thinking", "tool_use"],
        ["reasoning", "function_call"],
    ][column != "anthropic"]
    assert "eve" in json.dumps(sent[1])
    assert "bob" not in json.dumps(body)


@pytest.fixture(params=DIALECTS)
async def deployed(
    request: pytest.FixtureRequest, server: ProviderServer, settings: Settings
) -> AsyncIterator[tuple[str, Runtime]]:
    """A worker on a real store, and which protocol it speaks."""
    provided = builtin_engines.settings(request.param, server.url)
    here = settings.model_copy(update={**provided, "reserved_output_tokens": 50})
    async with working(here) as runtime:
        yield request.param, runtime


async def turn(runs: AsyncRuns, deployed: tuple[str, Runtime], text: str, **given: Any) -> str:
    column, runtime = deployed
    run_input = {"messages": [{"role": "user", "content": text}], "history": True, **given}
    run_id = (await runs.start("t", builtin_engines.ENGINES[column], run_input)).run_id
    await segments.execute(runtime, run_id, task_id="t")
    return run_id


async def test_thoughts_come_back_in_later_turns(
    server: ProviderServer, deployed: tuple[str, Runtime], runs: AsyncRuns
):
    """With signature or encrypted content, each at its place; and they stay away once they are refused."""
    column, _ = deployed
    kind = DIALECTS[column]
    server.reply(thinking_then_calling(column, "forecast", '{"city":"Rome"}'), strict(kind.DONE))
    await turn(runs, deployed, "one", use_tools=["forecast"])
    first = server.requests[-1].body
    second = await turn(runs, deployed, "two")
    later = server.requests[-1].body
    name = "messages" if column == "anthropic" else "input"
    assert later[name][: len(first[name])] == first[name]
    assert "sig-" in json.dumps(later)
    assert (await runs.get(second)).text == "done"


async def test_an_abort_closes_the_providers_stream(
    server: ProviderServer, deployed: tuple[str, Runtime], runs: AsyncRuns
):
    """Within 25 ms of the cancellation (a second under load), with the words so far, and an estimate of their cost."""
    column, runtime = deployed
    kind = DIALECTS[column]
    server.reply((*kind.stream(*kind.said(0, "Once upon a time")[:-1]), HOLD))
    run_input = {"messages": [{"role": "user", "content": "go"}]}
    run_id = (await runs.start("t", builtin_engines.ENGINES[column], run_input)).run_id
    working_on = asyncio.create_task(segments.execute(runtime, run_id, task_id="t"))

    async def said() -> bool:
        return "Once" in (await runs.get(run_id)).text

    await wait_until_async(said, description="the first words")
    began = time.monotonic()
    runtime.segments[run_id].stop(segments.StopCause.REQUESTED)
    await asyncio.to_thread(server.left.wait, 5)
    assert time.monotonic() - began < 1
    await working_on
    run = await runs.get(run_id)
    assert (run.text, run.usage.estimated) == ("Once upon a time", True)


async def test_a_budget_bounds_an_answer_that_nobody_bounds(
    server: ProviderServer, deployed: tuple[str, Runtime], runs: AsyncRuns
):
    """By what was reserved for it."""
    column, runtime = deployed
    server.reply(DIALECTS[column].DONE)
    run_input = {"messages": [{"role": "user", "content": "go"}]}
    run = await runs.start("t", builtin_engines.ENGINES[column], run_input, budget={"tokens": 500})
    await segments.execute(runtime, run.run_id, task_id="t")
    bound = "max_tokens" if column == "anthropic" else "max_output_tokens"
    assert server.requests[0].body[bound] == 50
    assert (await runs.get(run.run_id)).usage.total_tokens == 5


# -- others


@pytest.mark.parametrize("name", ["KEY", "AUTH_TOKEN", "BASE_URL"])
async def test_the_sdks_environment_has_no_say(
    server: ProviderServer, monkeypatch: pytest.MonkeyPatch, name: str
):
    """Keys and addresses of somebody else's are not used."""
    monkeypatch.setenv(
        f"ANTHROPIC_{name}" if name != "KEY" else "ANTHROPIC_API_KEY", "http://127.0.0.1:9/wrong"
    )
    server.reply(messages.DONE)
    await asked(server, "anthropic", "x")
    headers = server.requests[0].headers
    assert "sk-verysecretkey" in (headers.get("x-api-key") or headers["authorization"])
    assert "wrong" not in json.dumps(headers)


async def test_what_is_missing_is_said(server: ProviderServer):
    """No key and no address; no model."""
    wanted = {"messages": [{"role": "user", "content": "x"}]}
    with pytest.raises(
        errors.ProviderError, match="MAINSTEM_ANTHROPIC_API_KEY or MAINSTEM_ANTHROPIC_BASE_URL"
    ):
        await run_engine("anthropic", wanted, settings=Settings())
    with pytest.raises(errors.InvalidInput, match="MAINSTEM_ANTHROPIC_MODEL"):
        await run_engine("anthropic", wanted, settings=Settings(anthropic_base_url=server.url))


async def test_a_refusal_of_responses_is_a_part_of_its_own(server: ProviderServer):
    """No part of the run's text."""
    content = [{"type": "refusal", "refusal": "I can't."}]
    piece = responses.event("refusal.delta", delta="I can't.")
    server.reply(
        responses.stream(
            *responses.item(0, "message", piece, role="assistant", content=content), responses.end()
        )
    )
    run = await asked(server, "openai_responses", "x")
    assert (run.text, run.content) == ("", [{"type": "refusal", "text": "I can't."}])
