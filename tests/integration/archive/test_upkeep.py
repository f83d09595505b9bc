"""What operators do with the archive: look at it, fill it, export from it; and what it deletes by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from integration.gateway.test_usage import spend
from mainstem_api import AsyncRuns
from mainstem_api.stack._stack import Stack
from mainstem_shared import archive, errors, transitions
from mainstem_shared.archive.database import Archive
from mainstem_shared.archive.selections import DeletedRun
from mainstem_shared.blobs import drivers
from mainstem_shared.blobs.files import Files
from mainstem_shared.model.record import Record
from mainstem_shared.model.time import now_ms
from mainstem_shared.operations import archive_upkeep, deleting
from mainstem_shared.operations.archive_upkeep import DAY_MS, Retention, status
from mainstem_shared.operations.performing import Operations
from mainstem_shared.operations.sweeping import Sweeper
from mainstem_shared.settings import Settings
from mainstem_shared.store import keys
from mainstem_shared.store.client import Store
from support.models.finishing import Finishing
from support.processes.gateways import GatewayThread, check_problem


def command(settings: Settings, *arguments: str) -> list[dict[str, Any]]:
    """What `mainstem archive …` prints."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("mainstem")), "archive", *arguments],
        env={**os.environ, **settings.environment()},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


async def undelivered(store: Store, run_id: str) -> None:
    """Have a webhook told of a run's end, which nobody does."""
    record = await transitions.find_fields(store, run_id, Record.spec)
    assert not isinstance(record, transitions.Gone)
    due = {"event": b'{"type":"run.ended","at":1}', "targets": ["https://shop.example"]}
    spec = record.spec.model_dump_json().encode()
    assert await transitions.redeliver(store, run_id, epoch=1, spec=spec, **due) == 1  # type: ignore[arg-type]


async def test_status_backfill_and_export(
    store: Store,
    settings: Settings,
    finished: Finishing,
    operations: Operations,
    runs: AsyncRuns,
    kept: Archive,
) -> None:
    """Runs that no list of work has are moved, once; what is kept of a user is printed, of nobody else."""
    mine = [await finished(thread_id=f"t{number}", user_id="ann") for number in range(3)]
    other = await finished(user_id="bob")
    await operations.files.put(mine[0], b"a file", "text/plain")
    await runs.describe_thread("t0", {"title": "Hallo"})
    await spend(store, settings, user="ann", tenant="default", cost="0.5")
    (before,) = command(settings, "status", "--json")
    assert (before["runs"], before["waiting"], before["database"]) == (0, 4, "sqlite")
    for run_id in (*mine, other):  # as before there was an archive
        await store.client.zrem(keys.run(run_id).compact, run_id)
    assert command(settings, "backfill", "--json") == [{"moved": 4}]
    assert command(settings, "backfill", "--json") == [{"moved": 0}]
    assert await kept.known([*mine, other]) == {*mine, other}
    lines = command(settings, "export", "--user", "ann", "--files")
    assert [line["thread_id"] for line in lines if line["type"] == "thread"] == ["t2", "t1", "t0"]
    assert [line["title"] for line in lines if line.get("thread_id") == "t0"] == ["Hallo"]
    exported = [line for line in lines if line["type"] == "run"]
    assert [line["run"]["run_id"] for line in exported] == mine[::-1]
    assert {line["run"]["text"] for line in exported} == {"w0 w1 w2"}
    assert [line["parent"] for line in exported] == [None, None, None]
    assert [line["run_id"] for line in lines if line["type"] == "file"] == [mine[0]]
    assert [(line["calls"], line["cost_usd"]) for line in lines if line["type"] == "usage"] == [(1, "0.5")]
    (day,) = [line for line in command(settings, "export", "--user", "ann") if line["type"] == "usage"]
    assert day["models"] == [{"model": "p/m", "calls": 1, "tokens": 15, "cost_usd": "0.5"}]
    await undelivered(store, exported[0]["run"]["run_id"])
    lines = command(settings, "export", "--user", "ann")
    (callback,) = [line for line in lines if line["type"] == "callback"]
    assert (callback["run_id"], callback["target"]) == (exported[0]["run"]["run_id"], "https://shop.example")


async def test_callbacks_of_archived_runs_are_told_again_on_ones_own_machine(
    archive_http: httpx.AsyncClient, store: Store, finished: Finishing, sweeper: Sweeper
) -> None:
    """Without authentication whoever is alone on the gateway operates it: as the documentation has them type it."""
    run_id = await finished(user_id="ann")
    await sweeper.sweep()
    path = f"/v1/runs/{run_id}/callbacks/resend"
    check_problem(await archive_http.post(path), 409, "conflict")  # it is there, and nobody is to be told
    await undelivered(store, run_id)
    (listed,) = (await archive_http.get("/v1/callbacks")).json()["callbacks"]
    assert (listed["run_id"], listed["user_id"]) == (run_id, "ann")
    assert (await archive_http.post(path)).json() == {"told": 1}


async def test_runs_expire_by_tenant(
    finished: Finishing, sweeper: Sweeper, operations: Operations, kept: Archive, runs: AsyncRuns
) -> None:
    """Each tenant's runs are deleted that ended before its retention; without one nothing is."""
    run_ids = {tenant: await finished(tenant=tenant) for tenant in ("short", "long", "other")}
    for run_id in run_ids.values():
        await operations.files.put(run_id, b"a file", "text/plain")
    await sweeper.sweep()

    async def expire(days: dict[str, float] | None, *, at_day: int) -> set[str]:
        given = operations.settings.model_copy(update={"archive_retention_days": days})
        retention = Retention(
            Operations(store=operations.store, settings=given, publisher=operations.publisher)
        )
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(
                "mainstem_shared.operations.archive_upkeep.now_ms", lambda: now_ms() + at_day * DAY_MS
            )
            await retention.expire()
        left = await kept.known(run_ids.values())
        return {tenant for tenant, run_id in run_ids.items() if run_id in left}

    assert await expire(None, at_day=1000) == {"short", "long", "other"}
    assert await expire({"short": 30}, at_day=29) == {"short", "long", "other"}
    assert await expire({"short": 30}, at_day=31) == {"long", "other"}
    assert await expire({"long": 400, "*": 90}, at_day=91) == {"long"}
    assert await operations.files.digests(run_ids["short"]) == []
    assert await operations.files.digests(run_ids["long"]) != []
    assert await kept.deletions.uncleared(before_ms=now_ms() + DAY_MS * 500) == []
    assert await kept.deletions.drop_tombstones(before_ms=now_ms() - DAY_MS) == 0
    assert await kept.deletions.drop_tombstones(before_ms=now_ms() + DAY_MS) == 2


async def test_more_than_a_look_deletes_expires_with_the_next_sweeps(
    finished: Finishing,
    sweeper: Sweeper,
    operations: Operations,
    kept: Archive,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A look deletes a bounded number of runs; the next one comes with the next sweep until nothing is left."""
    run_ids = [await finished() for _ in range(3)]
    await sweeper.sweep()
    given = operations.settings.model_copy(update={"archive_retention_days": {"*": 30.0}})
    retention = Retention(Operations(store=operations.store, settings=given, publisher=operations.publisher))
    monkeypatch.setattr(archive_upkeep, "AT_ONCE", 1)
    monkeypatch.setattr(kept.deletions, "delete_before", partial(kept.deletions.delete_before, limit=1))
    monkeypatch.setattr(archive_upkeep, "now_ms", lambda: now_ms() + 31 * DAY_MS)
    left: list[int] = []
    for _ in range(3):
        await retention.expire_sometimes()
        left.append(len(await kept.known(run_ids)))
    assert left == [2, 1, 0]
    await retention.expire_sometimes()  # finds that nothing is left
    await finished()
    await sweeper.sweep()
    await retention.expire_sometimes()  # the look after that is in ten minutes
    assert await kept.count() == 1


class RefusingFolder(drivers.Folder):
    """Files of which one run's cannot be removed."""

    refused: str | None = None

    def drop(self, run_id: str) -> None:
        if run_id == self.refused:
            raise errors.StoreUnavailable("The blob store refuses: AccessDenied.")
        super().drop(run_id)


async def test_a_deletion_that_cannot_be_finished_holds_up_nothing(
    finished: Finishing,
    sweeper: Sweeper,
    operations: Operations,
    kept: Archive,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Files of one run cannot be removed: all others are, the sweep goes on to its end, and later that run's are."""
    monkeypatch.setattr(deleting, "ABANDONED_MS", -1000)
    folder = RefusingFolder(Path(str(operations.settings.blob_url).removeprefix("file://")))
    object.__setattr__(operations, "files", Files(operations.settings, folder))
    run_ids = sorted([await finished() for _ in range(20)])
    for run_id in run_ids:
        await operations.files.put(run_id, b"a file", "text/plain")
    await sweeper.sweep()
    await kept.deletions.delete(
        [DeletedRun(run_id=run_id, tenant="default", user_id="local", thread_id="t") for run_id in run_ids]
    )
    folder.refused = run_ids[0]

    async def swept() -> list[str]:
        await operations.store.client.delete(keys.SWEEP)
        sweeper.census = None
        await sweeper.sweep()
        assert sweeper.census is not None
        return [one.run_id for one in await kept.deletions.uncleared(before_ms=now_ms() + DAY_MS)]

    assert await swept() == run_ids[:1]
    assert [run_id for run_id in run_ids if await operations.files.digests(run_id)] == run_ids[:1]
    folder.refused = None
    assert await swept() == []
    assert await operations.files.digests(run_ids[0]) == []


async def test_readiness_says_that_the_archive_lags(
    store_url: str, broker_url: str, store: Store, finished: Finishing, tmp_path: Path
) -> None:
    """A gateway whose archive is away is ready, and says for how long a run has waited; its metric, too."""
    run_id = await finished()
    (tmp_path / "away").mkdir()
    address = f"sqlite:///{tmp_path}/away/nothing/archive.db"
    with GatewayThread(store_url, broker_url, archive_url=address, sweep_s=0.2) as gateway:
        async with gateway.client() as http:
            from support.waiting import wait_until_async

            async def lags() -> bool:
                return "archive_lag_s" in (await http.get("/readyz")).json()

            await wait_until_async(lags, description="the gateway to have tried")
            text = (await http.get("/metrics")).text
            (line,) = [li for li in text.splitlines() if li.startswith("mainstem_archive_lag_seconds ")]
            assert float(line.split()[1]) > 0
    assert await store.client.exists(keys.run(run_id).record)


async def test_an_embedded_stack_archives_beside_its_store(tmp_path: Path) -> None:
    """`mainstem up` keeps finished runs in a file of its data directory; every process by these settings finds it."""
    settings = Settings(data_dir=tmp_path)
    assert settings.archive_address is None
    assert settings.retention_ms == settings.retention_s * 1000
    stack = Stack(settings)
    told = {"MAINSTEM_ARCHIVE_URL": f"sqlite:///{tmp_path}/archive.db"}
    assert stack._archive() == told
    assert (tmp_path / "archive.db").stat().st_mode & 0o777 == 0o600
    assert Settings(data_dir=tmp_path).archive_address == told["MAINSTEM_ARCHIVE_URL"]
    found = archive.connect(Settings(data_dir=tmp_path))
    assert found is not None
    assert await found.count() == 0
    await found.close()
    none = Settings(data_dir=tmp_path, archive_url="none")  # type: ignore[arg-type]
    assert (none.archive_address, archive.connect(none), Stack(none)._archive()) == (None, None, {})
    elsewhere = Settings(data_dir=tmp_path, redis_url="redis://h/0")  # type: ignore[arg-type]
    assert elsewhere.archive_address is None


async def test_status_without_anything(operations: Operations, kept: Archive) -> None:
    """An empty archive has nothing, and nothing waits."""
    found = await status(operations, kept)
    assert (found.runs, found.deleting, found.waiting, found.oldest_s) == (0, 0, 0, 0.0)
