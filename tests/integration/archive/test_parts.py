"""Each kind of part, read through each protocol: the same answers from the store and from the archive alone."""

from __future__ import annotations

from typing import Any, Final

import httpx

from mainstem_api import AsyncRuns
from mainstem_shared.model.openai_responses import ResponseId
from mainstem_shared.operations import archive_upkeep
from mainstem_shared.operations.performing import Operations
from mainstem_shared.settings import Settings
from mainstem_shared.store.client import Store
from mainstem_tasks import engine
from mainstem_tasks.execution import segments
from mainstem_tasks.sdk.context import RunContext
from support.processes.in_process_worker import working

CITED, NAMED = "https://cited.example/a", "https://named.example/b"
MARKS: Final = {"THOUGHT", "SAID", "REFUSED", CITED, NAMED, "WARM", "plot.png", "OUTPUT", "length"}
READ: Final[dict[str, set[str]]] = {
    "/v1/runs/{run}": MARKS,
    "/v1/threads/t/messages": MARKS,
    "/v1/ai-sdk/chat/t/messages": MARKS - {"plot.png", "length"},  # its files have no name
    "/v1/ai-sdk/chat/t/stream?messageId={run}": MARKS - {"plot.png"},
    "/v1/ag-ui/threads/t/messages": MARKS - {"length"},
    "/v1/responses/{response}": {"SAID", "REFUSED", CITED, "max_output_tokens"},
    "/v1/conversations/t/items": {"THOUGHT", "SAID", "REFUSED", CITED, "/blobs/"},
    "/v1/chat/completions/chatcmpl-{run}": {"SAID", "REFUSED", CITED, NAMED, "length"},
    "/v1/langgraph/threads/t/state": {"SAID", "REFUSED", CITED, NAMED, "plot.png", "length"},
    "/v1/langgraph/threads/t/runs/{run}/join": {"SAID", "REFUSED", CITED, NAMED, "plot.png", "length"},
    "a2a": MARKS - {CITED, "THOUGHT"},
}
"""What stands in the answer at each address; docs/messages.md has it as a table."""


@engine("archived_parts")
async def archived_parts(run: RunContext[Any]) -> dict[str, str]:
    await run.reasoning("THOUGHT")
    await run.text("SAID")
    await run.annotate({"type": "url_citation", "url": CITED, "title": "A", "start_index": 0, "end_index": 4})
    await run.source(NAMED, title="B")
    await run.data("d", "weather", {"is": "WARM"})
    await run.file(b"bytes", "image/png", name="plot.png")
    await run.refusal("REFUSED")
    await run.finish_reason("length")
    return {"is": "OUTPUT"}


async def read(http: httpx.AsyncClient, path: str, run_id: str) -> str:
    if path == "a2a":
        body = {"jsonrpc": "2.0", "id": 1, "method": "GetTask", "params": {"id": run_id}}
        response = await http.post("/v1/a2a/archived_parts", json=body)
    else:
        response = await http.get(path.format(run=run_id, response=ResponseId(run_id, 0)))
    assert response.status_code == 200, response.text
    return response.text


async def test_every_protocol_tells_the_same_of_an_archived_run(
    archive_http: httpx.AsyncClient, settings: Settings, runs: AsyncRuns, operations: Operations, store: Store
) -> None:
    async with working(settings) as here:
        run_id = (await runs.start("t", "archived_parts", {"text": "go"})).run_id
        await segments.execute(here, run_id, task_id="t")
    before = {path: await read(archive_http, path, run_id) for path in READ}
    missing = {path: {mark for mark in marks if mark not in before[path]} for path, marks in READ.items()}
    assert {path: marks for path, marks in missing.items() if marks} == {}
    (file,) = [part for part in (await runs.get(run_id)).content if part["type"] == "file"]
    _ = [moved async for moved in archive_upkeep.backfill(operations)]
    assert [key async for key in store.client.scan_iter("ms:*:record")] == []
    assert {path: await read(archive_http, path, run_id) for path in READ} == before
    assert (await archive_http.get(file["url"])).content == b"bytes"
