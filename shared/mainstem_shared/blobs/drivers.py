"""Drivers store a run's blobs: in a folder of files, in a bucket (`bucket`), or in memory for tests.

Blobs are named by their digest: writing one again changes nothing, and what is read is checked against it.
All calls are blocking; `files` makes them in threads.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from mainstem_shared import errors
from mainstem_shared.blobs.integrity import checked
from mainstem_shared.model import ids
from mainstem_shared.settings import Settings


class Driver(Protocol):
    """Stores blobs."""

    def put(self, run_id: str, digest: str, data: bytes) -> None:
        """Keep a blob of a run; the same again changes nothing."""
        ...

    def get(self, run_id: str, digest: str) -> bytes:
        """Return a blob.

        Raises:
            NotFound: it is not there, or damaged.
        """
        ...

    def digests(self, run_id: str) -> list[str]:
        """Return the digests of a run's blobs, in their order."""
        ...

    def drop(self, run_id: str) -> None:
        """Remove all blobs of a run, if there are any."""
        ...

    def older_than(self, seconds: float) -> Iterator[str]:
        """Yield the runs whose last blob is as old, in no order."""
        ...


class Folder:
    """Blobs as files: `<root>/<thread's tag>/<run>/<digest>`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def _of(self, run_id: str) -> Path:
        tag, unique = ids.split(run_id)
        return self._root / tag / unique

    def put(self, run_id: str, digest: str, data: bytes) -> None:
        """Write the file under another name first: who reads it sees all of it or nothing."""
        target = self._of(run_id) / digest
        if target.exists():
            return
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = target.with_name(f"{digest}.{ids.token()}")
        try:
            with partial.open("xb") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def get(self, run_id: str, digest: str) -> bytes:
        """Read the file."""
        try:
            return checked((self._of(run_id) / digest).read_bytes(), digest)
        except FileNotFoundError:
            raise errors.NotFound("No such blob.") from None

    def digests(self, run_id: str) -> list[str]:
        """Return the names of the files that are whole."""
        folder = self._of(run_id)
        return sorted(path.name for path in folder.glob("*") if "." not in path.name)

    def drop(self, run_id: str) -> None:
        """Remove the run's folder, and its thread's if that is empty."""
        folder = self._of(run_id)
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.parent.rmdir()

    def older_than(self, seconds: float) -> Iterator[str]:
        """Yield runs by the age of their folders, by the file system's own clock."""
        if not self._root.is_dir():
            return
        with tempfile.NamedTemporaryFile(dir=self._root) as now:  # whoever shares it may have another time
            before = os.fstat(now.fileno()).st_mtime - seconds
        for folder in self._root.glob("*/*"):
            with contextlib.suppress(FileNotFoundError):
                if folder.stat().st_mtime < before:
                    yield f"{folder.parent.name}_{folder.name}"


class Memory:
    """Stores blobs in memory, for tests."""

    def __init__(self) -> None:
        self.blobs: dict[tuple[str, str], bytes] = {}

    def put(self, run_id: str, digest: str, data: bytes) -> None:
        """Keep it."""
        self.blobs[run_id, digest] = data

    def get(self, run_id: str, digest: str) -> bytes:
        """Return it."""
        try:
            return self.blobs[run_id, digest]
        except KeyError:
            raise errors.NotFound("No such blob.") from None

    def digests(self, run_id: str) -> list[str]:
        """Return the run's."""
        return sorted(digest for owner, digest in self.blobs if owner == run_id)

    def drop(self, run_id: str) -> None:
        """Forget the run's."""
        self.blobs = {key: data for key, data in self.blobs.items() if key[0] != run_id}

    def older_than(self, seconds: float) -> Iterator[str]:
        """Yield nothing: nothing is old."""
        del seconds
        yield from ()


def of(settings: Settings) -> Driver:
    """Return the driver that MAINSTEM_BLOB_URL names; without it, files beside the embedded server's.

    Raises:
        Misconfigured: it names none that there is.
    """
    if settings.blob_url is None:
        return Folder(settings.data_dir / "blobs")
    parts = urlsplit(settings.blob_url)
    if parts.scheme == "file" and parts.path and not parts.netloc:
        return Folder(Path(unquote(parts.path)))
    if parts.scheme == "s3":
        return _bucket(settings.blob_url)
    raise errors.Misconfigured("MAINSTEM_BLOB_URL: file:///path, which all processes share, or s3://bucket.")


def _bucket(url: str) -> Driver:
    try:
        from mainstem_shared.blobs.bucket import Bucket
    except ImportError as error:
        raise errors.Misconfigured(
            f"MAINSTEM_BLOB_URL needs {error.name}: pip install 'mainstem[s3]'."
        ) from error
    return Bucket(url)
