"""The driver `Bucket` stores blobs, through boto3, in a bucket of S3 or of a compatible service.

An object per blob: `<prefix><thread's tag>/<run>/<digest>`. Who may use the bucket is boto3's own affair:
environment, profile, the machine's role. Imported only where MAINSTEM_BLOB_URL is `s3://…`.
"""

# boto3 makes its clients' methods when it runs.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, Final, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from mainstem_shared import errors
from mainstem_shared.blobs.integrity import checked
from mainstem_shared.model import ids
from mainstem_shared.model.time import now_ms

T = TypeVar("T")

MISSING: Final = frozenset({"NoSuchKey", "404", "NotFound"})
AT_ONCE: Final = 1000
"""Objects that S3 deletes with one request, at most."""
CONFIG: Final = Config(
    connect_timeout=5,
    read_timeout=30,
    retries={"max_attempts": 3, "mode": "standard"},
    max_pool_connections=32,
)


class Bucket:
    """Blobs as objects. Clients of boto3 may be used by several threads at once."""

    def __init__(self, url: str) -> None:
        """Keep them at `s3://bucket/prefix?endpoint_url=https://…&region=…`; connects on first use."""
        parts = urlsplit(url)
        options = parse_qs(parts.query)
        self._bucket = parts.netloc
        self._prefix = f"{unquote(parts.path).strip('/')}/".lstrip("/")
        self._endpoint = options.get("endpoint_url", [None])[0]
        self._region = options.get("region", [None])[0]
        if not self._bucket or set(options) - {"endpoint_url", "region"}:
            raise errors.Misconfigured(
                "MAINSTEM_BLOB_URL: s3://bucket/prefix?endpoint_url=https://…&region=…"
            )

    @cached_property
    def _client(self) -> Any:
        return boto3.client("s3", endpoint_url=self._endpoint, region_name=self._region, config=CONFIG)

    def _of(self, run_id: str) -> str:
        tag, unique = ids.split(run_id)
        return f"{self._prefix}{tag}/{unique}/"

    def put(self, run_id: str, digest: str, data: bytes) -> None:
        """Write the object; the same again changes nothing but its date."""
        _asked(lambda: self._client.put_object(Bucket=self._bucket, Key=self._of(run_id) + digest, Body=data))

    def get(self, run_id: str, digest: str) -> bytes:
        """Read the object."""

        def read() -> bytes:
            found = self._client.get_object(Bucket=self._bucket, Key=self._of(run_id) + digest)
            return found["Body"].read()

        return checked(_asked(read), digest)

    def digests(self, run_id: str) -> list[str]:
        """List the run's objects."""
        return sorted(key.rpartition("/")[2] for key, _ in self._listed(self._of(run_id)))

    def drop(self, run_id: str) -> None:
        """Delete the run's objects."""
        listed = [{"Key": key} for key, _ in self._listed(self._of(run_id))]
        for first in range(0, len(listed), AT_ONCE):
            some = {"Objects": listed[first : first + AT_ONCE], "Quiet": True}
            done = _asked(lambda some=some: self._client.delete_objects(Bucket=self._bucket, Delete=some))
            if done.get("Errors"):
                raise errors.StoreUnavailable("The blob store did not delete all of a run's files.")

    def older_than(self, seconds: float) -> Iterator[str]:
        """Yield runs by the date of their newest object; objects of a run are listed one after the other."""
        before, current, newest = now_ms() / 1000 - seconds, "", 0.0
        for key, at in self._listed(self._prefix):
            tag, unique, _ = key.removeprefix(self._prefix).split("/", 2)
            if current not in ("", f"{tag}_{unique}"):
                if newest < before:
                    yield current
                newest = 0.0
            current, newest = f"{tag}_{unique}", max(newest, at)
        if current and newest < before:
            yield current

    def _listed(self, prefix: str) -> Iterator[tuple[str, float]]:
        """Yield key and date of all objects under a prefix, page by page, in order of the keys."""
        token: dict[str, str] = {}
        while True:
            page = _asked(
                lambda token=token: self._client.list_objects_v2(Bucket=self._bucket, Prefix=prefix, **token)
            )
            for found in page.get("Contents", ()):
                yield found["Key"], found["LastModified"].timestamp()
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}


def _asked(call: Callable[[], T]) -> T:
    """Return what S3 answers.

    Raises:
        NotFound: there is no such object.
        StoreUnavailable: it does not answer, or refuses.
    """
    try:
        return call()
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code in MISSING:
            raise errors.NotFound("No such blob.") from error
        raise errors.StoreUnavailable(f"The blob store refuses: {code}.") from error
    except BotoCoreError as error:
        raise errors.StoreUnavailable("The blob store does not answer; try again.") from error
