"""Files beside runs: photos do not end a conversation, large results do not fail a run, and whose they are."""

from __future__ import annotations

import base64
import os
import secrets
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from mainstem_api import AsyncRuns
from mainstem_shared import errors
from mainstem_shared.blobs import drivers
from mainstem_shared.blobs.drivers import Folder
from mainstem_shared.model import blob_references, ids
from mainstem_shared.operations.blob_collection import BlobCollector
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from mainstem_tasks import engine
from mainstem_tasks.execution import segments
from mainstem_tasks.sdk.context import RunContext
from support.processes.gateways import GatewayThread, check_problem
from support.processes.in_process_worker import working

PHOTO = secrets.token_bytes(1_500_000)
URL = "data:image/jpeg;base64," + base64.b64encode(PHOTO).decode()
got: list[Any] = []


@engine("files_beside")
async def files_beside(run: RunContext[Any]) -> None:
    """Note the input and the history; answer with a large result, and with a file."""
    got.append((run.input, await run.history()))
    await run.tool_call("c", "f", {})
    await run.tool_result("c", {"rows": "é" * 300_000})
    await run.file(b"hello", "text/plain", name="a.txt")


@pytest.fixture
def settings(store_url: str, broker_url: str, tmp_path: Path) -> Settings:
    """Files of this test's own."""
    return Settings(redis_url=store_url, broker_url=broker_url, sweep_s=3600, blob_url=f"file://{tmp_path}")


@pytest.fixture
def gateway(store_url: str, broker_url: str, tmp_path: Path) -> Any:
    """A gateway that shares them."""
    with GatewayThread(store_url, broker_url, blob_url=f"file://{tmp_path}") as running:
        yield running


def photos() -> dict[str, Any]:
    image = {"type": "image_url", "image_url": {"url": URL}}
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "see"}, image, image]}]}


def sizes(folder: Path) -> list[int]:
    return [path.stat().st_size for path in folder.rglob("*") if path.is_file()]


async def test_photos_do_not_end_a_conversation(
    http: httpx.AsyncClient, runs: AsyncRuns, settings: Settings
) -> None:
    """Two of 1.5 MB each, twice: the record holds references, engines get the bytes, readers the file."""
    async with working(settings) as here:
        for _ in range(2):
            body = {"engine": "files_beside", "input": photos()}
            response = await http.post("/v1/threads/t/runs", json=body)
            assert response.status_code == 202, response.text
            await segments.execute(here, response.json()["run_id"], task_id="t")
    (_, _), (given, history) = got[-2:]
    assert given == photos()
    assert history[0] == photos()["messages"][0]
    page = (await http.get("/v1/threads/t/messages")).json()["messages"]
    assert [message["status"] for message in page if message["role"] == "assistant"] == ["succeeded"] * 2
    file = page[2]["parts"][1]
    assert (file["type"], file["media_type"], file["size"]) == ("file", "image/jpeg", len(PHOTO))
    answer = await http.get(file["url"])
    assert answer.content == PHOTO
    assert answer.headers["x-content-type-options"] == "nosniff"
    call, text = page[3]["parts"]
    assert len((await http.get(call["result"]["file"]["url"])).content) > 300_000
    assert (await http.get(text["url"])).content == b"hello"
    stored = (await http.get(f"/v1/runs/{page[3]['run_id']}/input")).text
    assert len(stored) < 2000


async def test_files_go_with_their_run(
    http: httpx.AsyncClient, runs: AsyncRuns, settings: Settings, tmp_path: Path
) -> None:
    """A deleted thread leaves no byte."""
    started = await runs.start("t", "files_beside", photos())
    assert sizes(tmp_path) == [len(PHOTO)]
    await runs.delete_thread("t")
    assert sizes(tmp_path) == []
    with pytest.raises(errors.NotFound):
        await runs.input(started.run_id)


async def test_a_reference_is_worth_nothing_in_another_run(
    http: httpx.AsyncClient, runs: AsyncRuns, settings: Settings
) -> None:
    """Who sends somebody else's reference gets the text back that was sent, and no file."""
    theirs = await runs.start("theirs", "files_beside", photos(), user_id="somebody")
    stored = await runs.input(theirs.run_id)
    reference = stored["messages"][0]["content"][1]["image_url"]["url"]
    blob = blob_references.parse(reference)
    assert blob is not None
    async with working(settings) as here:
        mine = await runs.start("mine", "files_beside", {"text": reference})
        await segments.execute(here, mine.run_id, task_id="t")
    assert got[-1][0] == {"text": reference}
    for run_id in (theirs.run_id, mine.run_id):
        check_problem(await http.get(f"/v1/runs/{run_id}/blobs/{blob.digest}"), 404, "not_found")
    for hostile in ("x", "%2e%2e%2fx", "a" * 63, "A" * 64):
        answer = await http.get(f"/v1/runs/{mine.run_id}/blobs/{hostile}")
        assert answer.status_code == 404


async def test_a_file_in_what_nests_too_deeply_is_refused(runs: AsyncRuns) -> None:
    nested: Any = URL
    for _ in range(5000):
        nested = {"x": nested}
    with pytest.raises(errors.InvalidRequest):
        await runs.start("t", "files_beside", nested)


async def test_a_file_over_the_limit_is_refused_by_name(runs: AsyncRuns, settings: Settings) -> None:
    small = settings.model_copy(update={"blob_max_mb": 1})
    async with AsyncRuns(small) as client:
        with pytest.raises(errors.InputTooLarge, match="MAINSTEM_BLOB_MAX_MB"):
            await client.start("t", "files_beside", photos())


async def test_blobs_of_runs_that_are_gone_are_collected_and_no_others(
    runs: AsyncRuns, settings: Settings, store: Store, tmp_path: Path
) -> None:
    """Those of a run that just starts have no record yet: they are too young."""
    kept, gone = (
        (await runs.start("a", "files_beside", photos())),
        await runs.start("b", "files_beside", photos()),
    )
    await store.command("DEL", keys.run(gone.run_id).record)
    collector = BlobCollector(store, settings)
    assert await collector.collect() == 0
    for folder in (folder_of(tmp_path, kept.run_id), folder_of(tmp_path, gone.run_id)):
        os.utime(folder, (0, 0))
    assert await collector.collect() == 1
    assert folder_of(tmp_path, kept.run_id).exists()
    assert not folder_of(tmp_path, gone.run_id).exists()


def folder_of(root: Path, run_id: str) -> Path:
    return root.joinpath(*run_id.split("_"))


@pytest.mark.parametrize("step_h", [2, -2])
def test_a_folder_is_as_old_as_its_file_system_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step_h: int
) -> None:
    """A machine whose clock is hours off takes no fresh file for an old one, and no old one for fresh."""
    folder = drivers.Folder(tmp_path / "blobs")
    assert list(folder.older_than(1)) == []
    fresh, old = (ids.run_id("default", "t", ids.uuid7()) for _ in range(2))
    for run_id in (fresh, old):
        folder.put(run_id, "digest", b"data")
    tag, _, unique = old.partition("_")
    hour_ago = time.time() - 3600
    os.utime(tmp_path / "blobs" / tag / unique, (hour_ago, hour_ago))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + step_h * 3600)
    assert list(folder.older_than(1800)) == [old]


def test_a_folder_keeps_whole_files_and_tells_damaged_ones(tmp_path: Path) -> None:
    """Written twice is written once; what does not match its digest is not there."""
    folder, run_id = Folder(tmp_path), ids.run_id("d", "t", ids.uuid7())
    blob = blob_references.named(run_id, b"x", "text/plain")
    for _ in range(2):
        folder.put(run_id, blob.digest, b"x")
    assert folder.get(run_id, blob.digest) == b"x"
    assert list(folder.older_than(-10)) == [run_id]
    assert list(folder.older_than(3600)) == []
    next(path for path in tmp_path.rglob("*") if path.is_file()).write_bytes(b"y")
    with pytest.raises(errors.NotFound):
        folder.get(run_id, blob.digest)
    folder.drop(run_id)
    folder.drop(run_id)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["s4://x", "file://host/x", "file:", "x"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(errors.Misconfigured, match="MAINSTEM_BLOB_URL"):
        drivers.of(Settings(blob_url=url))


async def test_a_file_that_was_shown_may_be_sent_back(
    http: httpx.AsyncClient, runs: AsyncRuns, settings: Settings, tmp_path: Path
) -> None:
    """By its address, or as it stands in the input: the new run has its own; of somebody else nothing is had."""
    first = (await runs.start("t", "files_beside", photos())).run_id
    (part, _) = (await http.get("/v1/threads/t/messages")).json()["messages"][0]["parts"][1:]
    stored = (await http.get(f"/v1/runs/{first}/input")).json()["messages"][0]["content"][1]["image_url"][
        "url"
    ]
    for named in (part["url"], stored):
        image = {"type": "image_url", "image_url": {"url": named}}
        again = {"messages": [{"role": "user", "content": [image, {"type": "text", "text": named}]}]}
        body = {"engine": "files_beside", "input": again, "if_active": "enqueue"}
        started = await http.post("/v1/threads/t2/runs", json=body)
        run_id = started.json()["run_id"]
        given = (await http.get(f"/v1/runs/{run_id}/input")).json()["messages"][0]["content"]
        assert given[1]["text"] == named
        blob = blob_references.parse(given[0]["image_url"]["url"])
        assert blob is not None
        assert (blob.run_id, blob.media_type) == (run_id, "image/jpeg")
        stolen = await runs.start("t3", "files_beside", again, user_id="bob", if_active="enqueue")
        theirs = (await runs.input(stolen.run_id))["messages"][0]["content"][0]["image_url"]["url"]
        assert theirs == named
    assert (await http.get(blob.path)).content == PHOTO
