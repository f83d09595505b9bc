"""Parts that stay: data, sources, refusals, annotations, output, the reason to stop; in content and adapters."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from mainstem_api.gateway.adapters.ai_sdk.stream import UIMessageStream
from mainstem_shared.model import contents
from mainstem_tasks import engine
from mainstem_tasks.sdk.context import RunContext
from mainstem_tasks.sdk.sync_context import SyncRunContext
from mainstem_tasks.testing import run_engine
from support.models import client_views


class Answer(BaseModel):
    """A structured result."""

    city: str


@engine("parts_shown")
async def parts_shown(run: RunContext[Any]) -> Answer:
    await run.data("d1", "weather", {"degrees": 1})
    await run.text("It is ")
    await run.data("d1", "weather", {"degrees": 2})
    await run.text("warm.")
    await run.annotate({"type": "url_citation", "url": "https://a", "title": "A"})
    await run.source("https://b", title="B")
    await run.custom("gone", 1)
    await run.custom("stays", 1, transient=False)
    await run.finish_reason("length")
    return Answer(city="Bern")


@engine("parts_plain")
def parts_plain(run: SyncRunContext[Any]) -> list[int]:
    run.data("d", "n", None)
    run.source(title="T", media_type="text/plain")
    run.refusal("I will not.")
    run.annotate({"x": 1})
    return [1]


@engine("parts_strange")
async def parts_strange(run: RunContext[Any]) -> object:
    await run.text("x")
    return object()


async def test_parts_that_come_whole_are_replaced_in_their_place() -> None:
    """A second value with the same id changes the first; what stands around it stays, texts are not split."""
    run = await run_engine(parts_shown)
    kinds = [(part["type"], part.get("value") or part.get("text") or part.get("url")) for part in run.content]
    assert kinds == [
        ("data", {"degrees": 2}), ("text", "It is warm."), ("source", "https://b"), ("data", 1),
    ]  # fmt: skip
    assert run.content[1]["annotations"][0]["url"] == "https://a"
    assert (run.output, run.fold.extra["finish_reason"]) == ({"city": "Bern"}, "length")


async def test_plain_engines_have_the_same_and_a_refusal_is_no_text() -> None:
    run = await run_engine(parts_plain)
    assert [part["type"] for part in run.content] == ["data", "source", "refusal"]
    assert (run.text, run.output) == ("", [1])


async def test_what_no_json_can_hold_is_no_output_and_fails_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """It is not dropped silently either."""
    run = await run_engine(parts_strange)
    assert run.output is None
    assert [record.action for record in caplog.records] == ["output_dropped"]  # pyright: ignore[reportAttributeAccessIssue]


async def test_everything_that_stays_survives_a_snapshot() -> None:
    run = await run_engine(parts_shown)
    again = contents.fold([], run.fold.dump())
    assert again.dump() == run.fold.dump()
    assert again.keys == run.fold.keys


async def test_the_ai_sdk_is_told_of_all_of_them() -> None:
    """As its own kinds of parts, whether a client follows from the start or comes at the end."""
    run = await run_engine(parts_shown)
    frames = client_views.log_of(run)
    for heard in (frames, frames[-1:]):
        stream = UIMessageStream(run_id="r", message_id="r")
        said = client_views._events(stream.opening() + stream.take(heard))
        kinds = {event["type"] for event in said}
        assert {"data-weather", "source-url", "data-stays", "data-output"} <= kinds
        assert [e["url"] for e in said if e["type"] == "source-url"] == ["https://a", "https://b"]
        assert [e["finishReason"] for e in said if e["type"] == "finish"] == ["length"]


@pytest.mark.parametrize("client", client_views.CLIENTS)
async def test_no_adapter_loses_the_text_around_them(client: str) -> None:
    view = client_views.CLIENTS[client](client_views.log_of(await run_engine(parts_shown)))
    assert view.text == "It is warm."
