"""What a run that ends in mid-stream says of its cost: the provider's counts as far as it told, else estimates."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import SecretStr

from mainstem_api import AsyncRuns
from mainstem_shared.model.runs import Reason
from mainstem_shared.model.usage import Usage
from mainstem_shared.settings import Settings
from mainstem_tasks.execution import segments
from mainstem_tasks.execution.runtime import Runtime
from support.fakes.openai_server import (
    Events,
    OpenAIServer,
    answer,
    call_chunk,
    chunk,
    text_chunks,
    usage_chunk,
)
from support.processes.in_process_worker import working
from support.waiting import wait_until_async

pytestmark = pytest.mark.usefixtures("closing_clients")
ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "x " * 2000}]}
ASKED = 2004
SAID = 500
WORDS = text_chunks(*["word "] * SAID)


@pytest.fixture
def settings(store_url: str, broker_url: str, provider: OpenAIServer) -> Settings:
    """The empty store, and the scripted provider."""
    return Settings(
        redis_url=store_url,
        broker_url=broker_url,
        sweep_s=3600,
        openai_base_url=provider.url,
        openai_api_key=SecretStr("sk-xxxxxxxxxxxxxxxxxx"),
        openai_model="m",
    )


@pytest.fixture
async def here(settings: Settings) -> AsyncIterator[Runtime]:
    """A worker in this process."""
    async with working(settings) as runtime:
        yield runtime


async def speaking(
    runs: AsyncRuns, here: Runtime, words: int = SAID, ask: dict[str, Any] | None = None
) -> tuple[str, asyncio.Task[str]]:
    """Execute a run up to that many words."""
    run_id = (await runs.start("t", "openai", ask or ASK)).run_id
    task = asyncio.create_task(segments.execute(here, run_id, task_id="t"))

    async def spoke() -> bool:
        return len((await runs.get(run_id)).text.split()) >= words

    await wait_until_async(spoke, description=f"{words} words")
    return run_id, task


async def used(runs: AsyncRuns, run_id: str) -> Usage:
    """What the run and its last event say, which is the same."""
    usage = (await runs.get(run_id)).usage
    last = [event async for event in runs.events(run_id)][-1]
    assert usage is not None
    assert last.data["usage"] == usage.model_dump()
    return usage


def is_estimate(usage: Usage) -> None:
    """What was asked and said, about."""
    assert usage.estimated
    assert usage.input_tokens == pytest.approx(ASKED, rel=0.1)
    assert usage.output_tokens == pytest.approx(SAID, rel=0.1)
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens


@pytest.mark.parametrize("how", ["abort", "idle", "shutdown", "revoked"])
async def test_a_stopped_answer_has_estimated_counts(
    provider: OpenAIServer, runs: AsyncRuns, here: Runtime, how: str
):
    """Aborted, silent for too long, with its worker, or revoked in the pool: what was said until then is counted."""
    provider.reply(Events(chunks=WORDS, end="silent"))
    run_id, task = await speaking(runs, here)
    match how:
        case "abort":
            await runs.abort(run_id, wait=10)
        case "idle":
            here.segments[run_id].stop(segments.StopCause.TIMED_OUT)
        case "shutdown":
            here.segments[run_id].stop(segments.StopCause.SHUTDOWN)
        case _:
            task.cancel()
    await asyncio.wait({task}, timeout=20)
    is_estimate(await used(runs, run_id))


@pytest.mark.parametrize(
    ("last", "end"), [([], "cut"), ([], "bare"), (['{"error": {"message": "overloaded"}}'], "clean")]
)
async def test_an_answer_that_broke_off_has_estimated_counts(
    provider: OpenAIServer, runs: AsyncRuns, here: Runtime, last: list[Any], end: str
):
    """The provider reset the connection, ended without an end, or failed in words."""
    provider.reply(Events(chunks=[*WORDS, *last], end=end))
    run_id, task = await speaking(runs, here)
    assert await task == Reason.PROVIDER_ERROR
    is_estimate(await used(runs, run_id))


async def test_counts_that_came_with_every_chunk_are_exact(
    provider: OpenAIServer, runs: AsyncRuns, here: Runtime
):
    """A server that counts as it streams knows better than any estimate."""
    counted = [
        {**c, "usage": usage_chunk(7, n)["usage"]} for n, c in enumerate(text_chunks("a ", "b ", "c "))
    ]
    provider.reply(Events(chunks=counted, end="silent"))
    run_id, task = await speaking(runs, here, words=3)
    await runs.abort(run_id, wait=10)
    await task
    usage = await used(runs, run_id)
    assert (usage.input_tokens, usage.output_tokens, usage.estimated) == (7, 3, False)


async def test_counts_of_the_beginning_do_not_pass_for_the_whole(
    provider: OpenAIServer, runs: AsyncRuns, here: Runtime
):
    """Some tell at once what they read and that they will say something: what is said later is added."""
    provider.reply(Events(chunks=[usage_chunk(1234, 1, cached=1000), *WORDS], end="silent"))
    run_id, task = await speaking(runs, here)
    await runs.abort(run_id, wait=10)
    await task
    usage = await used(runs, run_id)
    assert (usage.input_tokens, usage.cached_input_tokens, usage.estimated) == (1234, 1000, True)
    assert usage.output_tokens == pytest.approx(SAID, rel=0.1)


async def test_reasoning_and_arguments_are_counted_too(
    provider: OpenAIServer, runs: AsyncRuns, here: Runtime
):
    """They cost as much as text."""
    thought = [chunk({"reasoning_content": "hm "}) for _ in range(300)]
    call = [call_chunk(0, '{"q": "', call_id="c", name="f"), *(call_chunk(0, "far ") for _ in range(200))]
    provider.reply(Events(chunks=[*thought, *call, chunk({"content": "now"})], end="silent"))
    run_id, task = await speaking(runs, here, words=1)
    await runs.abort(run_id, wait=10)
    await task
    assert (await used(runs, run_id)).output_tokens == pytest.approx(505, rel=0.1)


async def test_an_answer_that_was_stopped_before_its_first_word_cost_its_question(
    provider: OpenAIServer, runs: AsyncRuns, here: Runtime
):
    """The provider took the request and thinks: it has read it."""
    silent = Events(chunks=[chunk({"role": "assistant", "content": ""})], end="silent")
    provider.reply(silent)
    run_id, task = await speaking(runs, here, words=0)
    await wait_until_async(lambda: bool(provider.requests), description="the request")
    await asyncio.sleep(0.2)  # nothing tells when the headers are read
    await runs.abort(run_id, wait=10)
    await task
    usage = await used(runs, run_id)
    assert (usage.output_tokens, usage.estimated) == (0, True)
    assert usage.input_tokens == pytest.approx(ASKED, rel=0.1)


async def test_a_request_that_nobody_took_costs_nothing(
    provider: OpenAIServer, runs: AsyncRuns, here: Runtime
):
    """Refused by the provider: there are no counts, not even estimated ones."""
    run_id = (await runs.start("t", "openai", ASK)).run_id
    assert await segments.execute(here, run_id, task_id="t") == Reason.PROVIDER_ERROR
    assert (await runs.get(run_id)).usage is None


async def test_what_was_counted_stays_exact(provider: OpenAIServer, runs: AsyncRuns, here: Runtime):
    """A whole answer's counts are the provider's, and nothing is estimated."""
    provider.reply(answer("a", "b"))
    run_id = (await runs.start("t", "openai", ASK)).run_id
    assert await segments.execute(here, run_id, task_id="t") == Reason.COMPLETED
    usage = await used(runs, run_id)
    assert (usage.input_tokens, usage.output_tokens, usage.estimated) == (3, 2, False)
