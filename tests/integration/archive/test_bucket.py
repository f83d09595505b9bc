"""Blobs in a bucket: moto's server speaks S3's protocol over HTTP, boto3 is the client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from mainstem_api import AsyncRuns
from mainstem_shared import errors
from mainstem_shared.blobs import bucket, drivers
from mainstem_shared.blobs.drivers import Driver, Folder
from mainstem_shared.model import blob_references, ids
from mainstem_shared.operations.performing import Operations
from mainstem_shared.operations.sweeping import Sweeper
from mainstem_shared.settings import Settings
from support.models.finishing import Finishing


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of a server that speaks S3's protocol; it ends with the module."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def blob_url(s3: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty bucket."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    name = f"bucket-{ids.token().lower().replace('_', '')[:20]}"
    boto3.client("s3", endpoint_url=s3, region_name="us-east-1").create_bucket(Bucket=name)
    return f"s3://{name}/some/where?endpoint_url={s3}&region=us-east-1"


@pytest.fixture
def settings(store_url: str, broker_url: str, archive_url: str, blob_url: str) -> Settings:
    """Runs are archived at once; their files are in the bucket."""
    return Settings(
        redis_url=store_url, broker_url=broker_url, sweep_s=3600, archive_url=archive_url, archive_hot_s=0,
        compact_after_s=0, blob_url=blob_url,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_drivers_do_the_same(
    kind: str, blob_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder and a bucket keep, list, give, drop and date the same blobs; neither gives a damaged one."""
    monkeypatch.setattr(bucket, "AT_ONCE", 2)
    driver: Driver = Folder(tmp_path) if kind == "folder" else drivers.of(Settings(blob_url=blob_url))
    one, two = (ids.run_id("default", "t", ids.uuid7()) for _ in range(2))
    data = [f"blob {number}".encode() for number in range(5)]
    names = [blob_references.named(one, some, "text/plain").digest for some in data]
    for name, some in zip(names, data, strict=True):
        driver.put(one, name, some)
        driver.put(one, name, some)
    driver.put(two, names[0], data[0])
    assert driver.digests(one) == sorted(names)
    assert driver.get(one, names[3]) == data[3]
    assert sorted(driver.older_than(-60)) == sorted([one, two])
    assert list(driver.older_than(3600)) == []
    driver.put(two, names[1], b"other bytes")
    for run_id, name in ((two, names[1]), (two, names[4])):
        with pytest.raises(errors.NotFound):
            driver.get(run_id, name)
    driver.drop(one)
    driver.drop(one)
    assert (driver.digests(one), driver.digests(two) != []) == ([], True)


async def test_files_of_archived_runs(
    settings: Settings, operations: Operations, sweeper: Sweeper, finished: Finishing, runs: AsyncRuns
) -> None:
    """A file is read by its run's user only, outlives the move to the archive, and goes with its run."""
    run_id = await finished(user_id="ann", thread_id="t")
    blob = await operations.files.put(run_id, b"a photo", "image/png")
    await sweeper.sweep()
    assert await runs.blob(run_id, blob.digest, user_id="ann") == b"a photo"
    with pytest.raises(errors.NotFound):
        await runs.blob(run_id, blob.digest, user_id="bob")
    assert await runs.delete_thread("t", user_id="ann") == 1
    assert await operations.files.digests(run_id) == []


def test_a_bucket_that_is_not_there(blob_url: str) -> None:
    """A bucket that refuses, or does not answer, is unavailable, and no file is "not found"."""
    for url in (blob_url.replace("bucket-", "none-"), "s3://b?endpoint_url=http://127.0.0.1:9&region=x"):
        with pytest.raises(errors.StoreUnavailable):
            drivers.of(Settings(blob_url=url)).get(ids.run_id("default", "t", ids.uuid7()), "0" * 64)
    with pytest.raises(errors.Misconfigured):
        drivers.of(Settings(blob_url="s3://bucket?secret=x"))
