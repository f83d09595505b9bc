"""`/v1/files`: what OpenAI's own client uploads, lists, reads, names in requests and deletes, and whose it is."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from mainstem_api import AsyncRuns
from mainstem_api.gateway.adapters.openai_files.routes import PURPOSES
from mainstem_shared.model import ids
from mainstem_shared.model.principals import Principal
from mainstem_shared.operations import uploads
from mainstem_shared.operations.blob_collection import BlobCollector
from mainstem_shared.operations.queries import exports
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from mainstem_tasks import engine
from mainstem_tasks.execution import segments
from mainstem_tasks.sdk.context import RunContext
from support.fakes.identity_provider import SETTINGS, bearer
from support.processes.gateways import GatewayThread
from support.processes.in_process_worker import working
from support.waiting import wait_until_async

PDF = b"%PDF-1.4 not quite"
AS_DATA = "data:application/pdf;base64," + base64.b64encode(PDF).decode()
got: list[Any] = []


@engine("shown_uploads")
async def shown_uploads(run: RunContext[Any]) -> None:
    """Note what there is to see."""
    got.append(run.input["messages"][-1]["content"])
    await run.text("seen")


@pytest.fixture
def settings(store_url: str, broker_url: str, tmp_path: Path) -> Settings:
    """Files of this test's own."""
    return Settings(redis_url=store_url, broker_url=broker_url, sweep_s=3600, blob_url=f"file://{tmp_path}")


@pytest.fixture
def gateway(store_url: str, broker_url: str, tmp_path: Path) -> Any:
    """A gateway that shares them, and knows its users."""
    with GatewayThread(
        store_url, broker_url, blob_url=f"file://{tmp_path}", blob_max_mb=1, **SETTINGS
    ) as running:
        yield running


def client_of(gateway: GatewayThread, user: str) -> openai.AsyncOpenAI:
    token = bearer(user)["authorization"].removeprefix("Bearer ")
    return openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=token, max_retries=0)


@pytest.fixture
async def ann(gateway: GatewayThread) -> AsyncIterator[openai.AsyncOpenAI]:
    async with client_of(gateway, "ann") as client:
        yield client


@pytest.fixture
async def bob(gateway: GatewayThread) -> AsyncIterator[openai.AsyncOpenAI]:
    async with client_of(gateway, "bob") as client:
        yield client


async def test_a_file_from_upload_to_deletion(ann: openai.AsyncOpenAI) -> None:
    """It is described, listed by page, order and purpose, read, and gone."""
    uploaded = [
        await ann.files.create(file=(f"{purpose}.pdf", PDF), purpose=purpose)  # pyright: ignore[reportArgumentType]
        for purpose in PURPOSES
    ]
    first = uploaded[0]
    assert (first.object, first.bytes, first.filename, first.status) == (
        "file", len(PDF), "user_data.pdf", "processed",
    )  # fmt: skip
    assert first.expires_at is not None
    assert first.expires_at > first.created_at
    assert await ann.files.retrieve(first.id) == first
    assert (await ann.files.content(first.id)).content == PDF
    names = [file.id for file in uploaded]
    assert [file.id async for file in ann.files.list(order="asc", limit=2)] == names
    assert [file.id async for file in ann.files.list()] == names[::-1]
    assert [file.id async for file in ann.files.list(purpose="vision")] == [names[1]]
    assert (await ann.files.delete(first.id)).deleted
    assert [file.id async for file in ann.files.list(order="asc")] == names[1:]
    for gone in (ann.files.retrieve(first.id), ann.files.content(first.id), ann.files.delete(first.id)):
        with pytest.raises(openai.NotFoundError):
            await gone


async def test_what_is_asked_for_at_the_upload(ann: openai.AsyncOpenAI) -> None:
    """A lifetime is kept; a purpose that has no use, and a file over the limit are refused by name."""
    lasting = await ann.files.create(
        file=("a.txt", b"x"), purpose="user_data", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert lasting.expires_at == lasting.created_at + 3600
    refused: list[tuple[dict[str, Any], int, str]] = [
        ({"purpose": "batch"}, 400, "purpose"),
        ({"purpose": "user_data", "expires_after": {"anchor": "created_at", "seconds": 1}}, 400, "seconds"),
        ({"purpose": "user_data", "file": ("a", b"x" * (2**20 + 1))}, 413, "MAINSTEM_BLOB_MAX_MB"),
    ]
    for given, status, named in refused:
        with pytest.raises(openai.APIStatusError, match=named) as refusal:
            await ann.files.create(**{"file": ("a.txt", b"x"), **given})
        assert refusal.value.status_code == status


async def test_files_are_their_users(ann: openai.AsyncOpenAI, bob: openai.AsyncOpenAI) -> None:
    """Nobody else lists, describes, reads, deletes or uses one."""
    file = await ann.files.create(file=("a.pdf", PDF), purpose="user_data")
    assert [one.id async for one in bob.files.list()] == []
    for asked in (bob.files.retrieve(file.id), bob.files.content(file.id), bob.files.delete(file.id)):
        with pytest.raises(openai.NotFoundError):
            await asked
    shown = {"role": "user", "content": [{"type": "input_file", "file_id": file.id}]}
    with pytest.raises(openai.BadRequestError, match=file.id):
        await bob.responses.create(model="shown_uploads", input=[shown], background=True)  # pyright: ignore[reportArgumentType]
    assert (await ann.files.content(file.id)).content == PDF


async def test_what_requests_name_is_shown_to_the_engine(ann: openai.AsyncOpenAI, settings: Settings) -> None:
    """In every place where the protocols have an id; the run's copy outlives the file."""
    file = await ann.files.create(file=("report.pdf", PDF), purpose="user_data")
    photo = await ann.files.create(file=("a.png", b"\x89PNG", "image/png"), purpose="vision")
    name = {"filename": "report.pdf"}
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}}
    pdf = {"type": "file", "file": {**name, "file_data": AS_DATA}}
    async with working(settings) as here:

        async def seen(run_id: str) -> Any:
            await segments.execute(here, run_id, task_id="t")
            return got[-1]

        parts = [{"type": "input_file", "file_id": file.id}, {"type": "input_image", "file_id": photo.id}]
        given: Any = [{"role": "user", "content": parts}]
        response = await ann.responses.create(model="shown_uploads", input=given, background=True)
        await ann.files.delete(photo.id)
        assert await seen(response.id.removeprefix("resp_")) == [pdf, image]
        shown: Any = [{"role": "user", "content": [{"type": "file", "file": {"file_id": file.id}}]}]
        asking = asyncio.create_task(ann.chat.completions.create(model="shown_uploads", messages=shown))
        run_id = await _queued(ann)
        assert await seen(run_id) == [pdf]
        assert (await asking).choices[0].message.content == "seen"
    for missing in (photo.id, "file-of-somebody-else"):
        absent: Any = [{"role": "user", "content": [{"type": "input_file", "file_id": missing}]}]
        with pytest.raises(openai.BadRequestError, match=missing):
            await ann.responses.create(model="shown_uploads", input=absent)


async def _queued(client: openai.AsyncOpenAI) -> str:
    """Return the run that waits for a worker, once there is one."""

    async def listed() -> list[Any]:
        found: Any = await client.get("/runs?status=queued", cast_to=object)
        return found["runs"]

    (run,) = await wait_until_async(listed, description="a run")
    return run["run_id"]


async def test_bytes_of_uploads_are_collected_once_they_expired(
    ann: openai.AsyncOpenAI, store: Store, settings: Settings, tmp_path: Path
) -> None:
    """Not before, though no run has them; and one that expired is not listed any more."""
    kept, gone = [await ann.files.create(file=("a.pdf", PDF), purpose="user_data") for _ in range(2)]
    tag = ids.uploads_tag("default", "ann")
    await store.command("DEL", keys.upload(f"{tag}_{gone.id.removeprefix('file-')}").record)
    for file in (kept, gone):
        os.utime(tmp_path / tag / file.id.removeprefix("file-"), (0, 0))
    collector = BlobCollector(store, settings)
    assert await collector.collect() == 1
    assert (await ann.files.content(kept.id)).content == PDF
    assert [file.id async for file in ann.files.list()] == [kept.id]
    with pytest.raises(openai.NotFoundError):
        await ann.files.content(gone.id)


async def test_a_user_has_so_many_files_and_no_more(
    ann: openai.AsyncOpenAI, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is named; places of files that expired are free again."""
    monkeypatch.setattr(uploads, "MOST", 2)
    first, _ = [await ann.files.create(file=("a.txt", b"x"), purpose="user_data") for _ in range(2)]
    with pytest.raises(openai.BadRequestError, match="limit"):
        await ann.files.create(file=("a.txt", b"x"), purpose="user_data")
    tag = ids.uploads_tag("default", "ann")
    record, listed = keys.upload(f"{tag}_{first.id.removeprefix('file-')}")
    await store.command("DEL", record)
    await store.command("ZADD", listed, 1, first.id)  # long ago
    await ann.files.create(file=("a.txt", b"x"), purpose="user_data")


async def test_a_users_uploads_go_with_the_user(
    ann: openai.AsyncOpenAI, bob: openai.AsyncOpenAI, settings: Settings, store: Store
) -> None:
    """They are among the user's data that is exported, and deleted; nobody else's."""
    file, other = [await one.files.create(file=("a.pdf", PDF), purpose="user_data") for one in (ann, bob)]
    exported = [line async for line in exports.of_user(store, tenant="default", user_id="ann")]
    (upload,) = [line for line in exported if line["type"] == "upload"]
    assert (upload["id"], upload["name"], upload["size"]) == (file.id, "a.pdf", len(PDF))
    async with AsyncRuns(settings) as client:
        await client.delete_user("ann")
    with pytest.raises(openai.NotFoundError):
        await ann.files.content(file.id)
    assert [one.id async for one in ann.files.list()] == []
    assert (await bob.files.content(other.id)).content == PDF


def test_no_thread_has_the_tag_of_uploads() -> None:
    """So no run has the id under which an upload's bytes lie."""
    user = Principal(user_id="ann")
    assert ids.uploads_tag(user.tenant, user.user_id) not in (
        ids.user_tag(user.tenant, user.user_id),
        ids.thread_tag(user.tenant, "uploads"),
    )
