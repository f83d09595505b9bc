"""Servers that are OpenAI-compatible in their own way, and some that are not: what the engine makes of them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from mainstem_shared import errors
from mainstem_shared.settings import Settings
from mainstem_tasks.testing import EngineRun, run_engine
from support.fakes.openai_server import Events, OpenAIServer, Refusal, answer, chunk, text_chunks

ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "Why?"}]}
STOP = chunk(finish="stop")
CALLED = chunk(finish="tool_calls")

pytestmark = pytest.mark.usefixtures("closing_clients")


async def asked(provider: OpenAIServer, *replies: Events | Refusal, **options: Any) -> EngineRun:
    provider.reply(*replies)
    key = SecretStr("sk-test-0123456789abcdef")
    settings = Settings(openai_base_url=provider.url, openai_api_key=key, openai_model="m")
    return await run_engine("openai", ASK, settings=settings, **options)


def piece(arguments: str | None = None, *, name: str | None = None, **fields: Any) -> dict[str, Any]:
    """A piece of a tool call with exactly these fields."""
    given = {"name": name, "arguments": arguments}
    function = {key: value for key, value in given.items() if value is not None}
    return chunk({"tool_calls": [{**fields, "function": function}]})


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        pytest.param(
            [piece('{"a":', id="x", name="f"), piece("1}"), piece("{}", id="y", name="g")],
            [("x", "f", {"a": 1}), ("y", "g", {})],
            id="calls without numbers",
        ),
        pytest.param(
            [piece('{"a":', index=0, id="x"), piece("1", index=0, name="f"), piece("}", index=0)],
            [("x", "f", {"a": 1})],
            id="a name that comes after the first arguments",
        ),
        pytest.param(
            [piece("{", index=0, id="x", name="f"), piece("}", index=0, id="x", name="f")],
            [("x", "f", {})],
            id="id and name in every piece",
        ),
        pytest.param(
            [piece("{", index=0, name="f", id=""), piece("}", index=0, id="x", name="f")],
            [(None, "f", {})],
            id="an id that comes too late",
        ),
        pytest.param(
            [piece('{"a":1}', index=0, id="x", name="f"), piece('{"b":2}', index=1, id="x", name="g")],
            [("x", "f", {"a": 1}), (None, "g", {"b": 2})],
            id="one id for two calls",
        ),
        pytest.param([piece(index=0, id="x", name="f")], [("x", "f", {})], id="no arguments"),
    ],
)
async def test_tool_calls_are_told_apart(provider: OpenAIServer, pieces: list[Any], expected: list[Any]):
    """Each call keeps its name, its whole arguments and an id of its own (None: any that is new)."""
    result = await asked(provider, Events(chunks=[*pieces, CALLED]))
    assert [(part["name"], part["arguments"]) for part in result.content] == [each[1:] for each in expected]
    assert {part["state"] for part in result.content} == {"called"}
    ids = [part["call_id"] for part in result.content]
    assert all(given == named for given, (named, *_) in zip(ids, expected, strict=True) if named)
    assert len({*ids}) == len(ids)
    assert all(ids)


@pytest.mark.parametrize("end", ["bare", "cut"])
async def test_an_answer_is_complete_with_its_reason_to_stop(provider: OpenAIServer, end: str):
    """A connection that breaks after the finish reason takes nothing from the answer."""
    result = await asked(provider, Events(chunks=[*text_chunks("all ", "said"), STOP], end=end))
    assert result.text == "all said"
    assert [custom["name"] for custom in result.payloads("custom")] == ["finish"]
    assert len(provider.requests) == 1


async def test_keep_alive_comments_are_no_chunks(provider: OpenAIServer):
    """Routers send comments while they wait for the model."""
    line = '{"choices": []}\n\n: PROCESSING'
    result = await asked(provider, Events(chunks=[line, *text_chunks("late"), line, STOP]))
    assert result.text == "late"


@pytest.mark.parametrize(
    "data",
    [
        '{"choices": 5}',
        '{"choices": [7]}',
        '{"choices": [{"index": 0, "delta": 7}]}',
        '{"choices": [{"index": 0, "delta": {"content": true}}]}',
        '{"choices": [{"index": 0, "delta": {"content": [7]}}]}',
        '{"choices": [{"index": 0, "delta": {"tool_calls": [3]}}]}',
        '{"choices": [{"index": 0, "delta": {"tool_calls": 3}}]}',
        '{"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": "f"}]}}]}',
        '{"choices": [{"index": 0, "delta": {"tool_calls": [{"function": {"name": "f", "arguments": 7}}]}}]}',
    ],
)
async def test_a_part_of_an_answer_that_cannot_be_read_fails_it(provider: OpenAIServer, data: str):
    """Leaving it out would change what was said. It fails the run at once: the same would come again."""
    result = await asked(provider, Events(chunks=[data, STOP]), answer("never"), check=False)
    assert isinstance(result.error, errors.ProviderError)
    assert "no chat completion" in str(result.error)
    assert len(provider.requests) == 1


@pytest.mark.parametrize(
    "data",
    [
        "[1, 2]",
        "7",
        '"a string"',
        "null",
        "{}",
        '{"choices": null}',
        '{"choices": [], "usage": {"prompt_tokens": "many"}}',
        '{"choices": [{"index": null, "delta": null, "logprobs": 7}], "id": 7, "model": {"name": "m"}}',
        '{"choices": [{"index": 1, "delta": {"content": "another answer"}}]}',
        '{"choices": [{"delta": {"role": 7, "content": null, "tool_calls": null, "function_call": null}}]}',
    ],
)
async def test_what_is_no_part_of_an_answer_is_passed_over(provider: OpenAIServer, data: str):
    """A member that does not matter never kills an answer, whatever its shape."""
    result = await asked(provider, Events(chunks=[*text_chunks("a"), data, STOP]))
    assert (result.text, len(provider.requests)) == ("a", 1)


async def test_fields_that_nobody_knows_are_passed_over(provider: OpenAIServer):
    """What a server adds, and reasoning that is no text, does no harm."""
    odd = chunk(
        {"content": "fine", "reasoning": {"tokens": [1]}, "annotations": []}, provider="x", obfuscation="y"
    )
    result = await asked(provider, Events(chunks=[odd, STOP]))
    assert result.content == [{"type": "text", "text": "fine"}]


async def test_a_page_is_no_answer(provider: OpenAIServer):
    """A body that is a page fails the run at once, with the beginning of the page."""
    page = Refusal(status=200, body="<html>A login page</html>")
    result = await asked(provider, page, answer("never"), check=False)
    assert "<html>A login page</html>" in str(result.error)
    assert len(provider.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 425])
async def test_a_refusal_is_final_whatever_the_provider_hints(provider: OpenAIServer, status: int):
    """`x-should-retry` may only forbid: a request that was refused is not sent again."""
    refusal = Refusal(status=status, body={"error": {"message": "no"}}, headers={"x-should-retry": "true"})
    result = await asked(provider, refusal, answer("never"), check=False)
    assert f"{status}: no" in str(result.error)
    assert len(provider.requests) == 1
