"""What engines see of earlier turns, and what the provider is sent of them, on the wire."""

from __future__ import annotations

import base64
import re
from textwrap import indent
from typing import Any

from pydantic import SecretStr

from mainstem_api import AsyncRuns
from mainstem_shared.model.runs import Run
from mainstem_shared.settings import Settings
from mainstem_tasks import engine
from mainstem_tasks.execution import segments
from mainstem_tasks.execution.runtime import Runtime
from mainstem_tasks.sdk.context import RunContext
from support.fakes.openai_server import OpenAIServer, answer
from support.paths import ROOT
from support.processes.in_process_worker import working

PICTURE = "data:image/png;base64,iVBORw0KGgo="
seen: list[list[dict[str, Any]]] = []


@engine("history_dangling")
async def history_dangling(run: RunContext[Any]) -> None:
    """Call two tools, answer one, note what came before, and fail."""
    seen.append(await run.history())
    await run.tool_call("c1", "f", {"x": 1})
    await run.tool_result("c1", {"y": 2})
    await run.tool_call("c2", "f", {})
    await run.refusal("No.")
    raise RuntimeError("as asked")


async def turn(
    runs: AsyncRuns, here: Runtime, engine_name: str, run_input: dict[str, Any], **how: Any
) -> str:
    run_id = (await runs.start("t", engine_name, run_input, **how)).run_id
    await segments.execute(here, run_id, task_id="t")
    return run_id


def said(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "history": True}


async def test_the_provider_is_sent_the_whole_branch_and_every_call_has_its_result(
    runs: AsyncRuns, settings: Settings, provider: OpenAIServer
) -> None:
    """Files, failed turns, calls that nobody answered: the next request is complete, and valid."""
    settings = settings.model_copy(
        update={"openai_base_url": provider.url, "openai_model": "m", "openai_api_key": SecretStr("k")}
    )
    picture = {"type": "image_url", "image_url": {"url": PICTURE}}
    provider.replies.extend([answer("One."), answer("Two."), answer("Two, again.")])
    async with working(settings) as here:
        content = [{"type": "text", "text": "look"}, picture]
        await turn(
            runs, here, "openai", {"messages": [{"role": "user", "content": content}], "history": True}
        )
        await turn(runs, here, "history_dangling", {"text": "dangle"})
        second = await turn(runs, here, "openai", said("go on"))
        again = {"messages": [{"role": "system", "content": "s"}], "history": True}
        await turn(runs, here, "openai", again, parent=f"{second}.in")
    assert seen.pop() == [{"role": "user", "content": content}, {"role": "assistant", "content": "One."}]
    sent = [request.body["messages"] for request in provider.requests]
    assert sent[0] == [{"role": "user", "content": content}]
    calls = [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}},
        {"id": "c2", "type": "function", "function": {"name": "f", "arguments": "{}"}},
    ]
    unanswered = sent[1][5]["content"]  # as the run's end closed it
    assert "before this tool call was answered" in unanswered
    assert sent[1] == [
        {"role": "user", "content": content},
        {"role": "assistant", "content": "One."},
        {"role": "user", "content": "dangle"},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": '{"y":2}'},
        {"role": "tool", "tool_call_id": "c2", "content": unanswered},
        {"role": "assistant", "content": "No."},
        {"role": "user", "content": "go on"},
    ]
    assert sent[2] == [{"role": "system", "content": "s"}, *sent[1]]


async def test_a_forked_thread_goes_on_with_what_was_copied(
    runs: AsyncRuns, settings: Settings, provider: OpenAIServer
) -> None:
    """Its next request is what the original's would be: files, closed calls, an answer that was cut."""
    settings = settings.model_copy(
        update={"openai_base_url": provider.url, "openai_model": "m", "openai_api_key": SecretStr("k"),
                "blob_min_kb": 0},
    )  # fmt: skip
    provider.replies.extend([answer("One."), answer("Two."), answer("Two, elsewhere.")])
    picture = {"type": "image_url", "image_url": {"url": PICTURE}}
    content = [{"type": "text", "text": "look"}, picture]
    async with working(settings) as here, AsyncRuns(settings) as client:
        looked = {"messages": [{"role": "user", "content": content}], "history": True}
        await turn(client, here, "openai", looked)
        await turn(client, here, "history_dangling", {"text": "dangle"})
        last = await turn(client, here, "openai", said("go on"))
        fork = await client.fork_thread("t", at=f"{last}.in")
        again = (await client.start(
            fork.thread_id, "openai", {"messages": [], "history": True}, parent=fork.message_id
        )).run_id  # fmt: skip
        await client.delete_thread("t")
        await segments.execute(here, again, task_id="t")
    sent = [request.body["messages"] for request in provider.requests]
    assert sent[2] == sent[1]
    assert sent[2][0] == {"role": "user", "content": content}


async def test_an_engine_sees_its_own_branch_only(runs: AsyncRuns, settings: Settings) -> None:
    async with working(settings) as here:
        first = await turn(runs, here, "demo", {"text": "a"})
        await turn(runs, here, "demo", {"text": "b"})
        await turn(runs, here, "history_dangling", {"text": "c"}, parent=first)
    assert [message["content"] for message in seen.pop()] == ["a", "a"]


async def test_the_recipes_of_the_documentation_run_as_they_stand(
    settings: Settings, provider: OpenAIServer
) -> None:
    """What docs/messages.md shows for Python does what it says."""
    text = (ROOT / "docs" / "messages.md").read_text()
    found = re.search(r"<!-- recipes -->\n\n```py\n(.*?)```", text, re.DOTALL)
    assert found is not None
    recipe = (
        f"async def follow(runs, thread, engine, picture):\n{indent(found[1], '    ')}    return locals()\n"
    )
    scope: dict[str, Any] = {}
    exec(recipe, scope)
    settings = settings.model_copy(
        update={"openai_base_url": provider.url, "openai_model": "m", "openai_api_key": SecretStr("k"),
                "blob_min_kb": 0},
    )  # fmt: skip
    provider.replies.extend(answer(f"{number}.") for number in range(4))
    async with working(settings) as here, AsyncRuns(settings) as runs:
        wait = runs.wait

        async def executed(run_id: str, **how: Any) -> Run:
            await segments.execute(here, run_id, task_id="t")
            return await wait(run_id, **how)

        runs.wait = executed  # type: ignore[method-assign]
        made = await scope["follow"](runs, "t", "openai", PICTURE)
    assert made["data"] == base64.b64decode(PICTURE.partition(",")[2])
    assert [m.parts[0]["text"] for m in made["before"].messages if m.role == "assistant"] == ["0.", "2."]
    assert made["before"].messages[-1].siblings == [made["second"].run_id, made["again"].run_id]
    assert [thread.thread_id for thread in made["found"]] == [made["fork"].thread_id]
