"""`mainstem archive` shows the archive's state, moves runs into it, and exports a user's data.

It speaks to store and archive itself, without a gateway: it belongs inside the trust boundary.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Annotated, Any

import typer

from mainstem_api.cli._options import Json, store_reported
from mainstem_shared import archive as archives
from mainstem_shared import errors
from mainstem_shared.archive import usage_sums
from mainstem_shared.model.principals import DEFAULT_TENANT, Principal
from mainstem_shared.model.time import now_ms
from mainstem_shared.model.usage import decimal_text
from mainstem_shared.operations import archive_upkeep, uploads
from mainstem_shared.operations.archive_upkeep import DAY_MS
from mainstem_shared.operations.performing import Operations
from mainstem_shared.operations.queries import exports
from mainstem_shared.settings import Settings
from mainstem_shared.store import endpoints
from mainstem_shared.store.client import Store
from mainstem_tasks.celery_support.publisher import CeleryPublisher

archive = typer.Typer(help="Look after the archive of finished runs.", no_args_is_help=True)
Tenant = Annotated[str, typer.Option("--tenant", help="Whose runs.")]


@archive.command()
def status(*, as_json: Json = False) -> None:
    """Show what the archive has, and what waits for it in the store."""
    with store_reported():
        found = asyncio.run(_status())
    if as_json:
        print(json.dumps(found))
        return
    print(f"{found['runs']:,} runs in {found['database']}; {found['waiting']:,} wait in the store", end="")
    print(f", the oldest since {found['oldest_s']:,.0f} s." if found["waiting"] else ".")
    if found["deleting"]:
        print(f"{found['deleting']:,} runs are being deleted.")


async def _status() -> dict[str, Any]:
    async with _operations() as operations:
        assert operations.store.archive is not None
        return asdict(await archive_upkeep.status(operations, operations.store.archive))


@archive.command()
def backfill(*, as_json: Json = False) -> None:
    """Move all finished runs that the store has, also those from before there was an archive."""
    with store_reported():
        moved = asyncio.run(_backfill())
    print(json.dumps({"moved": moved}) if as_json else f"{moved:,} runs moved.")


async def _backfill() -> int:
    async with _operations() as operations:
        return sum([moved async for moved in archive_upkeep.backfill(operations)])


@archive.command()
def usage(
    *,
    days: Annotated[int, typer.Option("--days", "-d", min=1, max=3660, help="The last so many days.")] = 31,
    user: Annotated[str | None, typer.Option("--user", "-u", help="Only this user's runs.")] = None,
    tenant: Tenant = DEFAULT_TENANT,
    as_json: Json = False,
) -> None:
    """Add up what archived runs used, by day (UTC) of their end, user and model."""
    with store_reported():
        found = asyncio.run(_usage(tenant, user, days))
    for one in found:
        if as_json:
            _print({**asdict(one), "cost_usd": decimal_text(one.cost_usd)})
            continue
        known = f"{one.tokens['total_tokens']:,} tokens  {decimal_text(one.cost_usd)} USD"
        unknown = f"  ({one.unpriced:,} without a price)" if one.unpriced else ""
        print(f"{one.day}  {one.user_id}  {one.provider}/{one.model}  {one.runs:,} runs  {known}{unknown}")


async def _usage(tenant: str, user: str | None, days: int) -> list[usage_sums.Sum]:
    async with _operations() as operations:
        assert operations.store.archive is not None
        until = (now_ms() // DAY_MS + 1) * DAY_MS
        return await usage_sums.by_day(
            operations.store.archive,
            tenant=tenant,
            user_id=user,
            since_ms=until - days * DAY_MS,
            until_ms=until,
        )


@archive.command()
def export(
    *,
    user: Annotated[str, typer.Option("--user", "-u", help="Whose data.")],
    tenant: Tenant = DEFAULT_TENANT,
    files: Annotated[bool, typer.Option("--files", help="With their files, in base64.")] = False,
) -> None:
    """Print what is kept of a user, as JSON lines: threads, then runs with their inputs."""
    with store_reported():
        asyncio.run(_export(tenant, user, with_files=files))


async def _export(tenant: str, user: str, *, with_files: bool) -> None:
    async with _operations(needs_archive=False) as operations:
        async for line in exports.of_user(operations.store, tenant=tenant, user_id=user):
            _print(line)
            if with_files and line["type"] == "run":
                await _print_files(operations, line["run"]["run_id"])
            if with_files and line["type"] == "upload":
                await _print_upload(operations, line["id"], Principal(user_id=user, tenant=tenant))


async def _print_files(operations: Operations, run_id: str) -> None:
    for digest in await operations.files.digests(run_id):
        data = await operations.files.get(run_id, digest)
        _print({"type": "file", "run_id": run_id, "digest": digest, "data": base64.b64encode(data).decode()})


async def _print_upload(operations: Operations, upload_id: str, user: Principal) -> None:
    with contextlib.suppress(errors.NotFound):  # it expired this very moment
        data = await uploads.content(operations, await uploads.find(operations, upload_id, user), user)
        _print({"type": "file", "upload_id": upload_id, "data": base64.b64encode(data).decode()})


def _print(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")


@asynccontextmanager
async def _operations(*, needs_archive: bool = True) -> AsyncGenerator[Operations]:
    settings = Settings()
    connected = archives.connect(settings)
    if connected is None and needs_archive:
        raise errors.Misconfigured("There is no archive: set MAINSTEM_ARCHIVE_URL.")
    store = Store(endpoints.store_url(settings), archive=connected)
    publisher = CeleryPublisher(
        endpoints.broker_url(settings), queue=settings.queue, engine_queues=settings.engine_queues
    )
    try:
        yield Operations(store=store, settings=settings, publisher=publisher)
    finally:
        await publisher.aclose()
        await store.close()
