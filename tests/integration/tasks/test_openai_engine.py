"""The openai engine against real HTTP servers: a scripted one of ours, and fakellm."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from mainstem_shared import errors
from mainstem_shared.settings import Settings
from mainstem_tasks.engines.turns import transport
from mainstem_tasks.sdk import registry
from mainstem_tasks.testing import EngineRun, MemoryChannel, run_engine
from support.fakes.openai_server import (
    Events,
    OpenAIServer,
    Refusal,
    answer,
    call_chunk,
    chunk,
    text_chunks,
    usage_chunk,
)
from support.waiting import wait_until_async

KEY = "sk-test-0123456789abcdef"
ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "Why?"}]}
NOW = {"retry-after": "0"}

pytestmark = pytest.mark.usefixtures("closing_clients")


def settings(url: str, **fields: Any) -> Settings:
    model = {"openai_base_url": url, "openai_api_key": SecretStr(KEY), "openai_model": "default-1"}
    given: dict[str, Any] = {**model, **fields}
    return Settings(**given)


async def asked(provider: OpenAIServer, run_input: dict[str, Any] | None = None, **options: Any) -> EngineRun:
    return await run_engine("openai", run_input or ASK, settings=settings(provider.url), **options)


# -- what an answer becomes


async def test_text_streams_into_the_run(provider: OpenAIServer):
    """Each piece is emitted as it comes; usage and the reason the model stopped follow."""
    provider.reply(answer("Be", "cause", " — ж 🎉"))
    result = await asked(provider)
    assert [p["text"] for p in result.payloads("message.delta")] == ["Be", "cause", " — ж 🎉"]
    assert result.content == [{"type": "text", "text": "Because — ж 🎉"}]
    assert result.usage is not None
    assert (result.usage.input_tokens, result.usage.output_tokens, result.usage.total_tokens) == (3, 3, 6)
    assert result.payloads("custom") == [
        {
            "name": "finish",
            "data": {"finish_reason": "stop", "model": "scripted-1", "response_id": "chatcmpl-1"},
        }
    ]


async def test_the_request_is_what_was_asked_for(provider: OpenAIServer):
    """Messages untouched, the deployment's model and key, streaming with usage; nothing that was not given."""
    provider.reply(answer("x"))
    messages = [{"role": "user", "content": [{"type": "text", "text": "hi"}], "name": "me"}]
    await asked(
        provider, {"messages": messages, "temperature": 0, "max_tokens": 5, "extra_body": {"top_k": 3}}
    )
    (request,) = provider.requests
    assert request.path == "/v1/chat/completions"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.body == {
        "messages": messages,
        "model": "default-1",
        "temperature": 0,
        "max_tokens": 5,
        "top_k": 3,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_counts_with_every_chunk_are_asked_for_where_that_is_set(provider: OpenAIServer):
    """Not by default: strict providers refuse what they do not know."""
    provider.reply(answer("x"))
    await run_engine("openai", ASK, settings=settings(provider.url, openai_continuous_usage=True))
    wanted = {"include_usage": True, "continuous_usage_stats": True}
    assert provider.requests[0].body["stream_options"] == wanted


async def test_the_run_may_choose_its_model(provider: OpenAIServer):
    """The input's model beats the deployment's."""
    provider.reply(answer("x"))
    await asked(provider, {**ASK, "model": "other-2"})
    assert provider.requests[0].body["model"] == "other-2"


@pytest.mark.parametrize("names", [["reasoning_content"], ["reasoning"], ["reasoning_content", "reasoning"]])
async def test_reasoning_is_kept_apart_from_the_answer(provider: OpenAIServer, names: list[str]):
    """Under either name, and once where a provider uses both."""
    thoughts = [chunk(dict.fromkeys(names, piece)) for piece in ("Let me", " see")]
    provider.reply(Events(chunks=[*thoughts, *text_chunks("42"), chunk(finish="stop")]))
    result = await asked(provider)
    assert result.content == [{"type": "reasoning", "text": "Let me see"}, {"type": "text", "text": "42"}]


async def test_a_refusal_is_shown(provider: OpenAIServer):
    """What the model says in place of an answer is a part of its own."""
    provider.reply(Events(chunks=[chunk({"refusal": "I can't."}), chunk(finish="stop")]))
    assert (await asked(provider)).content == [{"type": "refusal", "text": "I can't."}]


async def test_parallel_tool_calls_stream_their_arguments(provider: OpenAIServer):
    """Interleaved pieces find their call; at the end each has its parsed arguments."""
    provider.reply(
        Events(
            chunks=[
                *text_chunks("Looking"),
                call_chunk(0, "", call_id="call_a", name="search"),
                call_chunk(0, '{"q": '),
                call_chunk(1, "", call_id="call_b", name="now"),
                call_chunk(0, '"ж"}'),
                chunk(finish="tool_calls"),
            ]
        )
    )
    result = await asked(provider)
    text, search, now = result.content
    assert text == {"type": "text", "text": "Looking"}
    assert (search["call_id"], search["name"], search["arguments"], search["state"]) == (
        "call_a",
        "search",
        {"q": "ж"},
        "called",
    )
    assert (now["name"], now["arguments"]) == ("now", {})
    assert [p["arguments"] for p in result.payloads("step.delta")] == ['{"q": ', '"ж"}']
    assert result.payloads("custom")[0]["data"]["finish_reason"] == "tool_calls"


async def test_calls_that_all_say_number_0_are_told_apart_by_their_ids(provider: OpenAIServer):
    """Some servers send whole calls without counting them."""
    provider.reply(
        Events(
            chunks=[
                call_chunk(0, '{"a":1}', call_id="call_a", name="f"),
                call_chunk(0, '{"b":2}', call_id="call_b", name="g"),
                chunk(finish="tool_calls"),
            ]
        )
    )
    assert [part["arguments"] for part in (await asked(provider)).content] == [{"a": 1}, {"b": 2}]


async def test_a_call_without_an_id_gets_one(provider: OpenAIServer):
    """A run's tool calls always have an id, so that a result can name them."""
    provider.reply(Events(chunks=[call_chunk(0, "{}", name="f"), chunk(finish="tool_calls")]))
    (part,) = (await asked(provider)).content
    assert part["call_id"].startswith("call_")


@pytest.mark.parametrize("arguments", ['{"q": "cut o', "[1]", '"text"', "nonsense"])
async def test_arguments_that_are_no_object_fail_their_call(provider: OpenAIServer, arguments: str):
    """The text stays as it came, and the call has a result: the history remains valid for a model."""
    provider.reply(
        Events(chunks=[call_chunk(0, arguments, call_id="call_a", name="f"), chunk(finish="tool_calls")])
    )
    (part,) = (await asked(provider)).content
    assert (part["arguments"], part["state"]) == (arguments, "failed")
    assert "not a JSON object" in part["result"]["error"]


async def test_usage_tells_cached_and_reasoning_tokens(provider: OpenAIServer):
    """The details that providers report arrive in the run's totals."""
    chunks = [*text_chunks("x"), chunk(finish="stop"), usage_chunk(100, 30, cached=64, reasoning=20)]
    provider.reply(Events(chunks=chunks))
    result = await asked(provider)
    assert result.fold.usage is not None
    assert {
        "input_tokens": 100,
        "output_tokens": 30,
        "total_tokens": 130,
        "cached_input_tokens": 64,
        "reasoning_tokens": 20,
    }.items() <= result.fold.usage.items()


async def test_running_totals_are_counted_once(provider: OpenAIServer):
    """Some servers send the usage so far with every chunk: the last one counts."""
    counted = [{**chunk({"content": "x"}), "usage": usage_chunk(5, n)["usage"]} for n in (1, 2)]
    provider.reply(Events(chunks=[*counted, chunk(finish="stop")]))
    result = await asked(provider)
    assert result.usage is not None
    assert result.usage.total_tokens == 7


async def test_an_answer_without_usage_or_done_is_complete(provider: OpenAIServer):
    """Servers that know neither are served all the same: the finish reason is what counts."""
    provider.reply(Events(chunks=[*text_chunks("x"), chunk(finish="stop")], end="bare"))
    result = await asked(provider)
    assert (result.text, result.usage) == ("x", None)


# -- failing


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (
            Refusal(status=400, body={"error": {"message": "bad tools", "code": None}}),
            "answered 400: bad tools",
        ),
        (Refusal(status=404, body={"error": "model not found"}), "answered 404: model not found"),
        (Refusal(status=422, body={"detail": "no such field"}), "answered 422: no such field"),
        (Refusal(status=403, body="<html>\n <b>go away</b></html>"), "answered 403: <html> <b>go away</b>"),
        (Refusal(status=401, body=""), "answered 401: Unauthorized"),
        (
            Refusal(status=429, body={"error": {"message": "pay first", "code": "insufficient_quota"}}),
            "answered 429: pay first",
        ),
        (
            Refusal(status=429, body={"error": {"message": "later"}}, headers={"retry-after": "3600"}),
            "answered 429: later",
        ),
        (
            Refusal(status=500, body={"error": {"message": "never"}}, headers={"x-should-retry": "false"}),
            "answered 500: never",
        ),
    ],
)
async def test_what_asking_again_cannot_mend_fails_at_once(provider: OpenAIServer, reply: Refusal, said: str):
    """One request, and the provider's own words with the status."""
    provider.reply(reply)
    with pytest.raises(errors.ProviderError) as failure:
        await asked(provider)
    assert said in str(failure.value)
    assert len(provider.requests) == 1


async def test_the_key_is_never_shown(provider: OpenAIServer):
    """Neither the whole key nor what looks like one, not even when the provider echoes it."""
    said = f"Incorrect API key provided: {KEY}. Also sk-proj-ab****wxyz."
    provider.reply(Refusal(status=401, body={"error": {"message": said}}))
    with pytest.raises(errors.ProviderError) as failure:
        await asked(provider)
    assert "Incorrect API key provided: [key]. Also [key]" in str(failure.value)
    assert failure.value.__suppress_context__


@pytest.mark.parametrize(
    "reply",
    [
        Refusal(status=500, body={"error": {"message": "oops"}}, headers=NOW),
        Refusal(status=503, body="busy", headers={"retry-after-ms": "1"}),
        Refusal(status=429, body={"error": {"message": "slow down"}}, headers=NOW),
        Refusal(status=408, body="", headers=NOW),
        Refusal(
            status=503, body="", headers={"retry-after": formatdate(time.time() - 5, usegmt=True)}
        ),  # a date
    ],
)
async def test_transient_refusals_are_asked_again(provider: OpenAIServer, reply: Refusal):
    """As long as nothing was emitted the run does not notice; the same request goes out again."""
    provider.reply(reply, reply, answer("at last"))
    result = await asked(provider)
    assert result.text == "at last"
    assert len(provider.requests) == 3
    assert provider.requests[0].body == provider.requests[2].body


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries that no header paces come at once."""
    monkeypatch.setattr(transport, "FIRST_DELAY_S", 0.001)


@pytest.mark.parametrize(
    "broken",
    [
        Events(chunks=[], end="clean"),
        Events(chunks=[chunk({"role": "assistant", "content": ""})], end="bare"),
        Events(chunks=[chunk({"role": "assistant"})], end="cut"),
        Events(chunks=["{not json"]),
        Events(chunks=['{"error": {"message": "overloaded", "type": "server_error"}}']),
        Events(chunks=['"a string"']),
        Events(chunks=["upstream timeout"], end="bare"),
        Events(chunks=[chunk(finish="error")]),
        Events(chunks=[chunk({"content": " "}), chunk(finish="stop")]),
    ],
    ids=["nothing", "no end", "cut", "no json", "error event", "no chunk", "words", "finish error", "blank"],
)
async def test_streams_that_break_before_they_say_anything_are_asked_again(
    provider: OpenAIServer, broken: Events, hurried: None
):
    """An empty, cut or senseless stream is a failed attempt, no answer."""
    provider.reply(broken, answer("at last"))
    result = await asked(provider)
    assert result.text == "at last"
    assert len(provider.requests) == 2


async def test_retries_come_to_an_end(provider: OpenAIServer):
    """After four attempts the last refusal is what the run failed with."""
    provider.reply(
        *[Refusal(status=500, body={"error": {"message": f"no {n}"}}, headers=NOW) for n in range(9)]
    )
    with pytest.raises(errors.ProviderError, match="answered 500: no 3"):
        await asked(provider)
    assert len(provider.requests) == 4


async def test_the_wait_that_the_provider_asks_for_is_kept(provider: OpenAIServer):
    """Retry-After is honoured: the next request comes not before."""
    provider.reply(Refusal(status=429, body="", headers={"retry-after": "0.3"}), answer("x"))
    begun = time.monotonic()
    await asked(provider)
    assert time.monotonic() - begun >= 0.3


def test_waits_without_a_word_from_the_provider_grow_and_stay_bounded():
    """Half a second at first, then twice as long each time, at most eight seconds."""
    nothing = errors.ProviderError("x")
    for attempt, longest in ((1, 0.5), (2, 1), (3, 2), (20, 8)):
        waits = [transport.delay_s(attempt, nothing) for _ in range(50)]
        assert all(longest / 2 <= wait <= longest for wait in waits)


@pytest.mark.parametrize(
    ("last", "end", "said"),
    [
        (None, "bare", "broke off"),
        (None, "cut", "connection to the provider failed"),
        ('{"error": {"message": "overloaded", "type": "server_error"}}', "clean", "failed: overloaded"),
        ("{not json", "clean", "no chat completion"),
    ],
)
async def test_after_the_first_word_a_failure_is_final(
    provider: OpenAIServer, last: str | None, end: str, said: str
):
    """What was said stays, the usage that was told too, and no second request could say it again."""
    begun: list[Any] = [*text_chunks("par", "tial"), usage_chunk(9, 2)]
    provider.reply(Events(chunks=[*begun, *([last] if last else [])], end=end), answer("again"))
    result = await asked(provider, check=False)
    assert isinstance(result.error, errors.ProviderError)
    assert said in str(result.error)
    assert result.text == "partial"
    assert result.usage is not None
    assert result.usage.total_tokens == 11
    assert len(provider.requests) == 1


@pytest.mark.parametrize(
    "first", [chunk({"reasoning": "hm"}), call_chunk(0, "", call_id="c", name="f")], ids=["reasoning", "call"]
)
async def test_reasoning_and_calls_count_as_said(provider: OpenAIServer, first: dict[str, Any]):
    """A retry would repeat them."""
    provider.reply(Events(chunks=[first], end="cut"), answer("again"))
    result = await asked(provider, check=False)
    assert isinstance(result.error, errors.ProviderError)
    assert len(provider.requests) == 1


async def test_silence_in_mid_answer_fails_the_run(provider: OpenAIServer):
    """The partial text stays, the error says how long the provider was silent, and the connection is closed."""
    silent = Events(chunks=text_chunks("par"), end="silent")
    provider.reply(silent)
    result = await asked(provider, {**ASK, "timeout_s": 0.2}, check=False)
    assert isinstance(result.error, errors.ProviderError)
    assert str(result.error) == "The provider was silent for 0.2 s."
    assert result.text == "par"
    await wait_until_async(silent.left.is_set, description="the provider to see the end")


async def test_silence_before_the_first_word_is_asked_again(provider: OpenAIServer, hurried: None):
    """A hung attempt is given up and made again."""
    provider.reply(Events(chunks=[], end="silent"), answer("x"))
    assert (await asked(provider, {**ASK, "timeout_s": 0.2})).text == "x"


async def test_a_provider_that_is_not_there(hurried: None):
    """Nobody listens: the error says so after all attempts."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(errors.ProviderError, match="connection to the provider failed"):
            await run_engine("openai", ASK, settings=settings(url))


async def test_stopping_a_run_closes_its_connection(provider: OpenAIServer):
    """Cancelled in mid-stream: the provider sees the connection go, so it stops generating; nothing more is said."""
    silent = Events(chunks=text_chunks("par"), end="silent")
    provider.reply(silent)
    channel = MemoryChannel()
    running = asyncio.create_task(asked(provider, channel=channel))
    await wait_until_async(lambda: channel.fold.text == "par", description="the first words")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await wait_until_async(silent.left.is_set, description="the provider to see the end")
    assert channel.fold.text == "par"


async def test_what_the_run_itself_raises_is_no_provider_error(provider: OpenAIServer):
    """A closed log (or any error of emitting) passes through as it is, without a second request."""
    provider.reply(answer("x"), answer("x"))
    channel = MemoryChannel()
    channel.closed = True
    with pytest.raises(errors.ChannelClosed):
        await asked(provider, channel=channel)
    assert len(provider.requests) == 1


# -- configuration


async def test_a_deployment_without_a_provider_says_what_to_set():
    """Neither key nor endpoint: no request goes to anybody."""
    with pytest.raises(errors.ProviderError, match="MAINSTEM_OPENAI_API_KEY or MAINSTEM_OPENAI_BASE_URL"):
        await run_engine("openai", ASK, settings=settings("x", openai_base_url=None, openai_api_key=None))


async def test_a_run_without_a_model_says_what_to_set(provider: OpenAIServer):
    """No model in the input, none in the deployment."""
    with pytest.raises(errors.InvalidInput, match="MAINSTEM_OPENAI_MODEL"):
        await run_engine("openai", ASK, settings=settings(provider.url, openai_model=None))


async def test_a_local_server_needs_no_key(provider: OpenAIServer, monkeypatch: pytest.MonkeyPatch):
    """An endpoint alone is enough, and the SDK's own variables give nobody's key away."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-somebody-elses")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/wrong")
    provider.reply(answer("x"))
    await run_engine("openai", ASK, settings=settings(provider.url, openai_api_key=None))
    assert "somebody" not in provider.requests[0].headers.get("authorization", "")


def clients_in_use() -> list[list[Any]]:
    return [list(c.values()) for c in transport._clients.values() if c]


async def test_runs_share_one_client(provider: OpenAIServer):
    """Connections are reused between runs of a loop, and closing forgets them."""
    provider.reply(answer("a"), answer("b"))
    await asked(provider)
    (clients,) = clients_in_use()
    await asked(provider)
    assert clients_in_use() == [clients]
    await registry.aclose()
    assert clients[0].is_closed()


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"messages": []},
        {"messages": [{"content": "no role"}]},
        {"messages": "hello"},
        {**ASK, "temprature": 1},
        {**ASK, "extra_body": {"stream": False}},
        {**ASK, "extra_body": {"model": "x"}},
        {**ASK, "timeout_s": 0},
    ],
)
def test_malformed_requests_are_refused_before_the_provider_sees_them(wrong: dict[str, Any]):
    """Typos, missing messages, and what would break the stream."""
    with pytest.raises(errors.InvalidInput):
        registry.get("openai").parse(wrong)


# -- a second opinion on the wire format


@pytest.fixture(scope="module")
def fakellm_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """fakellm, in a process of its own, on a socket that we bound."""
    config = tmp_path_factory.mktemp("fakellm") / "fakellm.yaml"
    config.write_text(FAKELLM)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        command = [sys.executable, "-m", "uvicorn", "fakellm.server:app", "--fd", str(listening.fileno())]
        process = subprocess.Popen(
            [*command, "--log-level", "critical"],
            env={**os.environ, "FAKELLM_CONFIG": str(config)},
            pass_fds=[listening.fileno()],
            cwd=Path(config).parent,
        )
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        finally:
            process.terminate()
            process.wait(timeout=10)


FAKELLM = """
version: 1
rules:
  - name: tool
    when: {messages_contain: weather}
    respond:
      tool_calls: [{name: weather, arguments: {city: Oslo, days: [1, 2]}}]
  - name: text
    when: {messages_contain: hello}
    respond: {content: "Hi there, in  several words."}
"""


async def test_text_from_fakellm(fakellm_url: str):
    """A server that is not ours streams into the run just the same."""
    ask = {"messages": [{"role": "user", "content": "hello"}]}
    result = await run_engine("openai", ask, settings=settings(fakellm_url))
    assert result.text == "Hi there, in  several words."
    assert len(result.payloads("message.delta")) > 1


async def test_a_tool_call_from_fakellm(fakellm_url: str):
    """Its streamed arguments arrive in pieces and are parsed."""
    ask = {"messages": [{"role": "user", "content": "weather?"}]}
    result = await run_engine("openai", ask, settings=settings(fakellm_url))
    (part,) = result.content
    assert (part["name"], part["arguments"]) == ("weather", {"city": "Oslo", "days": [1, 2]})
    assert len(result.payloads("step.delta")) > 1
